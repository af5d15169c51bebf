"""Interpolation against a loop over output pixels in numpy, written from the definition of each method."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxvision.ops.interpolate import interpolate
from tests.conftest import strict


def cubic(d, a):
    d = abs(d)
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.0


def sample(row, i, step, method, align_corners, antialias):
    """Output pixel i of one row [n, ...]."""
    n = len(row)
    if method == "nearest":
        return row[min(int(np.floor(np.float32(i) * np.float32(step))), n - 1)]
    if method == "nearest-exact":
        return row[min(int(np.floor((np.float32(i) + np.float32(0.5)) * np.float32(step))), n - 1)]
    if antialias:
        stretch, centre = max(step, 1.0), (i + 0.5) * step
        reach = (1 if method == "bilinear" else 2) * stretch
        weights = {}
        for p in range(n):
            if int(centre - reach + 0.5) <= p < int(centre + reach + 0.5):
                d = (p + 0.5 - centre) / stretch
                weights[p] = max(1 - abs(d), 0) if method == "bilinear" else cubic(d, -0.5)
        return sum(w * row[p] for p, w in weights.items()) / sum(weights.values())
    source = i * step if align_corners else (i + 0.5) * step - 0.5
    if method == "bilinear":
        source = min(max(source, 0.0), n - 1.0)
        low = int(source)
        return (1 - source + low) * row[low] + (source - low) * row[min(low + 1, n - 1)]
    low = int(np.floor(source))
    return sum(cubic(source - p, -0.75) * row[min(max(p, 0), n - 1)] for p in range(low - 1, low + 3))


METHODS = [
    ("nearest", False, False), ("nearest-exact", False, False), ("bilinear", False, False), ("bilinear", True, False),
    ("bilinear", False, True), ("bicubic", False, False), ("bicubic", True, False), ("bicubic", False, True),
]  # fmt: skip


def random(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def expected(x, size, method, align_corners, antialias, scale=None):
    steps = []
    for n, m in zip(x.shape[1:3], size, strict=True):
        if align_corners:
            steps.append((n - 1) / (m - 1) if m > 1 else 0.0)
        else:
            steps.append(1 / scale if scale else n / m)
    y = x.astype(np.float64)
    for axis, (m, step) in enumerate(zip(size, steps, strict=True), start=1):
        rows = np.moveaxis(y, axis, 0)
        y = np.stack([sample(rows, i, step, method, align_corners, antialias) for i in range(m)])
        y = np.moveaxis(y, 0, axis)
    return y


@pytest.mark.parametrize("method,align_corners,antialias", METHODS)
@settings(max_examples=5, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 12), st.integers(1, 12))
def test_sizes_equal_the_definition(method, align_corners, antialias, h, w, h2, w2):
    x = random((1, h, w, 2))
    with strict():
        y = interpolate(x, (h2, w2), method=method, align_corners=align_corners, antialias=antialias)
    np.testing.assert_allclose(y, expected(x, (h2, w2), method, align_corners, antialias), atol=2e-6)


@pytest.mark.parametrize("method,align_corners,antialias", METHODS)
@pytest.mark.parametrize("scale", [0.4, 1.7, 2.0, 3])
def test_a_scale_rounds_the_size_down_and_places_samples_by_the_factor(method, align_corners, antialias, scale):
    x = random((1, 5, 7, 2))
    size = (int(5 * scale), int(7 * scale))
    y = interpolate(x, scale=scale, method=method, align_corners=align_corners, antialias=antialias)
    np.testing.assert_allclose(y, expected(x, size, method, align_corners, antialias, scale), atol=2e-6)


@pytest.mark.parametrize("method,align_corners,antialias", METHODS)
def test_gradients_are_finite_and_sum_to_the_number_of_output_pixels(method, align_corners, antialias):
    def resize(x):
        return interpolate(x, (3, 9), method=method, align_corners=align_corners, antialias=antialias)

    x = jnp.asarray(random((2, 1, 5, 4, 2)))
    with strict():
        grad, mapped, full, half = jax.jit(
            lambda x: (
                jax.grad(lambda x: resize(x).sum())(x[0]),
                jax.vmap(resize)(x),
                resize(x[0]),
                resize(x[0].astype(jnp.bfloat16)),
            )
        )(x)
    np.testing.assert_allclose(grad.sum(), 3 * 9 * 2, rtol=1e-5)
    np.testing.assert_allclose(mapped[0], full, atol=1e-6)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(jnp.float32), full, atol=3e-2)


def test_integer_factors_of_nearest_repeat_pixels_of_any_dtype():
    x = np.arange(6, dtype=np.uint8).reshape(1, 2, 3, 1)
    y = interpolate(jnp.asarray(x), scale=2, method="nearest")
    assert y.dtype == jnp.uint8
    np.testing.assert_array_equal(y, x.repeat(2, axis=1).repeat(2, axis=2))


def test_the_same_size_returns_the_same_pixels():
    x = jnp.asarray(random((1, 4, 6, 2)))
    for method in ("nearest", "bilinear", "bicubic", "area"):
        np.testing.assert_array_equal(interpolate(x, (4, 6), method=method), x)


def test_errors_name_what_was_given():
    x = jnp.zeros((1, 4, 4, 1))
    with pytest.raises(ValueError, match="exactly one"):
        interpolate(x, 2, scale=2.0)
    with pytest.raises(ValueError, match="exactly one"):
        interpolate(x)
    with pytest.raises(ValueError, match="'cubic'; it knows"):
        interpolate(x, 2, method="cubic")
    with pytest.raises(ValueError, match="belong to"):
        interpolate(x, 2, method="nearest", align_corners=True)
    with pytest.raises(ValueError, match="choose one"):
        interpolate(x, 2, align_corners=True, antialias=True)
    with pytest.raises(ValueError, match=r"into \(0, 0\)"):
        interpolate(x, scale=0.2)
    with pytest.raises(ValueError, match="uint8"):
        interpolate(x.astype(jnp.uint8), 2)
    with pytest.raises(ValueError, match=r"takes \[B, H, W, C\]"):
        interpolate(x[0], 2)
