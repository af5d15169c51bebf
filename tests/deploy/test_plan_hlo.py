"""Reading compiled programs: `step.hlo.txt` is one that libtpu 0.0.42 made for v5e:2x2, of

    def step(w, x):                                                   # [128, 128] everywhere, [8, 128] of each chip
        y = scan(lambda c, _: (tanh(c @ w) + psum(c), None), x, length=3)
        g = all_gather(y, tiled=True)
        return pmean((w * mean(y), sum(y))), psum_scatter(g @ w, tiled=True)

without what it says of source lines and tuning. It has turned the last sum into a part of the mean's.
"""

from pathlib import Path

import pytest

from jaxvision.deploy import hlo
from jaxvision.deploy.hlo import Collective

TEXT = Path(__file__).with_name("step.hlo.txt").read_text()


@pytest.fixture(scope="module")
def program():
    return hlo.parse(TEXT)


def test_collectives_are_counted_with_their_bytes(program):
    means, inner = 4 * (128 * 128 + 1 + 32 * 128), 4 * 8 * 128
    assert program.collectives(4) == (
        Collective("all-reduce", 1, means, 4),
        Collective("all-reduce", 3, inner, 4),  # in the loop
        Collective("all-gather", 1, 2 * 32 * 128, 4),  # in bfloat16, before a product
    )


def test_loops_are_found_with_their_length(program):
    assert program.loops() == (1, 0)
    unknown = TEXT.replace("constant(3)", "constant(3)\n  %more = s32[] constant(5)")
    assert hlo.parse(unknown).loops() == (1, 1)
    assert [each.count for each in hlo.parse(unknown).collectives(4)] == [1, 1, 1]
    told = TEXT.replace("body=%wide", 'backend_config={"known_trip_count":{"n":"7"}}, body=%wide')
    assert max(each.count for each in hlo.parse(told).collectives(4)) == 7


def test_traffic_leaves_the_on_chip_memory_out(program):
    """Read: the kernel twice (once to be rounded), the input. Written: the results; the rest is a few scalars."""
    kernel, rows = 4 * 128 * 128, 4 * 8 * 128
    assert 0 <= program.traffic() - (2 * kernel + rows + kernel + rows) < 100


@pytest.mark.parametrize(
    "text,expected",
    [
        ("f32[8,128]{1,0:T(8,128)S(1)}", [(4096, False)]),
        ("(bf16[3,5]{1,0:T(8,128)(2,1)}, pred[], /*index=2*/s4[3])", [(30, True), (1, True), (2, True)]),
        ("f32[]{:T(128)S(6)}", [(4, False)]),
        ("(f8e4m3fn[7], c64[2]{0}, u32[0], token[])", [(7, True), (16, True), (0, True), (0, True)]),
    ],
)
def test_types_have_sizes_and_places(text, expected):
    assert [(array.size, array.in_memory) for array in hlo.arrays_of(text)] == expected


def entry(*lines):
    return hlo.parse("\n".join(["HloModule m", "", "ENTRY %main (p: f32[4]) -> f32[4] {", *lines, "}"]))


@pytest.mark.parametrize(
    "line,expected",
    [
        (
            "%s = (f32[4], f32[16]) all-gather-start(%p), replica_groups=[2,4]<=[8], dimensions={0}",
            ("all-gather", 64, 4),
        ),
        ("%s = f32[4] all-reduce-start(%p), replica_groups={{0,1},{2,3}}, to_apply=%add", ("all-reduce", 16, 2)),
        ("%s = f32[4] reduce-scatter(%p), replica_groups={{0,1,2,3}}", ("reduce-scatter", 64, 4)),
        ("%s = (f32[4], f32[4], u32[], u32[]) collective-permute-start(%p)", ("collective-permute", 16, 8)),
        ("%s = f32[4] all-to-all(%p), dimensions={0}", ("all-to-all", 16, 8)),
    ],
)
def test_every_form_of_a_collective_counts_once(line, expected):
    operation, size, group = expected
    done = f"  %d = f32[4] {operation}-done(%s)"
    found = entry("  %p = f32[4] parameter(0)", f"  {line}", *([done] if "-start" in line else []))
    assert found.collectives(8) == (Collective(operation, 1, size, group),)


def test_traffic_of_windows_is_that_of_the_window():
    parameter = "  %p = f32[1000] parameter(0)"
    assert entry(parameter, "  %w = f32[4] dynamic-slice(%p, %i), dynamic_slice_sizes={4}").traffic() == 32
    assert entry(parameter, "  %c = (f32[4]{0:S(1)}, f32[4], u32[]) copy-start(%p)").traffic() == 16
    update = "  %u = f32[1000] dynamic-update-slice(%p, %v, %i)"
    assert entry(parameter, "  %v = f32[4] parameter(1)", update).traffic() == 32
    assert entry(parameter, "  ROOT %t = f32[1000] fusion(%p), kind=kLoop, calls=%f").traffic() == 8000


def test_another_text_is_refused():
    with pytest.raises(ValueError, match="no ENTRY computation"):
        hlo.parse("module @jit_f {}")
