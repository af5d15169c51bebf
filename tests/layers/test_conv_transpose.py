"""The transposed convolution against a loop that adds each pixel's block."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision import layers
from tests.conftest import strict

pytestmark = pytest.mark.usefixtures("unoptimized")


def oracle(x, kernel, bias, stride, padding, more):
    batch, height, width, _ = x.shape
    side, features = kernel.shape[0], kernel.shape[2]
    whole = np.zeros((batch, (height - 1) * stride + side + more, (width - 1) * stride + side + more, features))
    for i in range(height):
        for j in range(width):
            block = np.einsum("bc,yxdc->byxd", x[:, i, j], kernel)
            whole[:, i * stride : i * stride + side, j * stride : j * stride + side] += block
    end = -padding or None
    return whole[:, padding:end, padding:end] + bias


@pytest.mark.parametrize(
    ("side", "stride", "padding", "more"), [(2, 2, 0, 0), (4, 2, 1, 0), (3, 2, 1, 1), (3, 1, 1, 0)]
)
def test_each_pixel_adds_its_block(side, stride, padding, more):
    rng = np.random.default_rng(side)
    x = rng.normal(size=(2, 3, 4, 5)).astype(np.float32)
    layer = layers.ConvTranspose(6, side, stride, padding, more)
    variables = layer.init(jax.random.key(0), jnp.asarray(x))
    kernel, bias = (np.asarray(variables["params"][name]) for name in ("kernel", "bias"))
    assert kernel.shape == (side, side, 6, 5)
    bound = 1 / np.sqrt(6 * side * side)
    assert np.abs(kernel).max() <= bound and np.abs(kernel).max() > 0.8 * bound
    with strict():
        y = layer.apply(variables, jnp.asarray(x))
        half = layer.apply(variables, jnp.asarray(x, jnp.bfloat16))
    np.testing.assert_allclose(y, oracle(x, kernel, bias, stride, padding, more), atol=1e-5)
    assert half.dtype == jnp.bfloat16 and half.shape == y.shape


def test_another_rank_is_refused():
    with pytest.raises(ValueError, match=r"it takes \[B, H, W, C\]"):
        layers.ConvTranspose(2).init(jax.random.key(0), jnp.zeros((3, 4)))
