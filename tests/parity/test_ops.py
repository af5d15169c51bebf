"""Pooling and interpolation against torch.nn.functional on random and degenerate sizes, values and gradients."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.ops import pool
from jaxvision.ops.interpolate import interpolate
from tests.conftest import strict
from tests.parity.torch_weights import nchw, nhwc

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
F = torch.nn.functional

RNG = np.random.default_rng(0)


def check(ours, theirs, shape, atol=2e-6):
    """Equal values, and equal gradients of the sum of squares."""
    x = torch.from_numpy(RNG.standard_normal(shape, np.float32)).requires_grad_()
    want = theirs(x)
    want.square().sum().backward()
    with strict():
        y, pullback = jax.vjp(ours, nhwc(x))
        (grad,) = pullback(2 * y)
    assert nchw(y).shape == want.shape
    np.testing.assert_allclose(nchw(y), want.detach(), atol=atol)
    np.testing.assert_allclose(nchw(grad), x.grad, atol=20 * atol, rtol=1e-5)


POOLS = [
    (window, stride, padding, ceil)
    for window, stride, padding, ceil in itertools.product((1, 2, 3, (3, 2)), (1, 2, 3), (0, 1), (False, True))
    if padding == 0 or window == 3
]


@pytest.mark.parametrize("window,stride,padding,ceil_mode", POOLS)
def test_max_and_average_pool(window, stride, padding, ceil_mode):
    for h, w in ((7, 6), (3, 4), (3, 3)):
        shape = (2, 3, h, w)
        check(
            lambda x: pool.max_pool(x, window, stride, padding, ceil_mode=ceil_mode),
            lambda x: F.max_pool2d(x, window, stride, padding, ceil_mode=ceil_mode),
            shape,
        )
        for include in (True, False):
            check(
                lambda x, i=include: pool.avg_pool(
                    x, window, stride, padding, ceil_mode=ceil_mode, count_include_pad=i
                ),
                lambda x, i=include: F.avg_pool2d(x, window, stride, padding, ceil_mode, count_include_pad=i),
                shape,
            )


@pytest.mark.parametrize("size", [1, 2, 3, 6, (5, 9)])
def test_adaptive_average_pool(size):
    for h, w in ((1, 1), (7, 5), (6, 12)):
        check(lambda x: pool.adaptive_avg_pool(x, size), lambda x: F.adaptive_avg_pool2d(x, size), (2, 3, h, w))


def test_the_gradient_of_max_pool_at_ties_goes_where_torch_sends_it():
    x = torch.from_numpy(RNG.integers(0, 2, (1, 2, 7, 7)).astype(np.float32)).requires_grad_()
    F.max_pool2d(x, 3, 2, 1).sum().backward()
    grad = jax.grad(lambda x: pool.max_pool(x, 3, 2, 1).sum())(nhwc(x))
    np.testing.assert_array_equal(nchw(grad), x.grad)


METHODS = [
    ("nearest", None, False), ("nearest-exact", None, False), ("area", None, False), ("bilinear", False, False),
    ("bilinear", True, False), ("bilinear", False, True), ("bicubic", False, False), ("bicubic", True, False),
    ("bicubic", False, True),
]  # fmt: skip
SIZES = [(1, 1), (1, 7), (2, 3), (5, 4), (8, 8), (13, 6)]


@pytest.mark.parametrize("method,align_corners,antialias", METHODS)
def test_interpolate_to_a_size(method, align_corners, antialias):
    for (h, w), size in itertools.product([(1, 1), (4, 5), (7, 16)], SIZES):
        check(
            lambda x, s=size: interpolate(x, s, method=method, align_corners=bool(align_corners), antialias=antialias),
            lambda x, s=size: F.interpolate(x, s, mode=method, align_corners=align_corners, antialias=antialias),
            (2, 2, h, w),
            atol=1e-5,
        )


@pytest.mark.parametrize("method,align_corners,antialias", METHODS)
def test_interpolate_by_a_scale(method, align_corners, antialias):
    for scale in (2, 0.5, 1.5, 0.37, (2.6, 0.7)):
        check(
            lambda x, s=scale: interpolate(
                x, scale=s, method=method, align_corners=bool(align_corners), antialias=antialias
            ),
            lambda x, s=scale: F.interpolate(
                x, scale_factor=s, mode=method, align_corners=align_corners, antialias=antialias
            ),
            (2, 2, 5, 7),
            atol=1e-5,
        )


@pytest.mark.parametrize("method", ["nearest", "nearest-exact"])
def test_nearest_picks_torchs_pixel_at_odd_ratios(method):
    for n, m in [
        (1, 5),
        (3, 7),
        (7, 3),
        (50, 49),
        (49, 50),
        (224, 97),
        (97, 224),
        *RNG.integers(1, 130, (25, 2)).tolist(),
    ]:
        x = np.arange(n, dtype=np.float32).reshape(1, 1, n, 1)
        want = F.interpolate(torch.from_numpy(x), (m, 1), mode=method)
        y = interpolate(nhwc(x), (m, 1), method=method)
        np.testing.assert_array_equal(nchw(y), want, err_msg=f"{n} -> {m}")


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
def test_bfloat16_is_as_close_to_float32_as_in_torch(method):
    x = torch.from_numpy(RNG.standard_normal((1, 3, 9, 11), np.float32)).bfloat16()
    exact = F.interpolate(x.float(), (20, 7), mode=method)
    y = interpolate(nhwc(x.float()).astype(jnp.bfloat16), (20, 7), method=method)
    np.testing.assert_allclose(nchw(y.astype(jnp.float32)), exact, atol=1e-2, rtol=4e-3)
