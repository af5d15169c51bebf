"""Pooling against loops over windows in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from jaxvision.ops import pool
from tests.conftest import strict


def windows(size, window, stride, padding, ceil_mode):
    """(start, end) of each window in unpadded coordinates, torch's rules written as a search."""
    starts, start = [], -padding
    while start + window <= size + padding or (ceil_mode and start - stride + window < size + padding):
        if start >= size:
            break
        starts.append(start)
        start += stride
    return [(s, s + window) for s in starts]


def oracle(x, window, stride, padding, ceil_mode, kind, include_pad=True):
    rows = windows(x.shape[1], window, stride, padding, ceil_mode)
    columns = windows(x.shape[2], window, stride, padding, ceil_mode)
    out = np.zeros((x.shape[0], len(rows), len(columns), x.shape[3]))
    for i, (top, bottom) in enumerate(rows):
        for j, (left, right) in enumerate(columns):
            patch = x[:, max(top, 0) : bottom, max(left, 0) : right].astype(np.float64)
            if kind == "max":
                out[:, i, j] = patch.max(axis=(1, 2))
                continue
            area = (min(bottom, x.shape[1] + padding) - top) * (min(right, x.shape[2] + padding) - left)
            out[:, i, j] = patch.sum(axis=(1, 2)) / (area if include_pad else patch.shape[1] * patch.shape[2])
    return out


def random(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


@settings(max_examples=15, deadline=None)
@given(
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(0, 2),
    st.booleans(),
    st.booleans(),
)
def test_pools_equal_loops_over_windows(height, width, window, stride, padding, ceil_mode, include_pad):
    assume(padding <= window // 2 and min(height, width) + 2 * padding >= window)
    x = random((2, height, width, 3))
    with strict():
        largest = pool.max_pool(x, window, stride, padding, ceil_mode=ceil_mode)
        mean = pool.avg_pool(x, window, stride, padding, ceil_mode=ceil_mode, count_include_pad=include_pad)
    np.testing.assert_array_equal(largest, oracle(x, window, stride, padding, ceil_mode, "max"))
    np.testing.assert_allclose(mean, oracle(x, window, stride, padding, ceil_mode, "avg", include_pad), atol=1e-6)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 10), st.integers(1, 10))
def test_adaptive_pool_equals_a_loop_over_uneven_bins(height, width, rows, columns):
    x = random((1, height, width, 2))
    with strict():
        out = pool.adaptive_avg_pool(x, (rows, columns))
    for i in range(rows):
        for j in range(columns):
            top, bottom = int(np.floor(i * height / rows)), int(np.ceil((i + 1) * height / rows))
            left, right = int(np.floor(j * width / columns)), int(np.ceil((j + 1) * width / columns))
            np.testing.assert_allclose(out[:, i, j], x[:, top:bottom, left:right].mean(axis=(1, 2)), atol=1e-6)


def test_global_pool_is_the_mean_over_space():
    x = random((2, 5, 3, 4))
    np.testing.assert_allclose(pool.global_avg_pool(x), x.mean(axis=(1, 2)), atol=1e-6)


@pytest.mark.parametrize("op", [
    lambda x: pool.max_pool(x, 3, 2, 1, ceil_mode=True),
    lambda x: pool.avg_pool(x, (3, 2), 2, 1, ceil_mode=True),
    lambda x: pool.adaptive_avg_pool(x, (3, 2)),
    pool.global_avg_pool,
])  # fmt: skip
def test_gradients_are_finite_and_pools_vmap_and_keep_bfloat16(op):
    x = jnp.asarray(random((2, 3, 5, 4, 2)))
    with strict():
        grad, mapped, (full, tangent), half = jax.jit(
            lambda x: (
                jax.grad(lambda x: jnp.square(op(x)).sum())(x[0]),
                jax.vmap(op)(x),
                jax.jvp(op, (x[0],), (x[1],)),
                op(x[0].astype(jnp.bfloat16)),
            )
        )(x)
    assert np.isfinite(grad).all() and np.abs(grad).max() > 0 and np.isfinite(tangent).all()
    np.testing.assert_allclose(mapped[0], full, atol=1e-6)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(jnp.float32), full, atol=2e-2)


def test_max_pool_passes_the_gradient_to_the_first_of_equal_values():
    grad = jax.grad(lambda x: pool.max_pool(x, 2).sum())(jnp.ones((1, 2, 2, 1)))
    np.testing.assert_array_equal(grad.reshape(-1), [1, 0, 0, 0])


def test_errors_name_what_was_given():
    x = jnp.zeros((1, 4, 4, 1))
    with pytest.raises(ValueError, match="padding=2 for a window of 3"):
        pool.max_pool(x, 3, padding=2)
    with pytest.raises(ValueError, match="window of 5 for 4 pixels"):
        pool.avg_pool(x, 5)
    with pytest.raises(ValueError, match=r"takes \[B, H, W, C\]"):
        pool.max_pool(x[0], 2)
    with pytest.raises(ValueError, match="positive sizes"):
        pool.adaptive_avg_pool(x, 0)
