"""Chips and slices of a pod: names, neighbours, and messages for those that do not exist."""

import math
import sys

import pytest

from jaxvision.deploy import topology
from jaxvision.deploy.topology import CHIPS, devices_of, host_of, parse_topology
from jaxvision.errors import SetupError


@pytest.mark.parametrize(
    "name,chips,shape", [("v5e:16x16", 256, (16, 16)), (" V4:2x2 ", 4, (2, 2, 1)), ("v5p:4x8x8", 256, (4, 8, 8))]
)
def test_a_name_is_a_chip_and_a_shape(name, chips, shape):
    found = parse_topology(name)
    assert (found.chips, found.shape) == (chips, shape)
    assert parse_topology(found.name) == found


@pytest.mark.parametrize(
    "name,message",
    [
        ("v5:4x4", "unknown TPU 'v5' in topology 'v5:4x4': expected one of v4, v5p, v5e, v6e; did you mean 'v5"),
        ("h100:8", "a shape looks like v4:2x2x1, v4:4x8x8, v5p:2x2x1"),
        ("v5e", "expected 2 sides; a shape looks like v5e:2x2, v5e:16x16; offered are 1x1, 2x2, 2x4, 4x4"),
        ("v6e:4x4x4", "'v6e:4x4x4' is no shape of v6e: expected 2 sides"),
        ("v5e:3x3", "hosts have 2x2 chips"),
        ("v5e:0x4", "is no shape of v5e"),
        ("v5p:16", "is no shape of v5p: expected 3 sides; a shape looks like v5p:2x2x1, v5p:4x8x8"),
    ],
)
def test_an_unknown_name_is_told_what_there_is(name, message):
    with pytest.raises(SetupError) as told:
        parse_topology(name)
    assert message in str(told.value)


def test_the_chips_are_in_a_plausible_order():
    """Figures of the vendor; what follows from them is what a mistyped digit would break."""
    assert [CHIPS[name].flops for name in ("v5e", "v4", "v5p", "v6e")] == sorted(chip.flops for chip in CHIPS.values())
    for chip in CHIPS.values():
        assert 150 <= chip.flops / chip.memory_bandwidth <= 600  # operations per byte at which the bound changes
        assert [math.prod(shape) for shape in chip.slices] == sorted({math.prod(shape) for shape in chip.slices})
        assert math.prod(chip.slices[-1]) == 256 and {len(shape) for shape in chip.slices} == {chip.dimensions}
        assert all(parse_topology(f"{chip.name}:{'x'.join(map(str, s))}").shape == s for s in chip.slices)


def test_links_close_to_rings_only_where_the_pod_has_them():
    assert parse_topology("v5e:16x16").rings == (True, True)
    assert parse_topology("v5e:8x16").rings == (False, True)
    assert parse_topology("v4:4x4x4").rings == (True,) * 3 and parse_topology("v4:2x4x4").rings == (False,) * 3
    link = CHIPS["v5e"].link_bandwidth
    found = {name: parse_topology(f"v5e:{name}").bandwidth for name in ("1x1", "2x2", "8x16", "16x16")}
    assert found == {"1x1": 0, "2x2": 2 * link, "8x16": 3 * link, "16x16": 4 * link}
    assert [parse_topology(f"v5e:{name}").hops for name in ("1x1", "2x4", "8x16", "16x16")] == [0, 4, 15, 16]


def test_slices_go_from_one_chip_to_256():
    assert [each.chips for each in parse_topology("v5e:16x16").slices()] == [1, 4, 8, 16, 32, 64, 128, 256]
    assert [each.name for each in parse_topology("v4:4x4").slices()][:5][3:] == ["v4:4x4x1", "v4:2x4x4"]
    assert [each.chips for each in parse_topology("v5p:8x8x8").slices()][-2:] == [256, 512]
    assert [each.chips for each in parse_topology("v5e:2x6").slices()][2:5] == [8, 12, 16]
    assert parse_topology("v6e:4x4").larger().name == "v6e:4x8" and parse_topology("v6e:16x16").larger() is None
    assert host_of(parse_topology("v5e:1x1")) == (1, 1) and host_of(parse_topology("v4:4x4x4")) == (2, 2, 1)


def test_without_the_compiler_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "libtpu", None)
    monkeypatch.setattr(topology.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SetupError, match=r"pip install 'jaxvision\[tpu\]'"):
        devices_of(parse_topology("v5e:2x2"))
