"""What happens beside the step: logging, evaluation, checkpoints, profiles. Each hook is called at one fixed place.

A hook is a function of (step, state, metrics). It may return a sentence: the reason why training stops here.
No hook keeps a state across steps, since its memory is donated to the next one.
"""

import dataclasses
import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from jaxvision.engine.metrics import StepMetrics
from jaxvision.engine.state import TrainState
from jaxvision.errors import SetupError, UserError

RUN_AHEAD = 4
"""Half the steps that may be queued on the device; bounds the memory of waiting batches."""


class NonFiniteError(UserError, RuntimeError):
    """A loss or gradient was not finite; its update was dropped and training stopped."""


@dataclasses.dataclass
class Log:
    """Averages metrics over a window, checks that they are finite, and writes them.

    Attributes:
      write: receives (step, "train", values) at the end of a window.
      advance: receives (step, latest values) after each step, for a progress bar.
      every: length of a window in steps.
      total_steps: the last step ends a window too.
      batch_size: global batch, for the images per second.
      input_wait: seconds that training has waited for its input so far.
      samples: ids of the samples of a step's global batch, to name those of a bad one.
      objectives: their names in the order of their updates, where there are several: the first bad one is the cause.
    """

    write: Callable[[int, str, dict[str, float]], None]
    advance: Callable[[int, Mapping[str, float]], None]
    every: int
    total_steps: int
    batch_size: int
    input_wait: Callable[[], float] = lambda: 0.0
    samples: Callable[[int], np.ndarray] = lambda step: np.zeros(0, int)
    objectives: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.sums: dict[str, tuple[float, float]] = {}
        self._waiting: deque[tuple[int, StepMetrics]] = deque()
        self._shown: dict[str, float] = {}
        self._clock = (time.perf_counter(), self.input_wait(), 0)

    def __call__(self, step: int, state: TrainState, metrics: StepMetrics) -> None:
        self._waiting.append((step, metrics))
        # Not after every step: waking up for each of them costs a millisecond where the step's threads fill the CPU.
        if len(self._waiting) % RUN_AHEAD == 0 and len(self._waiting) > RUN_AHEAD:
            self._waiting[-1 - RUN_AHEAD][1].sums.block_until_ready()
        started, waited, count = self._clock
        self._clock = (started, waited, count + 1)
        if step % self.every == 0 or step == self.total_steps:
            self.flush()
            values = self._means()
            seconds = max(time.perf_counter() - started, 1e-9)
            values["images_per_second"] = (count + 1) * self.batch_size / seconds
            values["input_wait"] = min((self.input_wait() - waited) / seconds, 1.0)
            self.write(step, "train", values)
            self._shown = values
            self.sums = {}
            self.restart_clock()
        self.advance(step, self._shown)

    def restart_clock(self) -> None:
        """Leaves time spent elsewhere (evaluation, saving) out of the next window's speed."""
        self._clock = (time.perf_counter(), self.input_wait(), 0)

    def flush(self) -> None:
        """Waits for every queued step and adds its metrics to the window's sums."""
        waiting, self._waiting = list(self._waiting), deque()
        fetched = jax.device_get([metrics for _, metrics in waiting])
        for (step, _), metrics in zip(waiting, fetched, strict=True):
            self._take(step, metrics)

    def _means(self) -> dict[str, float]:
        return {name: total / count for name, (total, count) in self.sums.items() if count > 0 and name != "finite"}

    def _take(self, step: int, metrics: StepMetrics) -> None:
        fetched = {name: (float(total), float(count)) for name, (total, count) in metrics.items()}
        bad = [name for name, (total, count) in fetched.items() if not math.isfinite(total) or not math.isfinite(count)]
        if bad or fetched.get("finite", (1.0, 1.0))[0] == 0.0:
            raise NonFiniteError(self._describe(step, fetched, bad))
        for name, (total, count) in fetched.items():
            before = self.sums.get(name, (0.0, 0.0))
            self.sums[name] = (before[0] + total, before[1] + count)

    def _describe(self, step: int, fetched: Mapping[str, tuple[float, float]], bad: list[str]) -> str:
        ids = self.samples(step)
        shown = ", ".join(str(i) for i in ids[:32]) + (" ..." if len(ids) > 32 else "")
        # A gradient is bad wherever its loss is; metrics come in the order of their names.
        name = min(bad, key=lambda name: (self._place(name), "grad_norm" in name, bad.index(name)), default="an update")
        value = fetched[name][0] if bad else math.nan
        dropped = fetched.get("finite", (0.0, 1.0))[0] == 0.0
        return (
            f"step {step}: {name} is {value}; {'the update was dropped and ' if dropped else ''}training stopped. "
            f"Samples of this batch: {shown or 'unknown'}. Look at them, lower the learning rate or set "
            "--config.schedule.clip_norm=1.0; --config.log.debug_nans=true runs until the first bad operation."
        )

    def _place(self, name: str) -> int:
        """Of the objective that a metric belongs to."""
        return next((i for i, own in enumerate(self.objectives) if name.startswith(f"{own}/")), 0)


@dataclasses.dataclass
class Evaluate:
    """Evaluates every so many steps and at the end, and stops early where nothing improves any more.

    Attributes:
      run: evaluates a state; returns {name: float or array}.
      write: receives (step, "eval", scalar values).
      log: checked for bad steps before an evaluation, whose time does not count for its speed.
      every: steps between evaluations; None evaluates at the end only.
      total_steps: the last step is always evaluated.
      metric, mode, patience, min_delta: early stopping: stop after `patience` evaluations in which the metric did not
        improve by more than `min_delta`.
    """

    run: Callable[[TrainState], dict[str, Any]]
    write: Callable[[int, str, dict[str, float]], None]
    log: Log
    every: int | None
    total_steps: int
    metric: str | None = None
    mode: str = "max"
    patience: int = 0
    min_delta: float = 0.0

    def __post_init__(self) -> None:
        self.last: tuple[int, dict[str, Any]] | None = None
        self.best: float | None = None
        self.stale = 0

    def __call__(self, step: int, state: TrainState, metrics: StepMetrics) -> str | None:
        if step != self.total_steps and (self.every is None or step % self.every):
            return None
        self.log.flush()
        results = self.run(state)
        self.log.restart_clock()
        values = scalar_values(results)
        self.last = (step, results)
        self.write(step, "eval", values)
        return self._stop_early(values)

    def _stop_early(self, values: Mapping[str, float]) -> str | None:
        if self.metric is None:
            return None
        if self.metric not in values:
            raise SetupError(f"early_stopping.metric={self.metric!r} is not evaluated; there are {sorted(values)}")
        value = values[self.metric] if self.mode == "max" else -values[self.metric]
        if not math.isnan(value) and (self.best is None or value > self.best + self.min_delta):
            self.best, self.stale = value, 0
        else:
            self.stale += 1
        if self.stale < self.patience:
            return None
        return f"early stop: {self.metric} has not improved for {self.stale} evaluations"


@dataclasses.dataclass
class Save:
    """Saves a checkpoint every so many steps, at the end, where training stops, and after the best evaluation so far.

    Attributes:
      save: receives (step, state, extra, scalar results of an evaluation at this very step or None).
      log, evaluate: their running values go into `extra`, so that a resumed run writes the same history.
      every: steps between checkpoints; None saves at the end only.
      total_steps: the last step is always saved.
      best_metric, best_mode: a scalar result of evaluations, and whether "max" or "min" of it is the best.
    """

    save: Callable[[int, TrainState, dict[str, Any], dict[str, float] | None], None]
    log: Log
    evaluate: Evaluate
    every: int | None
    total_steps: int
    best_metric: str | None = None
    best_mode: str = "max"

    def __post_init__(self) -> None:
        self.best: float | None = None

    def __call__(
        self, step: int, state: TrainState, metrics: StepMetrics, *, ended: str | None = None, stopping: bool = False
    ) -> None:
        """Saves where it is time; always where the run has `ended` for this reason, or is `stopping` to be resumed."""
        last = self.evaluate.last
        results = scalar_values(last[1]) if last is not None and last[0] == step else None
        best = results is not None and self._is_best(results)
        due = step == self.total_steps or (self.every is not None and step % self.every == 0)
        if not (due or best or ended or stopping):
            return
        self.log.flush()
        extra = {
            "window": {name: list(value) for name, value in self.log.sums.items()},
            "early_stopping": [self.evaluate.best, self.evaluate.stale],
            "best": self.best,
            "ended": ended,
        }
        self.save(step, state, extra, results)
        self.log.restart_clock()

    def restore(self, extra: Mapping[str, Any]) -> None:
        """Puts the running values of a checkpoint back."""
        self.log.sums = {name: (float(a), float(b)) for name, (a, b) in extra.get("window", {}).items()}
        self.evaluate.best, self.evaluate.stale = extra.get("early_stopping", (None, 0))
        self.best = extra.get("best")

    def _is_best(self, results: Mapping[str, float]) -> bool:
        if self.best_metric is None:
            return False
        if self.best_metric not in results:
            raise SetupError(
                f"checkpoint.best_metric={self.best_metric!r} is not evaluated; there are {sorted(results)}"
            )
        value = results[self.best_metric]
        sign = 1.0 if self.best_mode == "max" else -1.0
        if math.isnan(value) or (self.best is not None and sign * value <= sign * self.best):
            return False
        self.best = value
        return True


@dataclasses.dataclass
class Profile:
    """Writes a profile of the steps `first`, ..., `first + count - 1` for TensorBoard or Perfetto.

    Called before each step, unlike the other hooks. A run that resumes after `first` writes none.

    Attributes:
      directory: where the trace goes.
      first: the first profiled step, from 1; None for no profile.
      count: how many steps.
    """

    directory: str
    first: int | None = None
    count: int = 3

    def __post_init__(self) -> None:
        self.running = False

    def __call__(self, step: int, state: TrainState, metrics: StepMetrics) -> None:
        if self.first is None:
            return
        if self.running and step == self.first + self.count:
            jax.block_until_ready((state, metrics))
            self.close()
        if step == self.first:
            jax.block_until_ready((state, metrics))
            jax.profiler.start_trace(self.directory)
            self.running = True

    def close(self) -> None:
        """Ends a trace that the run did not finish."""
        if self.running:
            self.running = False
            jax.profiler.stop_trace()


def scalar_values(results: Mapping[str, Any]) -> dict[str, float]:
    """The scalars among evaluation results."""
    return {name: float(value) for name, value in results.items() if np.ndim(value) == 0}
