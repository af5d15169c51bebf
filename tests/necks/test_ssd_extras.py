"""The extra layers of SSD: names, strides and sizes of its levels, the norm of the first one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.necks.ssd_extras import L2Norm, SSDExtras
from tests.conftest import strict

pytestmark = pytest.mark.usefixtures("unoptimized")
LARGE = SSDExtras(channels=(6, 4, 4, 4, 4), down=(2, 2, 2, 2, 1), padding=(1, 1, 1, 1, 1), last_kernel=4)


@pytest.mark.parametrize(
    ("neck", "sides"),
    [
        (SSDExtras(channels=(6, 4, 4, 4)), (38, 19, 10, 5, 3, 1)),
        (LARGE, (64, 32, 16, 8, 4, 2, 1)),
    ],
)
def test_maps_of_300_and_512_pixels_shrink_to_one(neck, sides):
    levels = {"c3": (2, sides[0], sides[0], 5), "c4": (2, sides[1], sides[1], 8)}
    levels = {name: jax.ShapeDtypeStruct(shape, jnp.bfloat16) for name, shape in levels.items()}
    with strict():
        outputs, variables = jax.eval_shape(lambda x: neck.init_with_output(jax.random.key(0), x), levels)
    assert tuple(x.shape[1] for x in outputs.values()) == sides and tuple(outputs) == neck.out_levels
    assert {x.dtype for x in outputs.values()} == {jnp.dtype("bfloat16")}
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert variables["params"]["extra_layers_0"]["conv1"]["kernel"].shape == (1, 1, 8, 3)
    assert neck.strides({"c3": 8, "c4": 16})["p5"] == 32


def test_each_pixel_of_the_first_level_is_as_long_as_the_learned_factor_and_a_black_one_stays():
    x = np.random.default_rng(0).normal(size=(1, 2, 3, 4)).astype(np.float32)
    x[0, 0, 0] = 0
    params = {"params": {"scale": jnp.full(4, 20.0)}}
    y, slope = L2Norm().apply(params, x), jax.grad(lambda x: L2Norm().apply(params, x).sum())(jnp.asarray(x))
    lengths = np.linalg.norm(y, axis=-1)
    assert lengths[0, 0, 0] == 0 and lengths.reshape(-1)[1:] == pytest.approx(20, rel=1e-5)
    assert np.isfinite(slope).all()


def test_what_does_not_fit_is_told():
    with pytest.raises(ValueError, match="one number of each for every extra level"):
        SSDExtras(channels=(8, 8))
    with pytest.raises(ValueError, match="set out_levels of the backbone"):
        SSDExtras().strides({"c4": 16, "c5": 32})
    small = {"c3": jnp.zeros((1, 8, 8, 4)), "c4": jnp.zeros((1, 4, 4, 4))}
    with pytest.raises(ValueError, match="1 x 1 pixels, too small for its convolution of 3"):
        jax.eval_shape(lambda x: SSDExtras(channels=(4,) * 4).init(jax.random.key(0), x), small)
