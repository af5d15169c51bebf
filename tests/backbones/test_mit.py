"""The forms of MiT and what its options do."""

import jax
import jax.numpy as jnp
import pytest

from jaxvision.backbones.mit import MixVisionTransformer
from tests.backbones import contract

SMALL = {"widths": (4, 8, 10, 16), "depths": (1, 1, 2, 1)}


@pytest.mark.parametrize("fields", [{}, {"out_levels": ("c4", "c2")}])
def test_levels_have_the_channels_and_strides_that_the_properties_promise(fields):
    contract.check_levels(MixVisionTransformer(**SMALL, **fields), (64, 96, 3))


def test_odd_images_are_rounded_up_as_in_the_reference():
    levels, _ = contract.shapes_of(MixVisionTransformer(**SMALL), (61, 83, 3))
    assert [shape[1:3] for shape in levels.values()] == [(16, 21), (8, 11), (4, 6), (2, 3)]


def test_frozen_paths_name_the_stages():
    parts = [rf"(patch_embed|norm){i}/|block{i}_" for i in range(1, 5)]
    contract.check_frozen_paths(MixVisionTransformer(**SMALL), (64, 64, 3), parts)


def test_frozen_stages_pass_no_gradient(unoptimized):
    contract.check_frozen(MixVisionTransformer(**SMALL, out_levels=("c2", "c3"), frozen_stages=1), (32, 32, 3))


def test_recomputed_blocks_give_the_same(unoptimized):
    contract.check_remat(MixVisionTransformer(**SMALL, out_levels=("c2",), drop_path_rate=0.5), (32, 32, 3))


def test_stages_that_only_deeper_levels_need_are_not_built():
    _, variables = contract.shapes_of(MixVisionTransformer(**SMALL, out_levels=("c2",)), (64, 64, 3))
    assert {path.split("/")[1] for path in variables} == {"patch_embed1", "block1_0", "norm1"}


def test_images_too_small_for_the_coarser_keys_are_refused():
    with pytest.raises(ValueError, match="got images of 64x28 pixels; they need at least 29 on each side"):
        model = MixVisionTransformer(**SMALL)
        jax.eval_shape(lambda x: model.init(contract.KEY, x, train=False), jnp.zeros((1, 64, 28, 3)))
    contract.shapes_of(MixVisionTransformer(**SMALL), (29, 29, 3))


@pytest.mark.parametrize(
    "fields,message",
    [
        ({"widths": (32, 64, 161, 256)}, r"multiples of the numbers of heads \(1, 2, 5, 8\)"),
        ({"depths": (1,)}, "it takes four of each"),
        ({"out_levels": ("c1",)}, "level 'c1' in out_levels"),
    ],
)
def test_wrong_fields_are_told(fields, message):
    with pytest.raises(ValueError, match=message):
        MixVisionTransformer(**fields)
