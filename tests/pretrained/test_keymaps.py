"""Names and layouts of published weights: one rule, short tables, both directions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.pretrained import keymaps
from jaxvision.pretrained.keymaps import fit, reference_names, to_our_layout, to_reference_layout, to_state_dict
from jaxvision.trees import TreeMismatch


@pytest.mark.parametrize(
    "name,reference",
    [
        ("params/backbone/layer1_0/conv1/kernel", "backbone.layer1.0.conv1.weight"),
        ("params/backbone/layer1_0/downsample_1/scale", "backbone.layer1.0.downsample.1.weight"),
        ("batch_stats/backbone/bn1/mean", "backbone.bn1.running_mean"),
        ("batch_stats/backbone/bn1/var", "backbone.bn1.running_var"),
        ("params/backbone/blocks_11/attn/qkv/bias", "backbone.blocks.11.attn.qkv.bias"),
        ("params/backbone/features_0_3/kernel", "backbone.features.0.3.weight"),
        ("params/backbone/pos_embed", "backbone.pos_embed"),
        ("params/token_embed/embedding", "token_embed.weight"),
        ("params/backbone/conv_1x1/kernel", "backbone.conv_1x1.weight"),
        ("params/backbone/stage_mean/mean", "backbone.stage_mean.mean"),
    ],
)
def test_one_rule_gives_the_dotted_name(name, reference):
    assert reference_names(name, ()) == (reference,)


def test_rules_apply_in_order_and_our_own_names_stay():
    rules = ((r"^backbone\.", ""), (r"^layer(\d)\.", r"stage\1."), (r"conv", "c"))
    assert reference_names("params/backbone/layer2_1/conv1/kernel", rules) == ("stage2.1.c1.weight",)
    assert reference_names("params/head/bias", keymaps.OWN) == ("params/head/bias",)


@pytest.mark.parametrize("ndim", range(6))
def test_layouts_move_axes_and_come_back(ndim):
    value = np.random.default_rng(0).normal(size=(5, 4, 3, 2, 1)[:ndim])
    ours = to_our_layout("params/a/kernel", value)
    want = {2: (4, 5), 3: (3, 4, 5), 4: (3, 2, 4, 5), 5: (3, 2, 1, 4, 5)}.get(ndim, value.shape)
    assert ours.shape == want
    np.testing.assert_array_equal(to_reference_layout("params/a/kernel", ours), value)
    assert to_our_layout("params/a/pos_embed", value) is value


def test_three_variables_of_the_reference_are_one_of_ours():
    rules = ((r"\.qkv\.(\w+)$", r".query.\1 + x.key.\1 + x.value.\1"),)
    wanted = {"params/x/qkv/kernel": jax.ShapeDtypeStruct((4, 6), jnp.float32)}
    rng = np.random.default_rng(0)
    theirs = {f"x.{name}.weight": rng.normal(size=(2, 4)).astype(np.float32) for name in ("query", "key", "value")}
    values = fit(theirs, wanted, rules).check("it")
    stacked = np.concatenate([theirs[f"x.{name}.weight"] for name in ("query", "key", "value")])
    np.testing.assert_array_equal(values["params/x/qkv/kernel"], stacked.T)
    back = to_state_dict(values, rules)
    assert set(back) == set(theirs)
    for name, value in theirs.items():
        np.testing.assert_array_equal(back[name], value)


def wanted(**shapes):
    return {name.replace("__", "/"): jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}


def test_one_error_lists_every_difference():
    want = wanted(params__conv1__kernel=(3, 3, 1, 4), params__head__kernel=(4, 10), params__head__bias=(10,))
    theirs = {
        "conv1.weigth": np.zeros((4, 1, 3, 3), np.float32),
        "head.weight": np.zeros((5, 4), np.float32),
        "head.bias": np.zeros((10,), np.int64),
        "bn.num_batches_tracked": np.zeros((), np.int64),
        "aux.weight": np.zeros((3,), np.float32),
        "other": np.zeros((), np.float32),
    }
    with pytest.raises(TreeMismatch) as error:
        fit(theirs, want, (), ignored=(r"^aux\.",)).check("a.pth")
    text = str(error.value)
    assert "a.pth does not fit the model (5 differences" in text
    assert "missing     conv1.weight; the file has conv1.weigth instead?" in text
    assert "unexpected  conv1.weigth float32[4, 1, 3, 3]" in text and "unexpected  other float32[]" in text
    assert "shape       head.weight: [4, 5] in the file, [4, 10] wanted" in text
    assert "dtype       head.bias: int64 in the file, float32 wanted" in text
    assert len(text.splitlines()) == 1 + 5


def test_a_family_resizes_what_depends_on_the_image_size():
    want = wanted(params__pos_embed=(1, 4, 2))
    resize = lambda name, value, shape: value[:, : shape[1]] if name.endswith("pos_embed") else None  # noqa: E731
    theirs = {"pos_embed": np.arange(18, dtype=np.float32).reshape(1, 9, 2)}
    values = fit(theirs, want, (), resize=resize).check("it")
    np.testing.assert_array_equal(values["params/pos_embed"], theirs["pos_embed"][:, :4])


def test_a_rule_that_merges_two_names_is_an_error_when_writing():
    with pytest.raises(ValueError, match="two variables get the name 'x.weight'"):
        to_state_dict({"params/a/kernel": np.zeros((1, 1)), "params/b/kernel": np.zeros((1, 1))}, ((r"^[ab]\.", "x."),))


def test_parts_of_a_variable_may_differ_in_size():
    rules = ((r"\.qkv\.(\w+)$", r".q.\1 + 2 * x.kv.\1"),)
    ours = {"params/x/qkv/kernel": np.arange(24, dtype=np.float32).reshape(4, 6)}
    theirs = to_state_dict(ours, rules)
    assert {name: value.shape for name, value in theirs.items()} == {"x.q.weight": (2, 4), "x.kv.weight": (4, 4)}
    back = fit(theirs, {name: jax.ShapeDtypeStruct(v.shape, v.dtype) for name, v in ours.items()}, rules).check("it")
    np.testing.assert_array_equal(back["params/x/qkv/kernel"], ours["params/x/qkv/kernel"])


def test_axes_of_length_1_are_written_as_the_rule_says_and_read_in_any_place():
    rules = ((r"^fc\.weight$", "fc.weight[..., 1, 1]"), (r"^grn\.weight$", "grn.weight[1, 1, ...]"))
    ours = {"params/fc/kernel": np.ones((2, 3), np.float32), "params/grn/scale": np.ones((4,), np.float32)}
    theirs = to_state_dict(ours, rules)
    assert {name: v.shape for name, v in theirs.items()} == {"fc.weight": (3, 2, 1, 1), "grn.weight": (1, 1, 4)}
    want = {name: jax.ShapeDtypeStruct(v.shape, v.dtype) for name, v in ours.items()}
    for shapes in ({}, {"fc.weight": (3, 2), "grn.weight": (4,)}):
        given = {name: value.reshape(shapes.get(name, value.shape)) for name, value in theirs.items()}
        assert {name: v.shape for name, v in fit(given, want, rules).check("it").items()} == {
            name: v.shape for name, v in ours.items()
        }
    with pytest.raises(TreeMismatch, match=r"fc.weight: \[1, 1, 3, 2\] in the file, \[2, 3\] wanted"):
        fit({**theirs, "fc.weight": np.zeros((2, 3, 1, 1), np.float32)}, want, rules).check("it")
    with pytest.raises(ValueError, match=r"becomes 'fc.weight\[2\]', which is no name"):
        reference_names("params/fc/kernel", ((r"$", "[2]"),))


def test_a_linear_layer_of_flattened_maps_becomes_a_kernel_with_their_axes_and_comes_back():
    rules = ((r"^fc\.weight$", "classifier.0.weight[flat]"),)
    kernel = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)
    state_dict = to_state_dict({"params/fc/kernel": kernel}, rules)
    assert state_dict["classifier.0.weight"].shape == (5, 24)
    x = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    flat = x.transpose(2, 0, 1).reshape(-1)  # [C, H, W], as torch flattens
    np.testing.assert_allclose(state_dict["classifier.0.weight"] @ flat, np.einsum("hwc,hwco->o", x, kernel), rtol=1e-4)
    found = fit(state_dict, {"params/fc/kernel": kernel}, rules)
    assert np.array_equal(found.check("file")["params/fc/kernel"], kernel)
    other = fit({"classifier.0.weight": np.zeros((5, 23), np.float32)}, {"params/fc/kernel": kernel}, rules)
    assert "classifier.0.weight: [23, 5] in the file, [2, 3, 4, 5] wanted" in other.lines[0]


def test_a_rule_of_three_converts_values_in_our_layout_and_back():
    double, halve = (lambda value: 2 * value[::-1]), (lambda value: value[::-1] / 2)
    add, subtract = (lambda value: value + 1), (lambda value: value - 1)
    rules = ((r"^x\.", "theirs."), (r"/fc/kernel$", double, halve), (r"/fc/", add, subtract))
    kernel = np.arange(6, dtype=np.float32).reshape(2, 3)
    theirs = {"theirs.fc.weight": kernel.T, "theirs.fc.bias": np.ones(3, np.float32), "other": np.ones(3, np.float32)}
    want = wanted(params__x__fc__kernel=(2, 3), params__x__fc__bias=(3,), params__other=(3,))
    values = fit(theirs, want, rules).check("it")
    # [in, out] when `read` sees it; where two rules find a name, the first of the table reads first.
    np.testing.assert_array_equal(values["params/x/fc/kernel"], 2 * kernel[::-1] + 1)
    np.testing.assert_array_equal(values["params/x/fc/bias"], [2, 2, 2])
    np.testing.assert_array_equal(values["params/other"], [1, 1, 1])
    back = to_state_dict(values, rules)
    assert set(back) == set(theirs)
    for name, value in theirs.items():
        np.testing.assert_array_equal(back[name], value)


def test_a_value_that_a_rule_of_three_cannot_read_is_reported_by_its_shape():
    rules = ((r"/x$", lambda value: value.reshape(-1, 3), lambda value: value.reshape(-1)),)
    want = wanted(params__x=(2, 3))
    assert fit({"x": np.zeros(6, np.float32)}, want, rules).check("it")["params/x"].shape == (2, 3)
    with pytest.raises(TreeMismatch, match=r"shape       x: \[7\] in the file, \[2, 3\] wanted"):
        fit({"x": np.zeros(7, np.float32)}, want, rules).check("it")
