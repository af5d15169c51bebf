"""Stochastic depth: what is dropped, what is kept and what is expected."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision import layers
from tests.conftest import strict


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_whole_samples_are_dropped_and_the_mean_is_kept(dtype):
    x = jnp.ones((4000, 2, 3), dtype)
    with strict():
        y = layers.drop_path(x, 0.25, jax.random.key(0))
    assert y.dtype == dtype
    y = np.asarray(y, np.float32)
    assert (y == y[:, :1, :1]).all()
    np.testing.assert_allclose(np.unique(y), [0, 4 / 3], rtol=5e-3)
    assert abs(y.mean() - 1) < 0.03


def test_the_extremes_and_evaluation_need_no_randomness():
    x = jnp.ones((2, 3))
    np.testing.assert_array_equal(layers.drop_path(x, 0.0, jax.random.key(0)), x)
    np.testing.assert_array_equal(layers.drop_path(x, 1.0, jax.random.key(0)), 0 * x)
    np.testing.assert_array_equal(layers.DropPath(0.5).apply({}, x, train=False), x)
    assert layers.DropPath(0.5).apply({}, x, train=True, rngs={"dropout": jax.random.key(0)}).shape == x.shape


def test_a_rate_outside_0_and_1_is_an_error():
    with pytest.raises(ValueError, match=r"rate=1\.5"):
        layers.drop_path(jnp.ones((2, 3)), 1.5, jax.random.key(0))
