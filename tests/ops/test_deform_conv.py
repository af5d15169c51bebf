"""Deformable convolution and deformable attention against loops in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.ops.deform_conv import deform_conv2d
from jaxvision.ops.deformable_attention import deformable_attention
from tests.conftest import strict

RNG = np.random.default_rng(0)
START = RNG.bit_generator.state


@pytest.fixture(autouse=True)
def _same_numbers_in_any_order():
    RNG.bit_generator.state = START


def random(shape):
    return RNG.standard_normal(shape, np.float32)


def bilinear(image, y, x):
    """Zeros outside."""
    total = np.zeros(image.shape[2:])
    for row in (int(np.floor(y)), int(np.floor(y)) + 1):
        for column in (int(np.floor(x)), int(np.floor(x)) + 1):
            if 0 <= row < image.shape[0] and 0 <= column < image.shape[1]:
                total += (1 - abs(y - row)) * (1 - abs(x - column)) * image[row, column]
    return total


def oracle(x, offsets, kernel, mask, bias, strides, padding, dilation):
    kh, kw, of_group, features = kernel.shape
    taps, channels = kh * kw, x.shape[3]
    moving, groups = offsets.shape[3] // (2 * taps), channels // of_group
    out = np.zeros((*offsets.shape[:3], features))
    per = channels // moving
    for b, i, j in np.ndindex(*out.shape[:3]):
        read = np.zeros((kh, kw, channels))
        for p, q, g in np.ndindex(kh, kw, moving):
            shift = offsets[b, i, j, 2 * (g * taps + p * kw + q) :][:2]
            y = i * strides[0] - padding[0] + p * dilation[0] + shift[0]
            z = j * strides[1] - padding[1] + q * dilation[1] + shift[1]
            own = slice(g * per, (g + 1) * per)
            factor = 1 if mask is None else mask[b, i, j, g * taps + p * kw + q]
            read[p, q, own] = factor * bilinear(x[b, :, :, own], y, z)
        for o in range(features):
            g = o // (features // groups)
            out[b, i, j, o] = np.sum(read[:, :, g * of_group : (g + 1) * of_group] * kernel[..., o])
    return out if bias is None else out + bias


@pytest.mark.parametrize(
    "groups,moving,strides,padding,dilation,modulated",
    [(1, 1, (1, 1), (1, 1), (1, 1), False), (2, 4, (2, 1), (0, 2), (1, 2), True)],
)
def test_deformable_convolution_equals_a_loop(groups, moving, strides, padding, dilation, modulated):
    x, kernel, bias = random((2, 6, 7, 8)), random((3, 2, 8 // groups, 4)), random(4)
    h = (6 + 2 * padding[0] - 2 * dilation[0] - 1) // strides[0] + 1
    w = (7 + 2 * padding[1] - dilation[1] - 1) // strides[1] + 1
    offsets, mask = 2 * random((2, h, w, 2 * moving * 6)), random((2, h, w, moving * 6)) if modulated else None
    offsets[0, 0] = np.round(offsets[0, 0])
    options = dict(strides=strides, padding=padding, dilation=dilation)
    with strict():
        out = jax.jit(lambda *a: deform_conv2d(*a, **options))(x, offsets, kernel, mask, bias)
    np.testing.assert_allclose(out, oracle(x, offsets, kernel, mask, bias, **options), atol=2e-5)


def test_offsets_of_zero_are_a_convolution_and_gradients_are_finite_for_any_offset():
    x, kernel = random((1, 5, 5, 2)), random((3, 3, 2, 3))
    still = np.zeros((1, 5, 5, 18), np.float32)
    with strict():
        run = jax.jit(lambda o: deform_conv2d(x, o, kernel, padding=1))
        want = jax.lax.conv_general_dilated(
            x, kernel, (1, 1), [(1, 1), (1, 1)], dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        np.testing.assert_allclose(run(still), want, atol=1e-5)
        wild = still.copy()
        wild[0, :, 0], wild[0, :, 1], wild[0, :, 2] = np.nan, 1e30, -np.inf
        out, pullback = jax.vjp(lambda x, o, k: deform_conv2d(x, o, k, padding=1), x, wild, kernel)
        gradients = jax.jit(pullback)(out)
        half = deform_conv2d(x.astype(jnp.bfloat16), still.astype(jnp.bfloat16), kernel, padding=1)
    assert np.isfinite(out).all() and all(np.isfinite(g).all() for g in gradients)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(jnp.float32), want, atol=0.1)


def test_shapes_that_do_not_fit_are_told():
    x, kernel = jnp.ones((1, 5, 5, 4)), jnp.ones((3, 3, 4, 2))
    with pytest.raises(ValueError, match=r"offsets \(1, 5, 5, 18\)"):
        deform_conv2d(x, jnp.ones((1, 5, 5, 18)), kernel)
    with pytest.raises(ValueError, match=r"mask \(1, 5, 5, 8\)"):
        deform_conv2d(x, jnp.ones((1, 5, 5, 18)), kernel, jnp.ones((1, 5, 5, 8)), padding=1)
    with pytest.raises(ValueError, match="4 channels"):
        deform_conv2d(x, jnp.ones((1, 5, 5, 18)), jnp.ones((3, 3, 3, 2)), padding=1)
    with pytest.raises(ValueError, match="no pixel"):
        deform_conv2d(x, jnp.ones((1, 0, 0, 18)), kernel, dilation=4)
    with pytest.raises(ValueError, match="21 places"):
        deformable_attention(
            jnp.ones((1, 20, 2, 4)), ((4, 4), (1, 5)), jnp.ones((1, 3, 2, 2, 1, 2)), jnp.ones((1, 3, 2, 2, 1))
        )
    with pytest.raises(ValueError, match="heads and levels differ"):
        deformable_attention(
            jnp.ones((1, 21, 1, 4)), ((4, 4), (1, 5)), jnp.ones((1, 3, 2, 2, 1, 2)), jnp.ones((1, 3, 2, 2, 1))
        )


def test_deformable_attention_equals_a_loop():
    shapes, heads, points, size = ((4, 6), (2, 3), (1, 1)), 2, 3, 5
    values = random((2, sum(h * w for h, w in shapes), heads, size))
    locations = RNG.uniform(-0.3, 1.3, (2, 7, heads, len(shapes), points, 2)).astype(np.float32)
    weights = RNG.random((2, 7, heads, len(shapes), points), np.float32)
    with strict():
        out = jax.jit(lambda *a: deformable_attention(a[0], shapes, *a[1:]))(values, locations, weights)
    want, start = np.zeros((2, 7, heads, size)), 0
    for level, (h, w) in enumerate(shapes):
        maps = values[:, start : start + h * w].reshape(2, h, w, heads, size)
        start += h * w
        for b, q, m, p in np.ndindex(2, 7, heads, points):
            x, y = locations[b, q, m, level, p]
            want[b, q, m] += weights[b, q, m, level, p] * bilinear(maps[b, :, :, m], y * h - 0.5, x * w - 0.5)
    np.testing.assert_allclose(out, want.reshape(2, 7, -1), atol=1e-5)
    assert deformable_attention(values, shapes, locations[:, :0], weights[:, :0]).shape == (2, 0, heads * size)
