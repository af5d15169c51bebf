"""FCN-32s to -8s: their size, where they look, and what is fixed and learned in their enlargements."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.backbones.fcn_vgg import FCNVGG
from jaxvision.segmentation.fcn_skips import FCNSkips, bilinear, sum_where_they_meet
from tests.backbones.fill import fill
from tests.conftest import strict

BACKBONE = FCNVGG(depth=11, width=2, hidden=4, window=3, pad=32)


@pytest.mark.parametrize("size", [(1, 1), (33, 64), (50, 47), (321, 500)])
@pytest.mark.parametrize("stride", [8, 16, 32])
@pytest.mark.parametrize("backbone", [BACKBONE, FCNVGG(depth=11, width=2, hidden=4)], ids=["3", "7"])
def test_every_pixel_has_logits_whatever_the_size(backbone, stride, size):
    model = FCNSkips(backbone, 3, stride=stride)
    images = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    shape = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x)[0]["logits"], images)
    assert shape.shape == (1, *size, 3)


def test_bilinear_weights_interpolate_each_class_alone():
    kernel = np.asarray(bilinear(None, (4, 4, 2, 2)))
    np.testing.assert_allclose(kernel[:, :, 0, 0], np.outer([0.25, 0.75, 0.75, 0.25], [0.25, 0.75, 0.75, 0.25]))
    assert not kernel[:, :, 0, 1].any()
    np.testing.assert_allclose(np.asarray(bilinear(None, (3, 3, 1, 1)))[1, :, 0, 0], [0.5, 1, 0.5])


def test_learned_enlargement_starts_as_the_bilinear_one(unoptimized):
    images = jnp.asarray(np.random.default_rng(0).normal(size=(1, 96, 96, 3)), jnp.float32)
    with strict():
        model = FCNSkips(BACKBONE, 3, stride=8, skip_scales=(1.0, 1.0))
        variables = fill(model, images)
        head = variables["params"]["decode_head"]
        started = jax.jit(lambda x: model.init(jax.random.key(0), x)["params"]["decode_head"])(images)
        head |= {name: value for name, value in started.items() if name.startswith("upscore")}
        learned = jax.jit(model.apply)(variables, images)["logits"]
        fixed = {k: v for k, v in head.items() if not k.startswith("upscore")}
        params = {**variables["params"], "decode_head": fixed}
        found = jax.jit(model.clone(learned_upsampling=False).apply)({"params": params}, images)["logits"]
    # Transposed convolutions fade out at the border of the maps, which 32 pixels of the image see.
    inner = (slice(None), slice(32, 64), slice(32, 64))
    np.testing.assert_allclose(found[inner], learned[inner], atol=1e-5 * float(jnp.abs(learned).max()))


def test_maps_are_added_where_they_meet():
    x, other = jnp.arange(4.0).reshape(1, 1, 4, 1), 10 * jnp.arange(6.0).reshape(1, 1, 6, 1)
    x, other = jnp.tile(x, (1, 4, 1, 1)), jnp.tile(other, (1, 6, 1, 1))
    np.testing.assert_array_equal(sum_where_they_meet(x, other, 3)[0, 0, :, 0], [30, 41, 52])
    np.testing.assert_array_equal(sum_where_they_meet(x, other, -1)[0, 0, :, 0], [1, 12, 23])


def test_wrong_fields_are_named():
    with pytest.raises(ValueError, match="8, 16 or 32"):
        FCNSkips(BACKBONE, 3, stride=4)
    with pytest.raises(ValueError, match="window"):
        FCNVGG(window=4)
    with pytest.raises(ValueError, match="pad"):
        FCNVGG(window=7, pad=0)
