"""What to change when a step does not fit into the memory of a chip."""

import pytest

from jaxvision.deploy.fitting import Change, Memory, changes, largest_batch, refusal, remat_switches
from jaxvision.deploy.topology import GIB, parse_topology

MODEL = {"name": "net", "backbone": {"depth": 50, "remat": False}, "neck": {"remat": True}, "remat": False}
TOPOLOGY = parse_topology("v5e:4x4")


def memory(temporaries=28, arguments=2):
    return Memory(arguments * GIB, 0, temporaries * GIB, 0, 16 * GIB)


def advice(memory, **changed):
    given = dict(batch_per_chip=64, accumulate=1, precision="float32", model=MODEL) | changed
    return {change.option: change for change in changes(memory, TOPOLOGY, **given)}


def test_what_fits_needs_no_change():
    assert memory(14).fits and not advice(memory(14))
    assert not memory(15).fits


def test_each_change_has_its_figure():
    found = advice(memory())
    assert {option: change.total and change.total / GIB for option, change in found.items()} == {
        "--config.precision=bf16": 16.0,
        "--config.model.backbone.remat=True": None,
        "--config.model.remat=True": None,
        "--batch-per-chip=32": 16.0,
        "--config.schedule.accumulate=2": 16.0,
        "--topology=v5e:4x8 --batch-per-chip=32": 16.0,
        "--topology=v4:2x2x4": 30.0,
    }
    assert found["--batch-per-chip=32"].line() == (
        "fewer images on a chip: --batch-per-chip=32: 16.00 of 16.00 GiB, fits (estimated)"
    )
    assert "only compiling tells (--try)" in found["--config.model.remat=True"].line()
    told = Change("this", "--that", 17 * GIB, 16 * GIB, compiled=True)
    assert told.line() == "this: --that: 17.00 of 16.00 GiB, does not fit (compiled)"


def test_parts_of_a_batch_stay_whole():
    found = advice(memory(), accumulate=4, precision="bf16", model={})
    assert set(found) == {
        *("--batch-per-chip=32", "--config.schedule.accumulate=8", "--topology=v5e:4x8 --batch-per-chip=32"),
        "--topology=v4:2x2x4",
    }
    assert largest_batch(memory(), 64, 4) == 32 and largest_batch(memory(280), 64, 4) == 0
    assert largest_batch(memory(14), 64, 4) == 64
    assert largest_batch(memory(28), 48, 3) == 24


def test_a_state_that_is_too_large_needs_other_chips():
    found = advice(memory(temporaries=1, arguments=40), precision="bf16", model={})
    assert set(found) == {"--topology=v5p:2x2x4"}
    assert not advice(memory(temporaries=1, arguments=400), precision="bf16", model={})


def test_switches_for_recomputing_are_found_in_all_parts():
    assert remat_switches(MODEL) == ["model.backbone.remat", "model.remat"]


@pytest.mark.parametrize(
    "message",
    [
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (42.04G) exceeds "
        "available HBM (15.75G).",
        "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. "
        "Used 42.04G of 15.75G hbm. Exceeded hbm capacity by 26.29G.",
    ],
)
def test_the_compilers_refusal_is_understood(message):
    found = refusal(message, 2 * GIB, 16 * GIB)
    assert not found.fits and found.arguments == 2 * GIB
    assert found.total == pytest.approx(42.04 * GIB)


def test_other_errors_are_not_refusals():
    assert refusal("INTERNAL: something else", 0, GIB) is None
    assert refusal("the total memory required for HLO temporaries (512.5M) exceeds", 0, GIB).total == 512.5 * 2**20
