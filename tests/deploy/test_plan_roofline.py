"""The model of a step's time, beside arithmetic by hand."""

import pytest

from jaxvision.deploy.hlo import Collective
from jaxvision.deploy.roofline import HOP, roofline, scaling, seconds
from jaxvision.deploy.topology import parse_topology

POD, ONE, HOST = (parse_topology(f"v5e:{shape}") for shape in ("16x16", "1x1", "2x2"))
GRADIENT = Collective("all-reduce", 1, 100_000_000, 256)


def test_an_all_reduce_sends_nearly_everything_twice():
    sent = 2 * 100e6 * 255 / 256
    assert seconds(GRADIENT, POD) == pytest.approx(sent / (4 * 50e9) + 2 * 16 * HOP)
    assert seconds(GRADIENT, ONE) == 0.0
    assert seconds(GRADIENT, HOST) == pytest.approx(2 * 100e6 * 3 / 4 / (2 * 50e9) + 2 * 2 * HOP)


def test_what_is_gathered_grows_with_the_chips():
    gathered = Collective("all-gather", 1, 256_000, 256)
    assert seconds(gathered, HOST) == pytest.approx(4_000 * 3 / 4 / (2 * 50e9) + 2 * HOP)
    assert seconds(gathered, POD) == pytest.approx(256_000 * 255 / 256 / (4 * 50e9) + 16 * HOP)


@pytest.mark.parametrize(
    "flops,traffic,count,bound",
    [(1.97e12, 1e6, 1, "compute"), (1e9, 8.19e9, 1, "memory"), (1e9, 1e6, 9, "interconnect")],
)
def test_the_longest_side_bounds(flops, traffic, count, bound):
    line = roofline(flops, traffic, [GRADIENT] * count, POD)
    assert line.bound == bound
    assert (line.compute, line.memory) == pytest.approx((flops / 197e12, traffic / 819e9))
    assert line.network == pytest.approx(count * seconds(GRADIENT, POD))
    assert line.overlapped == max(line.compute, line.memory, line.network)
    assert line.in_turns == max(line.compute, line.memory) + line.network


def test_weak_scaling_compares_with_one_chip():
    rows = scaling(1.97e12, 1e6, [GRADIENT], POD, 32)
    assert [row.batch for row in rows] == [32 * chips for chips in (1, 4, 8, 16, 32, 64, 128, 256)]
    assert rows[0].efficiency == (1.0, 1.0) and rows[0].rates == pytest.approx((3200.0, 3200.0))
    worst, best = rows[-1].efficiency
    assert best == 1.0 and worst == pytest.approx(0.01 / (0.01 + seconds(GRADIENT, POD)))
    assert rows[-1].rates[1] == pytest.approx(256 * 3200)
    assert [row.batch for row in scaling(1.0, 1.0, [], ONE, 32)] == [32]
    assert len(scaling(1.0, 1.0, [], HOST, 32)) == 8
