"""Max pooling with indices, and what puts the maxima back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.ops import pool
from tests.conftest import strict


@pytest.mark.parametrize("window,strides,padding", [(2, None, 0), (3, 2, 1), ((2, 3), (1, 2), (0, 1))])
def test_indices_are_those_of_the_maxima(window, strides, padding):
    x = jnp.asarray(np.random.default_rng(0).permutation(2 * 6 * 7 * 3).reshape(2, 6, 7, 3), jnp.float32)
    with strict():
        best, index = pool.max_pool_with_indices(x, window, strides, padding)
    assert index.dtype == jnp.int32
    np.testing.assert_array_equal(best, pool.max_pool(x, window, strides, padding))
    flat = np.asarray(x).reshape(2, 42, 3)
    np.testing.assert_array_equal(
        np.take_along_axis(flat, np.asarray(index).reshape(2, -1, 3), 1), best.reshape(2, -1, 3)
    )


def test_unpooling_puts_maxima_back_and_gradients_follow_them():
    x = jnp.asarray(np.random.default_rng(0).permutation(4 * 6 * 2).reshape(1, 4, 6, 2), jnp.float32)

    def round_trip(x):
        best, index = pool.max_pool_with_indices(x, 2)
        return pool.max_unpool(best, index, (4, 6))

    with strict():
        y, pull = jax.vjp(round_trip, x)
        (gradient,) = pull(jnp.ones_like(y))
    kept = np.asarray(x) == np.repeat(np.repeat(pool.max_pool(x, 2), 2, 1), 2, 2)
    np.testing.assert_array_equal(y, np.where(kept, x, 0))
    np.testing.assert_array_equal(gradient, kept.astype(np.float32))


def test_of_equal_pixels_the_first_is_taken_and_shapes_are_checked():
    best, index = pool.max_pool_with_indices(jnp.zeros((1, 2, 2, 1)), 2)
    assert int(index[0, 0, 0, 0]) == 0
    with pytest.raises(ValueError, match="equal shapes"):
        pool.max_unpool(best, index[:, :0], (2, 2))
