"""Schedules against their closed forms in float64, at the start, the end and at steps near 2**31."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.engine import schedules
from jaxvision.engine.schedules import Horizon, batch_scale, make_schedule
from tests.conftest import strict

TOTAL, EPOCH = 120, 10


def rates(learning_rate, steps, *, total_steps=TOTAL, steps_per_epoch=EPOCH, **warmup):
    with strict():
        schedule = make_schedule(learning_rate, total_steps=total_steps, steps_per_epoch=steps_per_epoch, **warmup)
        result = jax.jit(jax.vmap(schedule))(jnp.asarray(steps, jnp.int32))
    assert result.dtype == jnp.float32
    return np.asarray(result, np.float64)


def cosine(value, end, elapsed):
    return end + (value - end) * (1 + math.cos(math.pi * min(max(elapsed, 0.0), 1.0))) / 2


def one_cycle(step, total, value=0.4, pct=0.3, div=25.0, final=1e4, linear=False):
    first, last, peak = value / div, value / div / final, pct * total - 1
    begin, finish, t = (
        (first, value, step / peak) if step <= peak else (value, last, (step - peak) / (total - 1 - peak))
    )
    return begin + (finish - begin) * t if linear else cosine(begin, finish, t)


def restarted(step, value, end, period, multiplier):
    while step >= period:
        step, period = step - period, period * multiplier
    return cosine(value, end, step / period)


CLOSED_FORMS = {
    "constant": (schedules.constant(0.3), lambda t: 0.3),
    "step": (schedules.step(0.3, (3, 6.5, 9)), lambda t: 0.3 * 0.1 ** ((t >= 30) + (t >= 65) + (t >= 90))),
    "step in steps": (schedules.step(0.3, (7, 8), 0.5, "steps"), lambda t: 0.3 * 0.5 ** ((t >= 7) + (t >= 8))),
    "cosine": (schedules.cosine(0.3), lambda t: cosine(0.3, 0.0, t / 120)),
    "cosine to an end": (schedules.cosine(0.3, 0.01), lambda t: cosine(0.3, 0.01, t / 120)),
    "cosine by epochs": (schedules.cosine(0.3, 0.01, by="epochs"), lambda t: cosine(0.3, 0.01, t // 10 / 12)),
    "cosine in the middle": (schedules.cosine(0.3, 0.01, 2, 10), lambda t: cosine(0.3, 0.01, (t - 20) / 80)),
    "cosine between steps": (
        schedules.cosine(0.3, 0.01, 5, 50, "steps"),
        lambda t: cosine(0.3, 0.01, (t - 5) / 45),
    ),
    "polynomial": (schedules.polynomial(0.3, 0.9), lambda t: 0.3 * (1 - t / 120) ** 0.9),
    "polynomial to an end": (schedules.polynomial(0.3, 2.0, 0.1), lambda t: 0.1 + 0.2 * (1 - t / 120) ** 2),
    "linear": (schedules.linear(0.3, 0.03), lambda t: 0.3 + (0.03 - 0.3) * t / 120),
    "linear upwards": (schedules.linear(0.1, 0.3, stop=6), lambda t: 0.1 + 0.2 * min(t / 60, 1)),
    "one cycle": (schedules.one_cycle(0.4), lambda t: one_cycle(t, 120)),
    "one cycle of lines": (schedules.one_cycle(0.4, anneal="linear"), lambda t: one_cycle(t, 120, linear=True)),
    "one cycle, odd peak": (schedules.one_cycle(0.4, 0.333), lambda t: one_cycle(t, 120, pct=0.333)),
    "one cycle, no rise": (schedules.one_cycle(0.4, 0.0), lambda t: one_cycle(t, 120, pct=0.0)),
    "exponential": (schedules.exponential(0.3, 0.9), lambda t: 0.3 * 0.9 ** (t // 10)),
    "exponential in steps": (schedules.exponential(0.3, 0.97, 3, "steps"), lambda t: 0.3 * 0.97 ** (t // 3)),
    "restarts": (schedules.restarts(0.3, 2.5, end=0.01), lambda t: restarted(t, 0.3, 0.01, 25, 1)),
    "growing restarts": (schedules.restarts(0.3, 1, 2), lambda t: restarted(t, 0.3, 0.0, 10, 2)),
    "restarts by epochs": (
        schedules.restarts(0.3, 2, 3, 0.01, by="epochs"),
        lambda t: restarted(t // 10 * 10, 0.3, 0.01, 20, 3),
    ),
    "plateau, before any": (schedules.reduce_on_plateau(0.3), lambda t: 0.3),
}


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_every_step_equals_the_closed_form(name):
    learning_rate, expected = CLOSED_FORMS[name]
    steps = range(TOTAL)
    np.testing.assert_allclose(rates(learning_rate, steps), [expected(t) for t in steps], rtol=1e-6, atol=1e-12)


BIG = 2**31 - 1
LONG_RUNS = {
    "step": (
        schedules.step(0.3, (2**30, 2**30 + 1), 0.1, "steps"),
        lambda t: 0.3 * 0.1 ** ((t >= 2**30) + (t > 2**30)),
    ),
    "cosine": (schedules.cosine(0.3), lambda t: 0.3 * math.sin(math.pi / 2 * (BIG - t) / BIG) ** 2),
    "cosine by epochs": (
        schedules.cosine(0.3, by="epochs"),
        lambda t: 0.3 * math.sin(math.pi / 2 * (BIG - t // 1000 * 1000) / BIG) ** 2,
    ),
    "polynomial": (schedules.polynomial(0.3, 0.9), lambda t: 0.3 * ((BIG - t) / BIG) ** 0.9),
    "linear": (schedules.linear(0.3), lambda t: 0.3 * (BIG - t) / BIG),
    "one cycle": (schedules.one_cycle(0.4), lambda t: one_cycle(t, BIG)),
    "restarts": (
        schedules.restarts(0.3, 1001, unit="steps"),
        lambda t: 0.3 * math.sin(math.pi / 2 * (1001 - t % 1001) / 1001) ** 2,
    ),
    "exponential": (schedules.exponential(0.3, 0.99999, 1000, "steps"), lambda t: 0.3 * 0.99999 ** (t // 1000)),
}


@pytest.mark.parametrize("name", LONG_RUNS)
def test_steps_near_two_to_the_31_are_as_precise(name):
    learning_rate, expected = LONG_RUNS[name]
    edges = [0, 1, 999, 1000, 2**24 + 1, 2**30 - 1, 2**30, 2**30 + 1, BIG - 2, BIG - 1]
    steps = np.unique(np.concatenate([edges, np.random.default_rng(0).integers(0, BIG, 200)]))
    found = rates(learning_rate, steps, total_steps=BIG, steps_per_epoch=1000)
    tolerance = 4e-6 if name == "exponential" else 1e-6
    np.testing.assert_allclose(found, [expected(int(t)) for t in steps], rtol=tolerance, atol=0)


@pytest.mark.parametrize(
    ("kind", "factor"),
    [
        ("linear", lambda t: 0.1 + 0.9 * min(t / 20, 1)),
        ("quadratic", lambda t: 0.1 + 0.9 * min(t / 20, 1) ** 2),
        ("constant", lambda t: 0.1 if t < 20 else 1.0),
        ("exponential", lambda t: 0.1 ** max(1 - t / 20, 0)),
    ],
)
@pytest.mark.parametrize("main", ["constant", "step", "cosine by epochs", "one cycle", "restarts", "exponential"])
def test_warmup_multiplies_any_schedule(kind, factor, main):
    learning_rate, expected = CLOSED_FORMS[main]
    found = rates(learning_rate, range(TOTAL), warmup=2, warmup_factor=0.1, warmup_kind=kind)
    np.testing.assert_allclose(found, [factor(t) * expected(t) for t in range(TOTAL)], rtol=1e-6)


def test_warmup_in_steps_may_start_from_zero():
    found = rates(schedules.constant(0.5), range(6), warmup=4, warmup_unit="steps", warmup_factor=0.0)
    np.testing.assert_allclose(found, [0, 0.125, 0.25, 0.375, 0.5, 0.5], rtol=1e-6)


def test_a_curve_that_starts_late_begins_where_warmup_ends():
    found = rates(schedules.cosine(0.3, start=2), range(TOTAL), warmup=2, warmup_factor=0.0)
    expected = [0.3 * t / 20 if t < 20 else cosine(0.3, 0, (t - 20) / 100) for t in range(TOTAL)]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-12)


def test_scaling_by_batch_multiplies_the_whole_curve():
    plain = rates(schedules.cosine(0.1, 0.01), range(TOTAL), warmup=1)
    scaled = rates(schedules.cosine(0.1, 0.01), range(TOTAL), warmup=1, scale=batch_scale(512, 128, "linear"))
    np.testing.assert_allclose(scaled, 4 * plain, rtol=1e-6)
    assert batch_scale(512, 128, "sqrt") == 2.0
    assert batch_scale(512, None, "linear") == 1.0


def test_epochs_become_whole_steps():
    assert Horizon(1000, 11).steps(2.5, "epochs") == 28
    assert Horizon(1000, 11).steps(7, "steps") == 7
    assert Horizon(1000, 11).steps(1e12, "epochs") == BIG


def test_a_milestone_after_the_end_is_reported(monkeypatch):
    lines = []
    monkeypatch.setattr(schedules.logging, "warning", lambda text, *args: lines.append(text % args))
    found = rates(schedules.step(0.3, (3, 12, 40)), [0, 119])
    np.testing.assert_allclose(found, [0.3, 0.03], rtol=1e-6)
    assert len(lines) == 1
    assert "milestones [12, 40] (epochs)" in lines[0]


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: schedules.constant(-0.1), "value is -0.1; expected a finite number, at least 0"),
        (lambda: schedules.cosine(math.nan), "value is nan"),
        (lambda: schedules.cosine(0.1, unit="epoch"), "unknown unit 'epoch': did you mean 'epochs'"),
        (lambda: schedules.cosine(0.1, by="stepps"), "unknown by 'stepps': did you mean 'steps'"),
        (lambda: schedules.step(0.1, (3, 2)), "increasing order"),
        (lambda: schedules.step(0.1, (3,), gamma=0.0), "gamma is 0.0"),
        (lambda: schedules.exponential(0.1, 1.5), "must not grow"),
        (lambda: schedules.restarts(0.1, 0), "period is 0"),
        (lambda: schedules.restarts(0.1, 1, 0.5), "must not shrink"),
        (lambda: schedules.one_cycle(0.1, 1.5), "pct_start is 1.5"),
        (lambda: schedules.one_cycle(0.1, anneal="cos"), "unknown anneal 'cos': did you mean 'cosine'"),
        (lambda: schedules.reduce_on_plateau(0.1, factor=1.0), "factor is 1.0"),
        (lambda: schedules.reduce_on_plateau(0.1, end=0.2), "end <= value"),
        (lambda: rates(schedules.constant(0.1), [0], warmup=13), "longer than the run"),
        (lambda: rates(schedules.constant(0.1), [0], warmup=-1), "warmup is -1"),
        (lambda: rates(schedules.constant(0.1), [0], warmup=1, warmup_factor=1.5), "warmup_factor is 1.5"),
        (lambda: rates(schedules.constant(0.1), [0], warmup_kind="linaer"), "did you mean 'linear'"),
        (lambda: rates(schedules.cosine(0.1, start=12), [0]), "not before the end of the run, step 120"),
        (lambda: rates(schedules.cosine(0.1, start=3, stop=3), [0]), "not before stop = 3"),
        (lambda: rates(schedules.constant(0.1), [0], total_steps=0), "total_steps is 0"),
        (lambda: batch_scale(8, 8, "square"), "unknown scaling 'square': did you mean 'sqrt'"),
    ],
)
def test_wrong_arguments_are_named(make, text):
    with pytest.raises(ValueError, match=text.replace("(", r"\(").replace(")", r"\)")):
        make()
