"""Whether a step fits into the memory of a chip, and what to change when it does not.

Estimates take the state as fixed and the temporaries as proportional to the images that a chip works on at once: true
of activations, nearly true of the rest. They are upper bounds for small batches, where padding to tiles weighs more
only for the smallest.
"""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from jaxvision.deploy.topology import CHIPS, GIB, Topology

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_REFUSALS = (
    re.compile(r"HLO temporaries \(([\d.]+[KMGT]?)B?\) exceeds"),
    re.compile(r"Used ([\d.]+[KMGT]?)B? of [\d.]+[KMGT]?B? hbm", re.IGNORECASE),
)
"""What libtpu says, today's first. Programs of known needs show: its "temporaries" are arguments and results too."""


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of one chip.

    Attributes:
      arguments: the train state and the chip's share of the batch.
      outputs: results that do not take the place of an argument.
      temporaries: everything between.
      program: the code.
      limit: what there is.
      refused: whether the compiler gave up, so that the figures are what it said it needs.
    """

    arguments: int
    outputs: int
    temporaries: int
    program: int
    limit: int
    refused: bool = False

    @property
    def total(self) -> int:
        return self.arguments + self.outputs + self.temporaries + self.program

    @property
    def fits(self) -> bool:
        return not self.refused and self.total <= self.limit


def refusal(message: str, arguments: int, limit: int) -> Memory | None:
    """What the TPU compiler's error says that a program needs; None where it is about something else.

    Args:
      message: of the error.
      arguments: bytes of the program's arguments on a chip.
      limit: of a chip.
    """
    for pattern in _REFUSALS:
        found = pattern.search(message)
        if found:
            return Memory(arguments, 0, max(0, _bytes(found.group(1)) - arguments), 0, limit, refused=True)
    return None


def _bytes(text: str) -> int:
    unit = text[-1] if text[-1] in _UNITS else ""
    return round(float(text.removesuffix(unit)) * _UNITS[unit])


@dataclasses.dataclass(frozen=True)
class Change:
    """Something that saves memory.

    Attributes:
      what: in words.
      option: for the command line.
      total: bytes of a chip then; None where only compiling tells.
      limit: of the chip that is then used.
      compiled: whether the figure is the compiler's, not an estimate.
    """

    what: str
    option: str
    total: int | None
    limit: int
    compiled: bool = False

    def line(self) -> str:
        """One plain line."""
        if self.total is None:
            figure = "saves what only compiling tells (--try)"
        else:
            verdict = "fits" if self.total <= self.limit else "does not fit"
            origin = "compiled" if self.compiled else "estimated"
            figure = f"{self.total / GIB:.2f} of {self.limit / GIB:.2f} GiB, {verdict} ({origin})"
        return f"{self.what}: {self.option}: {figure}"


def largest_batch(memory: Memory, batch_per_chip: int, accumulate: int) -> int:
    """The largest power of two of images per chip that is estimated to fit, at least `accumulate`; 0 where none is."""
    free = memory.limit - (memory.total - memory.temporaries)
    most = free * batch_per_chip / max(memory.temporaries, 1)
    if most < accumulate:
        return 0
    return min(batch_per_chip, accumulate * 2 ** int(math.log2(most / accumulate)))


def changes(
    memory: Memory,
    topology: Topology,
    *,
    batch_per_chip: int,
    accumulate: int,
    precision: str,
    model: Mapping[str, Any],
) -> tuple[Change, ...]:
    """What to change, the least costly first; nothing where the step fits.

    Args:
      memory: of the step as it is.
      topology: of the plan.
      batch_per_chip: images of a chip and update.
      accumulate, precision: the config's.
      model: the config's, as plain data; parts that can recompute say so by a key `remat`.
    """
    if memory.fits:
        return ()
    fixed = memory.total - memory.temporaries
    return tuple(_changes(memory, fixed, topology, batch_per_chip, accumulate, precision, model))


def _changes(
    memory: Memory,
    fixed: int,
    topology: Topology,
    batch: int,
    accumulate: int,
    precision: str,
    model: Mapping[str, Any],
) -> Iterator[Change]:
    limit = memory.limit
    if precision == "float32":
        what = "activations in bfloat16, parameters in float32"
        yield Change(what, "--config.precision=bf16", fixed + memory.temporaries // 2, limit)
    for path in remat_switches(model):
        yield Change("activations recomputed in the backward pass", f"--config.{path}=True", None, limit)
    smaller = largest_batch(memory, batch, accumulate)
    if smaller and smaller < batch:
        total = fixed + memory.temporaries * smaller // batch
        yield Change("fewer images on a chip", f"--batch-per-chip={smaller}", total, limit)
        parts = (n for n in range(2, batch + 1) if batch % (accumulate * n) == 0)
        times = next((n for n in parts if batch // n <= smaller), None)
        if times:
            option = f"--config.schedule.accumulate={accumulate * times}"
            yield Change(
                "the same batch in parts, one after the other", option, fixed + memory.temporaries // times, limit
            )
    larger = topology.larger()
    while larger is not None and smaller:
        share = batch * topology.chips // larger.chips
        if share <= smaller and share >= accumulate:
            option = f"--topology={larger.name} --batch-per-chip={share}"
            yield Change("the same batch on more chips", option, fixed + memory.temporaries * share // batch, limit)
            break
        larger = larger.larger()
    for chip in sorted(CHIPS.values(), key=lambda chip: chip.memory_gib):
        shape = next((shape for shape in chip.slices if math.prod(shape) == topology.chips), None)
        if chip.memory_gib * GIB >= max(memory.total, limit + 1) and shape:
            option = f"--topology={Topology(chip, shape).name}"
            yield Change("chips with more memory", option, memory.total, round(chip.memory_gib * GIB))
            break


def remat_switches(model: Mapping[str, Any], path: str = "model") -> list[str]:
    """Dotted paths of every `remat` of a model that is off."""
    found = []
    for key, value in model.items():
        if key == "remat" and value is False:
            found.append(f"{path}.{key}")
        elif isinstance(value, Mapping):
            found += remat_switches(value, f"{path}.{key}")
    return found
