"""The forms of ConvNeXt and what its options do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision import layers
from jaxvision.backbones.convnext import LEVELS, ConvNeXt, GlobalResponseNorm
from jaxvision.pretrained import keymaps
from tests.backbones import contract
from tests.backbones.fill import fill
from tests.conftest import strict

IMAGE = (64, 96, 3)
SMALL = {"widths": (8, 12, 16, 24), "depths": (1, 1, 2, 1)}
FORMS = {
    "plain": {},
    "every level": {"out_levels": LEVELS},
    "two levels": {"out_levels": ("c4", "c2")},
    "pooled": {"out_levels": ("pooled",), "hidden": 40},
    "norm first": {"out_levels": ("c5", "pooled"), "norm_first": True},
    "overlap": {"stem": "overlap"},
    "tiered": {"stem": "tiered"},
    "v2": {"response_norm": True, "layer_scale": 0.0},
    "stride 16": {"output_stride": 16},
    "stride 8": {"output_stride": 8, "norm_levels": True},
    "batch norm": {"norm": layers.Norm("bn"), "out_levels": LEVELS},
}


@pytest.mark.parametrize("form", FORMS)
def test_levels_have_the_channels_and_strides_that_the_properties_promise(form):
    contract.check_levels(ConvNeXt(**SMALL, **FORMS[form]), IMAGE)


def test_frozen_paths_name_the_stem_and_the_stages():
    model = ConvNeXt(**SMALL, stem="tiered", out_levels=LEVELS, norm_levels=True)
    contract.check_frozen_paths(model, IMAGE, (r"stem_\d|stages_0/", *(rf"stages_{i}/" for i in (1, 2, 3))))
    assert ConvNeXt(**SMALL, out_levels=("c2",), frozen_stages=4).frozen_paths == (r"stem_\d+/.*", r"stages_0/.*")


def test_frozen_stages_pass_no_gradient(unoptimized):
    contract.check_frozen(ConvNeXt(**SMALL, frozen_stages=1, out_levels=("c2", "c3")), (16, 16, 3))


def test_frozen_stages_keep_their_statistics(unoptimized):
    model = ConvNeXt(**SMALL, norm=layers.Norm("bn"), frozen_stages=1, out_levels=("c3",))
    x = contract.images(2, (32, 32, 3))
    variables = fill(model, x, train=False)
    run = jax.jit(lambda v: model.apply(v, x, train=True, mutable=["batch_stats"])[1]["batch_stats"])
    after, before = run(variables), variables["batch_stats"]
    same = {part: jax.tree.all(jax.tree.map(np.array_equal, after[part], before[part])) for part in after}
    assert same == {"stem_1": True, "stages_0": True, "stages_1": False}


def test_recomputed_blocks_give_the_same(unoptimized):
    contract.check_remat(ConvNeXt(**SMALL, out_levels=("c2",), drop_path_rate=0.5), (16, 16, 3))


def test_stages_that_only_deeper_levels_need_are_not_built():
    _, variables = contract.shapes_of(ConvNeXt(**SMALL, out_levels=("c3",)), IMAGE)
    assert {path.split("/")[1] for path in variables} == {"stem_0", "stem_1", "stages_0", "stages_1"}


def test_submodules_carry_the_names_of_timm():
    _, variables = contract.shapes_of(ConvNeXt(**SMALL, response_norm=True), IMAGE)
    names = {
        keymaps.reference_names(name, keymaps.rules_for(keymaps.family_of(ConvNeXt()), "timm"))[0] for name in variables
    }
    assert {"stem.0.weight", "stages.2.blocks.1.conv_dw.weight", "stages.0.blocks.0.mlp.grn.weight"} <= {
        name.removeprefix("backbone.") for name in names
    }


def test_response_norm_is_the_identity_at_0_and_equals_the_formula(unoptimized):
    x = contract.images(2, (3, 4, 5))
    norm = GlobalResponseNorm()
    variables = fill(norm, x)
    zeros = jax.tree.map(jnp.zeros_like, variables)
    np.testing.assert_array_equal(norm.apply(zeros, x), x)
    g = np.sqrt(np.sum(np.square(x), axis=(1, 2), keepdims=True))
    want = variables["params"]["scale"] * (x * g / (g.mean(-1, keepdims=True) + 1e-6)) + variables["params"]["bias"] + x
    with strict():
        np.testing.assert_allclose(norm.apply(variables, x), want, rtol=1e-5, atol=1e-6)
        slope = jax.jit(jax.grad(lambda x: jnp.sum(norm.apply(variables, x))))(jnp.zeros_like(x))
    assert jnp.isfinite(slope).all(), "a dead map has a gradient"


@pytest.mark.parametrize(
    "fields,message",
    [
        ({"stem": "deep"}, "stem='deep'; it knows patch, overlap, tiered"),
        ({"depths": (1, 1, 1)}, r"depths=\(1, 1, 1\); it takes four of each"),
        ({"norm_first": True, "hidden": 8}, "norm_first and hidden"),
        ({"out_levels": ("c1",)}, "level 'c1' in out_levels"),
        ({"output_stride": 4}, "output_stride=4; it takes 8, 16 or 32"),
    ],
)
def test_wrong_fields_are_told(fields, message):
    with pytest.raises(ValueError, match=message):
        ConvNeXt(**fields)
