"""The training loop: the only one, for every direction."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax

from jaxvision.engine.distributed import StopRequest
from jaxvision.engine.hooks import Evaluate, Log, Profile, Save
from jaxvision.engine.state import TrainState
from jaxvision.engine.step import TrainStep
from jaxvision.engine.task import Batch


@dataclasses.dataclass(frozen=True)
class Hooks:
    """The fixed places where something else than a step happens, in this order."""

    profile: Profile
    log: Log
    evaluate: Evaluate
    save: Save
    finish: Callable[[int, TrainState, str | None], None]


def fit(
    state: TrainState,
    train_step: TrainStep,
    batches: Iterator[Batch],
    *,
    first_step: int,
    total_steps: int,
    hooks: Hooks,
    stop: StopRequest,
) -> TrainState:
    """Trains from `first_step` completed updates to `total_steps`.

    Args:
      state: replicated; its memory is donated to the first step.
      train_step: mapped and compiled, (state, batch) -> (state, metrics).
      batches: placed device batches, endless.
      first_step: updates that `state` has seen.
      total_steps: where training ends.
      hooks: what happens beside the steps.
      stop: asks to stop after a step, on all processes alike.

    Returns:
      The last state.
    """
    reason: str | None = None
    metrics: Any = {}
    step = first_step
    for step in range(first_step + 1, total_steps + 1):
        batch = next_batch(batches, step)
        hooks.profile(step, state, metrics)
        with jax.transfer_guard("disallow"), jax.profiler.StepTraceAnnotation("train", step_num=step):
            state, metrics = train_step(state, batch)
        hooks.log(step, state, metrics)
        ended = hooks.evaluate(step, state, metrics)
        # A run that ends here has no next step to resume from, whoever asked it to stop.
        stopping = ended is None and step < total_steps and stop.due(step)
        hooks.save(step, state, metrics, ended=ended, stopping=stopping)
        if ended or stopping:
            reason = ended or f"stopped by {stop.signal}"
            break
    hooks.finish(step, state, reason)
    return state


def next_batch(batches: Iterator[Batch], step: int) -> Batch:
    """The next batch; a clear error where the input ends before the run does."""
    try:
        return next(batches)
    except StopIteration:
        raise RuntimeError(f"the training data ended before step {step}: a training input must repeat") from None
