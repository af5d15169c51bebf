"""The report of a step against counts by hand."""

import jax
import jax.numpy as jnp
import pytest

from jaxvision.engine.report import StepReport, report_step
from jaxvision.engine.state import TrainState


def state_of(params, frozen=None):
    return TrainState(jnp.zeros((), jnp.int32), params, {}, frozen, {}, {}, jax.random.key(0))


@pytest.mark.parametrize("devices", [1, 8])
def test_operations_and_bytes_are_those_of_all_devices(devices):
    state = state_of({"kernel": jnp.ones((64, 32)), "bias": None}, {"kernel": None, "bias": jnp.ones(32)})
    compiled = jax.jit(lambda k, x: x @ k).lower(state.params["kernel"], jnp.ones((16, 64))).compile()
    report = report_step(state, compiled, devices)
    assert (report.parameters, report.trained) == (64 * 32 + 32, 64 * 32)
    assert report.state_bytes == 4 + 4 * (64 * 32 + 32), "the step's number and the parameters"
    assert report.flops == pytest.approx(devices * 2 * 16 * 64 * 32, rel=0.01)
    moved = 4 * (16 * 64 + 64 * 32 + 16 * 32)
    assert report.bytes_accessed == pytest.approx(devices * moved, rel=0.01)
    assert report.temporary_bytes is not None and report.temporary_bytes >= 0


def test_lines_say_sizes_in_words():
    report = StepReport(25_557_032, 25_000_000, 204_000_000, 8.2e9, 1.5e12, 999)
    assert report.lines() == [
        "parameters: 25,557,032, 557,032 of them frozen; state 204 MB on each device",
        "one step: 8.20 GFLOP, 1.5 TB moved, 999 B of scratch memory",
    ]


def test_what_the_compiler_does_not_say_is_left_out():
    class Silent:
        def cost_analysis(self):
            return None

        def memory_analysis(self):
            return None

    report = report_step(state_of({"a": jnp.ones(10)}), Silent(), 2)
    assert (report.flops, report.bytes_accessed, report.temporary_bytes) == (None, None, None)
    assert report.lines() == ["parameters: 10; state 44 B on each device"]
    assert StepReport(1, 1, 4, 2e9, None, None).lines()[1] == "one step: 2.00 GFLOP"
