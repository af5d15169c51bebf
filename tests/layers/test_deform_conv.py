"""The deformable layer: it starts as the plain one, follows types, has finite gradients, says what does not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision import layers
from tests.conftest import strict

KEY = jax.random.key(0, impl="rbg")
GEOMETRY = {"strides": 2, "dilation": 2, "groups": 2}


def random(*shape):
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape, np.float32))


@pytest.mark.parametrize("modulated", [False, True])
def test_a_fresh_layer_is_the_plain_convolution_or_half_of_it(modulated, unoptimized):
    x = random(2, 5, 7, 4)
    layer = layers.DeformConv(6, deform_groups=2, modulated=modulated, **GEOMETRY)

    def both(x):
        said, variables = layer.init_with_output(KEY, x)
        plain = layers.Conv(6, use_bias=False, **GEOMETRY)
        return said, plain.apply({"params": {"kernel": variables["params"]["kernel"]}}, x), variables["params"]

    with strict():
        said, plain, params = jax.jit(both)(x)
    np.testing.assert_allclose(said, 0.5 * plain if modulated else plain, rtol=1e-5, atol=1e-6)
    assert {name: leaf.shape for name, leaf in params["conv_offset"].items()} == {
        "kernel": (3, 3, 4, 54 if modulated else 36),
        "bias": (54 if modulated else 36,),
    }


def test_taps_read_where_the_offsets_say_and_gradients_are_finite(unoptimized):
    """All taps one row down: the plain convolution of the map that is shifted up, with zeros behind it."""
    x = random(1, 6, 5, 2)
    layer = layers.DeformConv(3)

    def run(x):
        variables = layer.init(KEY, x)
        params = variables["params"]
        params["conv_offset"]["bias"] = jnp.tile(jnp.asarray([1.0, 0.0]), 9)
        moved = lambda params: layer.apply({"params": params}, x)  # noqa: E731
        slopes = jax.grad(lambda params: jnp.sum(moved(params) ** 2))(params)
        return moved(params), params["kernel"], slopes

    with strict():
        said, kernel, slopes = jax.jit(run)(x)
    shifted = jnp.pad(x, ((0, 0), (1, 2), (1, 1), (0, 0)))[:, 1:]
    plain = layers.Conv(3, padding=0, use_bias=False).apply({"params": {"kernel": kernel}}, shifted)
    np.testing.assert_allclose(said, plain, rtol=1e-4, atol=1e-5)
    assert all(np.isfinite(leaf).all() and np.any(leaf != 0) for leaf in jax.tree.leaves(slopes))


def test_types_and_errors():
    layer = layers.DeformConv(4, modulated=True)
    x = jax.ShapeDtypeStruct((1, 4, 4, 6), jnp.bfloat16)
    with strict():
        said, variables = jax.eval_shape(lambda x: layer.init_with_output(KEY, x), x)
    assert said.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    with pytest.raises(ValueError, match="deform_groups=4 for 6 input"):
        jax.eval_shape(lambda x: layer.clone(deform_groups=4).init(KEY, x), x)
