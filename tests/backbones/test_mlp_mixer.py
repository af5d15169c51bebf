"""The forms of MLP-Mixer and what its options do."""

import jax
import jax.numpy as jnp
import pytest

from jaxvision.backbones.mlp_mixer import MlpMixer
from tests.backbones import contract

SMALL = {"image_size": 64, "width": 16, "depth": 3}
FORMS = {
    "patch 16": ({}, (64, 64, 3)),
    "patch 32": ({"patch_size": 32, "out_levels": ("c5",)}, (64, 64, 3)),
    "patch 8, oblong": ({"patch_size": 8, "image_size": (32, 48), "out_levels": ("tokens", "c3")}, (32, 48, 3)),
}


@pytest.mark.parametrize("form", FORMS)
def test_levels_have_the_channels_and_strides_that_the_properties_promise(form):
    fields, image = FORMS[form]
    contract.check_levels(MlpMixer(**{**SMALL, **fields}), image)


def test_frozen_paths_name_the_stem_and_the_blocks():
    contract.check_frozen_paths(MlpMixer(**SMALL), (64, 64, 3), (r"stem/|blocks_0/", "blocks_1/", "blocks_2/"))


def test_frozen_blocks_pass_no_gradient(unoptimized):
    contract.check_frozen(MlpMixer(64, width=8, depth=2, frozen_stages=1), (64, 64, 3))


def test_recomputed_blocks_give_the_same(unoptimized):
    contract.check_remat(MlpMixer(64, width=8, depth=1, drop_path_rate=0.5), (64, 64, 3))


def test_images_of_another_size_are_refused():
    model = MlpMixer(**SMALL)
    with pytest.raises(
        ValueError, match="got images of 32x64 pixels, but its weights mix the patches of 64x64: resize"
    ):
        jax.eval_shape(lambda x: model.init(contract.KEY, x, train=False), jnp.zeros((1, 32, 64, 3)))


@pytest.mark.parametrize(
    "fields,message",
    [
        ({"image_size": 100}, "image_size=100 and patch_size=16; the patch size must be a power of two"),
        ({"patch_size": 14, "image_size": 28}, "must be a power of two that divides"),
        ({"out_levels": ("c5",)}, "level 'c5' in out_levels"),
        ({"frozen_stages": 9}, "frozen_stages=9; it takes 0 to 8"),
    ],
)
def test_wrong_fields_are_told(fields, message):
    with pytest.raises(ValueError, match=message):
        MlpMixer(**fields)
