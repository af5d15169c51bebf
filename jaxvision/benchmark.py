"""How fast a config trains here: the bare compiled step against the engine around it, and the input alone."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from jaxvision import experiment as experiments
from jaxvision.data.build import build_data
from jaxvision.data.prefetch import prefetch
from jaxvision.engine.distributed import StopRequest
from jaxvision.engine.hooks import Evaluate, Log, Profile, Save
from jaxvision.engine.loop import Hooks, fit
from jaxvision.engine.report import StepReport, report_step


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """Figures of one config on these devices.

    Attributes:
      batch_size: global batch.
      devices: what it ran on.
      compile_seconds: time to lower and compile the step.
      step_seconds: median time of the bare compiled step on a batch that lies on the device.
      loop_seconds: median time per step of the whole loop: loader, prefetch, hooks, a log record every 50 steps.
      overhead: median over pairs of loop / bare - 1.
      input_wait: share of the loop's time spent waiting for the input.
      report: parameters, operations, memory.
    """

    batch_size: int
    devices: str
    compile_seconds: float
    step_seconds: float
    loop_seconds: float
    overhead: float
    input_wait: float
    report: StepReport

    def lines(self) -> list[str]:
        """Plain lines for the console."""
        flops = self.report.flops or 0.0
        rate, loop_rate = self.batch_size / self.step_seconds, self.batch_size / self.loop_seconds
        return [
            *self.report.lines(),
            f"devices: {self.devices}; global batch {self.batch_size}",
            f"compile: {self.compile_seconds:.1f} s",
            f"bare step: {1000 * self.step_seconds:.2f} ms, {rate:,.1f} images/s, "
            f"{flops / self.step_seconds / 1e9:,.1f} GFLOP/s",
            f"whole loop: {1000 * self.loop_seconds:.2f} ms per step, {loop_rate:,.1f} images/s, "
            f"{100 * self.overhead:+.2f}% over the bare step, input wait {100 * self.input_wait:.1f}%",
        ]


def benchmark(config: Any, *, steps: int = 50, rounds: int = 5) -> Benchmark:
    """Measures a config; trains a few hundred steps and writes nothing.

    Args:
      config: completed config.
      steps: steps per measurement.
      rounds: pairs of measurements, bare step and loop in turn.
    """
    run = experiments.build(config)
    state = run.create()
    batch = run.parallel.place(run.example)
    start = time.perf_counter()
    step = run.train_step().lower(state, batch).compile()
    compile_seconds = time.perf_counter() - start
    report = report_step(state, step, run.parallel.shares)
    bare, loop, waits = [], [], []
    for number in range(rounds + 1):
        state, seconds = _bare(step, state, batch, steps)
        bare.append(seconds / steps)
        state, seconds, waited = _loop(run, step, state, steps, number * steps)
        loop.append(seconds / steps)
        waits.append(waited / seconds)
    device = run.parallel.devices[0]
    return Benchmark(
        batch_size=config.data.batch_size,
        devices=f"{run.parallel.shares} x {device.device_kind} ({device.platform})",
        compile_seconds=compile_seconds,
        step_seconds=statistics.median(bare[1:]),
        loop_seconds=statistics.median(loop[1:]),
        overhead=statistics.median(b / a for a, b in zip(bare[1:], loop[1:], strict=True)) - 1.0,
        input_wait=statistics.median(waits[1:]),
        report=report,
    )


@dataclasses.dataclass(frozen=True)
class InputSpeed:
    """How fast the input of a config is, with nothing else running.

    Attributes:
      batch_size: global batch.
      image_shape: of one image.
      gathered: images per second from the loader, on one thread.
      placed: images per second behind `prefetch`, on the devices.
    """

    batch_size: int
    image_shape: tuple[int, ...]
    gathered: float
    placed: float

    def lines(self) -> list[str]:
        """One plain line for the console."""
        shape = "x".join(map(str, self.image_shape))
        return [
            f"input: batches of {self.batch_size} images {shape}: {self.gathered:,.0f} images/s gathered, "
            f"{self.placed:,.0f} images/s placed on the device"
        ]


def measure_input(config: Any, *, seconds: float = 1.0, rounds: int = 5) -> InputSpeed:
    """Measures the training input of a config: the best of `rounds`, each `seconds` long, both ways in turn."""
    devices = experiments.prepare(config)
    loader = build_data(config.data, config.seed, jax.process_index(), jax.process_count()).train
    gathered, placed = [], []
    for _ in range(rounds):
        gathered.append(_rate(loader.train(), seconds))
        with prefetch(loader.train(), devices.place, config.data.prefetch) as batches:
            placed.append(_rate(batches, seconds))
    batch = loader.batch_size
    return InputSpeed(batch, loader.example_batch()["image"].shape[1:], batch * max(gathered), batch * max(placed))


def _rate(batches: Iterator[Any], seconds: float) -> float:
    """Batches per second."""
    jax.block_until_ready(next(batches))
    start = time.perf_counter()
    count, passed = 0, 0.0
    while passed < seconds:
        jax.block_until_ready(next(batches))
        count, passed = count + 1, time.perf_counter() - start
    return count / passed


def _bare(step: Callable[..., Any], state: Any, batch: Any, steps: int) -> tuple[Any, float]:
    start = time.perf_counter()
    for _ in range(steps):
        state, metrics = step(state, batch)
    jax.block_until_ready(metrics)
    return state, time.perf_counter() - start


def _loop(run: experiments.Experiment, step: Any, state: Any, steps: int, first: int) -> tuple[Any, float, float]:
    with prefetch(run.data.train.train(first), run.parallel.place, run.config.data.prefetch) as batches:
        last = first + steps
        log = Log(
            write=lambda *record: None,
            advance=lambda *shown: None,
            every=50,
            total_steps=last,
            batch_size=run.config.data.batch_size,
            input_wait=lambda: batches.wait_seconds,
        )
        evaluate = Evaluate(lambda state: {}, lambda *record: None, log, None, last + 1)
        hooks = Hooks(
            profile=Profile(""),
            log=log,
            evaluate=evaluate,
            save=Save(lambda *record: None, log, evaluate, None, last + 1),
            finish=lambda *record: None,
        )
        start = time.perf_counter()
        state = fit(state, step, batches, first_step=first, total_steps=last, hooks=hooks, stop=StopRequest())
        jax.block_until_ready(state.step)
        np.asarray(state.step)
        return state, time.perf_counter() - start, batches.wait_seconds
