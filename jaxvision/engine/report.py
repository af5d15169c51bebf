"""What a run is made of, said before it starts: parameters, operations and memory of one step."""

import dataclasses
from typing import Any

import jax

from jaxvision import trees
from jaxvision.engine.state import TrainState


@dataclasses.dataclass(frozen=True)
class StepReport:
    """Size of a compiled train step.

    Attributes:
      parameters: number of all parameters, frozen ones included.
      trained: number of the parameters that are trained.
      state_bytes: the train state on each device.
      flops: floating-point operations of one step over all devices, None where the compiler does not say.
      bytes_accessed: memory traffic of one step over all devices, None likewise.
      temporary_bytes: scratch memory of one step on each device, None likewise.
    """

    parameters: int
    trained: int
    state_bytes: int
    flops: float | None
    bytes_accessed: float | None
    temporary_bytes: int | None

    def lines(self) -> list[str]:
        """Plain lines for the console."""
        frozen = f", {self.parameters - self.trained:,} of them frozen" if self.parameters != self.trained else ""
        lines = [f"parameters: {self.parameters:,}{frozen}; state {_size(self.state_bytes)} on each device"]
        if self.flops:
            traffic = f", {_size(self.bytes_accessed)} moved" if self.bytes_accessed else ""
            scratch = f", {_size(self.temporary_bytes)} of scratch memory" if self.temporary_bytes is not None else ""
            lines.append(f"one step: {self.flops / 1e9:,.2f} GFLOP{traffic}{scratch}")
        return lines


def report_step(state: TrainState, compiled: Any, devices: int) -> StepReport:
    """Measures a compiled step.

    Args:
      state: what it trains.
      compiled: result of `.lower(...).compile()`.
      devices: how many devices run it; the compiler counts one.
    """
    costs = compiled.cost_analysis() or {}
    memory = compiled.memory_analysis()
    flops, traffic = costs.get("flops"), costs.get("bytes accessed")
    return StepReport(
        parameters=_count(state.params) + _count(state.frozen),
        trained=_count(state.params),
        state_bytes=trees.byte_size(state.replace(rng=None)),
        flops=None if flops is None else flops * devices,
        bytes_accessed=None if traffic is None else traffic * devices,
        temporary_bytes=None if memory is None else memory.temp_size_in_bytes,
    )


def _count(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def _size(count: float | None) -> str:
    if count is None:
        return "?"
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} TB"
