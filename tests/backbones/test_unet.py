"""U-Net as a backbone: levels of encoder and decoder, sizes, and what it refuses."""

import jax
import jax.numpy as jnp
import pytest

from jaxvision import config
from jaxvision.backbones.unet import UNet
from tests.backbones.contract import check_levels, shapes_of

COUNTS = {28_949_568: {}, 31_031_680: {"norm": None, "upsample": "transposed"}}
"""Of OpenMMLab's network (29,060,676 with its two heads), and of the paper's with three channels."""


@pytest.mark.parametrize("count", COUNTS)
def test_number_of_parameters(count):
    _, variables = shapes_of(config.build("backbone", {"name": "unet_s5_d16", **COUNTS[count]}), (64, 64, 3))
    sizes = {path: value.size for path, value in variables.items()}
    assert sum(size for path, size in sizes.items() if path.startswith("params/")) == count


@pytest.mark.parametrize("upsample", ["bilinear", "transposed"])
def test_levels_are_those_that_are_promised(upsample):
    check_levels(UNet(width=4, upsample=upsample), (64, 96, 3))
    check_levels(UNet(width=4, upsample=upsample, norm=None, out_levels=("c1", "c3")), (32, 32, 3))
    _, variables = shapes_of(UNet(width=4, upsample=upsample, out_levels=("c2",)), (32, 32, 3))
    assert not any("decoder_1" in name for name in variables)


def test_sides_that_are_no_multiples_of_16_are_kept():
    levels = jax.eval_shape(
        lambda x: UNet(width=4).init_with_output(jax.random.key(0), x, train=False)[0],
        jax.ShapeDtypeStruct((1, 35, 50, 3), jnp.float32),
    )
    assert levels["c0"].shape[1:3] == (35, 50) and levels["c4"].shape[1:3] == (2, 3)


def test_what_it_cannot_do_is_said():
    with pytest.raises(ValueError, match="give at least 16"):
        shapes_of(UNet(width=4), (8, 32, 3))
    with pytest.raises(ValueError, match="it knows bilinear, transposed"):
        UNet(upsample="nearest")
    with pytest.raises(ValueError, match="even sides"):
        UNet(transposed_kernel=3)
    with pytest.raises(ValueError, match="frozen_stages"):
        UNet(frozen_stages=1)
