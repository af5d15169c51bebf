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
