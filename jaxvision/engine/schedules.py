"""Learning-rate schedules by name, and the warm-up that multiplies any of them.

A constructor (`cosine(0.1)`) describes a schedule; `make_schedule` turns it, once the length of the run is known,
into a function of the step. The curves are those of `torch.optim.lr_scheduler`, written in closed form. What differs:

- The arithmetic on steps is done in int32, and a curve is a function of the exact number of steps that remain. The
  float32 result is therefore within 1e-6 (relative) of the closed form in float64 at every step below 2**31;
  `exponential` within 4e-6.
- Warm-up overlaps the schedule, as in OpenMMLab's chained schedulers: rate(step) = warm-up factor(step) * curve(step),
  and the curve runs from step 0. The other convention (torch's SequentialLR, big_vision) lets the curve begin where
  warm-up ends; write it as `cosine(value, start=5)` beside `warmup=5`: before `start` a curve holds its first value.
- `one_cycle` leaves the momentum alone.
"""

import dataclasses
import difflib
import math
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
import optax
from absl import logging
from jaxtyping import Array, Float, Int

Schedule = Callable[[Int[Array, ""]], Float[Array, ""]]
"""int32 step, counted from 0 -> float32 learning rate; traceable."""

UNITS = ("epochs", "steps")
WARMUPS = ("linear", "quadratic", "constant", "exponential")


@dataclasses.dataclass(frozen=True)
class Horizon:
    """The length of a run, which turns amounts in epochs into steps."""

    total_steps: int
    steps_per_epoch: int

    def __post_init__(self):
        for field in ("total_steps", "steps_per_epoch"):
            if not 1 <= getattr(self, field) < 2**31:
                raise ValueError(f"{field} is {getattr(self, field)}; expected 1 .. 2**31 - 1")

    def steps(self, amount: float, unit: str) -> int:
        """`amount` epochs or steps, rounded to the nearest whole step and capped at the largest int32."""
        per_unit = self.steps_per_epoch if one_of("unit", unit, UNITS) == "epochs" else 1
        return min(round(amount * per_unit), 2**31 - 1)


@dataclasses.dataclass(frozen=True)
class LearningRate:
    """A described schedule.

    Attributes:
      name: its registered name.
      value: its highest rate.
      curve: horizon -> schedule.
      by: "steps", or "epochs" where the curve is read at the first step of each epoch and held.
      plateau: horizon -> optax transformation whose state holds a factor of the rate and learns from the extra
        argument `value`; None for a schedule that depends on the step alone.
    """

    name: str
    value: float
    curve: Callable[[Horizon], Schedule]
    by: str = "steps"
    plateau: Callable[[Horizon], optax.GradientTransformationExtraArgs] | None = None


def constant(value: float) -> LearningRate:
    """`value` at every step."""
    _check_rates(value=value)
    return LearningRate("constant", value, lambda horizon: lambda step: jnp.full((), value, jnp.float32))


def step(value: float, milestones: Sequence[float], gamma: float = 0.1, unit: str = "epochs") -> LearningRate:
    """Multiplied by `gamma` at each of `milestones`, in `unit` (torch: MultiStepLR).

    A milestone at or after the end of the run is reported and has no effect.
    """
    _check_rates(value=value)
    _check_positive(gamma=gamma)
    one_of("unit", unit, UNITS)
    if list(milestones) != sorted(milestones) or any(milestone < 0 for milestone in milestones):
        raise ValueError(f"milestones are {tuple(milestones)}; expected non-negative numbers in increasing order")

    def curve(horizon: Horizon) -> Schedule:
        boundaries = [horizon.steps(milestone, unit) for milestone in milestones]
        late = [m for m, boundary in zip(milestones, boundaries, strict=True) if boundary >= horizon.total_steps]
        if late:
            length = f"{horizon.total_steps} steps, {horizon.steps_per_epoch} per epoch"
            logging.warning("learning rate: milestones %s (%s) lie after the end of the run (%s)", late, unit, length)
        rates = [value * gamma**i for i in range(len(boundaries) + 1)]
        return _piecewise_constant(boundaries, rates)

    return LearningRate("step", value, curve)


def cosine(
    value: float,
    end: float = 0.0,
    start: float = 0.0,
    stop: float | None = None,
    unit: str = "epochs",
    by: str = "steps",
) -> LearningRate:
    """Half a cosine from `value` at `start` to `end` at `stop` (torch: CosineAnnealingLR).

    Args:
      value: rate up to `start`.
      end: rate from `stop` on.
      start: when the descent begins, in `unit`.
      stop: when it is complete, in `unit`; None: at the end of the run.
      unit: "epochs" or "steps".
      by: "steps", or "epochs" to change the rate once per epoch.
    """
    # cos^2 of the elapsed part, as sin^2 of the remaining one, which keeps its relative precision near the end
    return _descent("cosine", lambda left: jnp.square(jnp.sin(0.5 * math.pi * left)), value, end, start, stop, unit, by)


def polynomial(
    value: float,
    power: float = 1.0,
    end: float = 0.0,
    start: float = 0.0,
    stop: float | None = None,
    unit: str = "epochs",
    by: str = "steps",
) -> LearningRate:
    """`end + (value - end) * remaining ** power`; arguments as in `cosine` (torch: PolynomialLR, where end is 0)."""
    _check_positive(power=power)
    return _descent("polynomial", lambda left: left**power, value, end, start, stop, unit, by)


def linear(
    value: float,
    end: float = 0.0,
    start: float = 0.0,
    stop: float | None = None,
    unit: str = "epochs",
    by: str = "steps",
) -> LearningRate:
    """A straight line from `value` to `end`; arguments as in `cosine` (torch: LinearLR)."""
    return _descent("linear", lambda left: left, value, end, start, stop, unit, by)


def one_cycle(
    value: float,
    pct_start: float = 0.3,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
    anneal: str = "cosine",
) -> LearningRate:
    """From `value / div_factor` up to `value` during the share `pct_start` of the run, then far down.

    The last step of the run has `value / div_factor / final_div_factor` (Smith and Topin 2017; torch: OneCycleLR with
    two phases). `anneal` is "cosine" or "linear".
    """
    _check_rates(value=value)
    _check_positive(div_factor=div_factor, final_div_factor=final_div_factor)
    one_of("anneal", anneal, ("cosine", "linear"))
    if not 0.0 <= pct_start <= 1.0:
        raise ValueError(f"pct_start is {pct_start}; expected a share of the run, 0 .. 1")
    first, last = value / div_factor, value / div_factor / final_div_factor

    def curve(horizon: Horizon) -> Schedule:
        final = horizon.total_steps - 1
        peak = pct_start * horizon.total_steps - 1  # torch's convention: a phase ends on its own last step

        def rate(step: Int[Array, ""]) -> Float[Array, ""]:
            step = jnp.asarray(step, jnp.int32)
            up = jnp.clip(step.astype(jnp.float32) / max(peak, 1e-12), 0.0, 1.0)
            left = (final - jnp.minimum(step, final)).astype(jnp.float32) / max(final - peak, 1e-12)
            if anneal == "cosine":
                up, left = (jnp.square(jnp.sin(0.5 * math.pi * x)) for x in (up, left))
            rising = first + (value - first) * up
            falling = last + (value - last) * left
            # An integer comparison: float32 does not tell neighbouring steps apart from 2**24 on.
            return jnp.where(step <= math.floor(peak), rising, falling)

        return rate

    return LearningRate("one_cycle", value, curve)


def exponential(value: float, gamma: float, every: float = 1.0, unit: str = "epochs") -> LearningRate:
    """Multiplied by `gamma` after each `every` epochs or steps, and held in between (torch: ExponentialLR)."""
    _check_rates(value=value)
    _check_positive(gamma=gamma, every=every)
    one_of("unit", unit, UNITS)
    if gamma > 1.0:
        raise ValueError(f"gamma is {gamma}; expected at most 1, the rate must not grow")
    # gamma ** n as a product over the bits of n: float32 `pow` loses precision with the size of its exponent
    powers = np.asarray([gamma ** (2.0**bit) for bit in range(31)], np.float32)

    def curve(horizon: Horizon) -> Schedule:
        interval = max(1, horizon.steps(every, unit))

        def rate(step: Int[Array, ""]) -> Float[Array, ""]:
            times = jnp.asarray(step, jnp.int32) // interval
            bits = (times >> jnp.arange(31, dtype=jnp.int32)) & 1
            return value * jnp.prod(jnp.where(bits == 1, jnp.asarray(powers), jnp.float32(1.0)))

        return rate

    return LearningRate("exponential", value, curve)


def restarts(
    value: float, period: float, multiplier: float = 1.0, end: float = 0.0, unit: str = "epochs", by: str = "steps"
) -> LearningRate:
    """Cosines from `value` to `end` that start again (Loshchilov and Hutter 2017; torch: CosineAnnealingWarmRestarts).

    The first takes `period` (in `unit`), each further one `multiplier` times as long as the one before.
    """
    _check_rates(value=value, end=end)
    _check_positive(period=period)
    one_of("unit", unit, UNITS)
    if multiplier < 1.0:
        raise ValueError(f"multiplier is {multiplier}; expected at least 1, periods must not shrink")

    def curve(horizon: Horizon) -> Schedule:
        starts = [0, max(1, horizon.steps(period, unit))]  # of the cycles, up to the one in which the run ends
        while multiplier > 1.0 and starts[-1] < horizon.total_steps:
            begun = len(starts) - 1  # from the exact period, so that rounding does not add up
            length = max(1, horizon.steps(period * multiplier**begun, unit))
            starts.append(min(starts[-1] + length, 2**31 - 1))
        lengths = np.diff(starts)

        def rate(step: Int[Array, ""]) -> Float[Array, ""]:
            step = jnp.asarray(step, jnp.int32)
            if len(lengths) == 1:
                length = jnp.int32(lengths[0])
                elapsed = step % length
            else:
                cycle = jnp.sum(step >= jnp.asarray(starts[1:-1], jnp.int32), dtype=jnp.int32)
                length = jnp.asarray(lengths, jnp.int32)[cycle]
                elapsed = step - jnp.asarray(starts[:-1], jnp.int32)[cycle]
            left = jnp.maximum(length - elapsed, 0).astype(jnp.float32) / length.astype(jnp.float32)
            return end + (value - end) * jnp.square(jnp.sin(0.5 * math.pi * left))

        return rate

    return LearningRate("restarts", value, curve, by=one_of("by", by, UNITS))


def reduce_on_plateau(
    value: float,
    factor: float = 0.1,
    patience: int = 10,
    cooldown: int = 0,
    threshold: float = 1e-4,
    end: float = 0.0,
    every: float = 1.0,
    unit: str = "epochs",
) -> LearningRate:
    """Multiplied by `factor` when the training loss has stopped falling (torch: ReduceLROnPlateau, mode "min").

    The training loss is averaged over windows of `every` epochs or steps. A window is better when its loss is below
    `(1 - threshold)` times the best one; after more than `patience` windows in a row that are not, the rate is reduced
    from the next step on, and the following `cooldown` windows do not count.

    Args:
      value: first rate.
      factor: in (0, 1).
      patience: windows without improvement that are tolerated.
      cooldown: windows after a reduction that are not counted.
      threshold: relative improvement that counts, in (0, 1).
      end: lowest rate.
      every: length of a window, in `unit`.
      unit: "epochs" or "steps".
    """
    _check_rates(value=value, end=end)
    _check_positive(value=value, every=every)
    one_of("unit", unit, UNITS)
    for field, number in (("factor", factor), ("threshold", threshold)):
        if not 0.0 < number < 1.0:
            raise ValueError(f"{field} is {number}; expected a number between 0 and 1, both excluded")
    if patience < 0 or cooldown < 0 or end > value:
        raise ValueError(f"expected patience >= 0, cooldown >= 0, end <= value; got {patience}, {cooldown}, {end}")

    def plateau(horizon: Horizon) -> optax.GradientTransformationExtraArgs:
        return optax.contrib.reduce_on_plateau(
            factor=factor,
            patience=patience + 1,  # optax reduces at that many bad windows, torch after more than that many
            rtol=threshold,
            cooldown=cooldown,
            accumulation_size=max(1, horizon.steps(every, unit)),
            min_scale=end / value,
        )

    return dataclasses.replace(constant(value), name="reduce_on_plateau", plateau=plateau)


def make_schedule(
    learning_rate: LearningRate,
    *,
    total_steps: int,
    steps_per_epoch: int,
    warmup: float = 0.0,
    warmup_unit: str = "epochs",
    warmup_factor: float = 0.001,
    warmup_kind: str = "linear",
    scale: float = 1.0,
) -> Schedule:
    """Returns step -> float32 learning rate: `scale * warm-up(step) * curve(step)`.

    Args:
      learning_rate: a described schedule.
      total_steps: length of the run.
      steps_per_epoch: optimizer updates per epoch.
      warmup: length of the warm-up in `warmup_unit`; 0 for none.
      warmup_unit: "epochs" or "steps".
      warmup_factor: factor of the rate at step 0.
      warmup_kind: how the factor gets to 1 at the end of the warm-up: "linear" (torch: LinearLR), "quadratic" (with the
        square of the elapsed part; YOLOX), "exponential" (`warmup_factor ** remaining`), or "constant", which holds
        `warmup_factor` until then (torch: ConstantLR).
      scale: multiplies the whole curve, its `end` included.

    Raises:
      ValueError: an unknown unit or kind, a negative number, a warm-up longer than the run.
    """
    horizon = Horizon(total_steps, steps_per_epoch)
    _check_rates(scale=scale, warmup=warmup)
    curve, by_epoch = learning_rate.curve(horizon), learning_rate.by == "epochs"
    warmup_steps = horizon.steps(warmup, warmup_unit)
    if warmup_steps > total_steps:
        raise ValueError(
            f"the warm-up of {warmup:g} {warmup_unit} ({warmup_steps} steps) is longer than the run ({total_steps} "
            "steps); shorten schedule.warmup or lengthen the run"
        )
    factor = _warmup_factor(warmup_steps, warmup_factor, warmup_kind)

    def schedule(step: Int[Array, ""]) -> Float[Array, ""]:
        step = jnp.asarray(step, jnp.int32)
        rate = curve((step // steps_per_epoch) * steps_per_epoch if by_epoch else step)
        return scale * (factor(step) * rate)

    return schedule


def batch_scale(batch_size: int, base_batch_size: int | None, rule: str) -> float:
    """The factor of the learning rate for a global batch: "linear" (Goyal et al. 2017) or "sqrt" (Krizhevsky 2014)."""
    if base_batch_size is None:
        return 1.0
    if batch_size < 1 or base_batch_size < 1:
        raise ValueError(f"expected positive batch sizes, got batch_size={batch_size}, base={base_batch_size}")
    ratio = batch_size / base_batch_size
    return math.sqrt(ratio) if one_of("scaling", rule, ("linear", "sqrt")) == "sqrt" else ratio


def one_of(what: str, given: str, allowed: Sequence[str]) -> str:
    """Returns `given` if it is allowed; else an error with the nearest name."""
    if given in allowed:
        return given
    near = difflib.get_close_matches(str(given), allowed, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(map(repr, allowed))}"
    raise ValueError(f"unknown {what} {given!r}: {hint}")


def _descent(
    name: str,
    shape: Callable[[Float[Array, ""]], Float[Array, ""]],
    value: float,
    end: float,
    start: float,
    stop: float | None,
    unit: str,
    by: str,
) -> LearningRate:
    """A schedule `end + (value - end) * shape(left)`, `left` falling from 1 to 0 between `start` and `stop`."""
    _check_rates(value=value, end=end, start=start)
    one_of("unit", unit, UNITS)

    def curve(horizon: Horizon) -> Schedule:
        first = horizon.steps(start, unit)
        last = horizon.total_steps if stop is None else horizon.steps(stop, unit)
        if first >= last:
            until = f"the end of the run, step {last}" if stop is None else f"stop = {stop:g} (step {last})"
            raise ValueError(f"{name}: start = {start:g} {unit} (step {first}) is not before {until}")

        def rate(step: Int[Array, ""]) -> Float[Array, ""]:
            remaining = last - jnp.clip(jnp.asarray(step, jnp.int32), first, last)
            return end + (value - end) * shape(remaining.astype(jnp.float32) / (last - first))

        return rate

    return LearningRate(name, value, curve, by=one_of("by", by, UNITS))


def _piecewise_constant(boundaries: Sequence[int], rates: Sequence[float]) -> Schedule:
    """`rates[i]` between `boundaries[i - 1]` and `boundaries[i]`, from a table computed in float64."""
    edges = np.asarray(boundaries, np.int32)
    table = np.asarray(rates, np.float32)

    def rate(step: Int[Array, ""]) -> Float[Array, ""]:
        passed = jnp.sum(jnp.asarray(step, jnp.int32) >= jnp.asarray(edges), dtype=jnp.int32)
        return jnp.asarray(table)[passed]

    return rate


def _warmup_factor(steps: int, factor: float, kind: str) -> Schedule:
    one_of("warmup_kind", kind, WARMUPS)
    if steps == 0:
        return lambda step: jnp.ones((), jnp.float32)
    if not 0.0 <= factor <= 1.0 or (kind == "exponential" and factor == 0.0):
        raise ValueError(f"warmup_factor is {factor}; expected 0 .. 1 (above 0 for the exponential kind)")
    if kind == "constant":
        return _piecewise_constant([steps], [factor, 1.0])

    def ramp(step: Int[Array, ""]) -> Float[Array, ""]:
        elapsed = jnp.minimum(step, steps)
        if kind in ("linear", "quadratic"):
            part = elapsed.astype(jnp.float32) / steps
            return factor + (1.0 - factor) * (jnp.square(part) if kind == "quadratic" else part)
        return jnp.exp(math.log(factor) * ((steps - elapsed).astype(jnp.float32) / steps))

    return ramp


def _check_rates(**numbers: float) -> None:
    for name, number in numbers.items():
        if not (math.isfinite(number) and number >= 0.0):
            raise ValueError(f"{name} is {number}; expected a finite number, at least 0")


def _check_positive(**numbers: float) -> None:
    for name, number in numbers.items():
        if not (math.isfinite(number) and number > 0.0):
            raise ValueError(f"{name} is {number}; expected a finite number above 0")
