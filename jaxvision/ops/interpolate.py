"""Resizing with the rules of torch.nn.functional.interpolate, NHWC.

What jax.image.resize does differently: it always smooths when it shrinks, takes a = -0.5 for cubic kernels and has no
align_corners. Linear and cubic kernels are separable, so each axis is one small constant matrix: a product runs well
on every accelerator, and so does its transpose in the backward pass, where gathers would become scatters.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxvision.ops.pool import adaptive_avg_pool

METHODS = ("nearest", "nearest-exact", "bilinear", "bicubic", "area")


def interpolate(
    x: Float[Array, "b h w c"],
    size: int | tuple[int, int] | None = None,
    *,
    scale: float | tuple[float, float] | None = None,
    method: str = "bilinear",
    align_corners: bool = False,
    antialias: bool = False,
) -> Float[Array, "b h2 w2 c"]:
    """Resizes height and width; computes in float32 and returns the dtype of `x`.

    A non-finite pixel spreads along its row and column under "bilinear" and "bicubic".

    Args:
      size: output (height, width), or one int for both. Exactly one of `size` and `scale` is given.
      scale: factors of (height, width), or one for both; the output size is rounded down, and the factor itself
        (not the ratio of the sizes) places the samples, as in torch.
      method: "nearest" (floor, torch's default) | "nearest-exact" | "bilinear" | "bicubic" (a = -0.75, with
        antialias -0.5) | "area" (adaptive mean).
      align_corners: the centres of corner pixels map to each other ("bilinear", "bicubic").
      antialias: widens the kernel when shrinking, as Pillow does ("bilinear", "bicubic").

    Raises:
      ValueError: arguments that contradict each other, or an output without pixels.
    """
    (height, width), steps = _check(x, size, scale, method, align_corners, antialias)
    if method == "area":
        return adaptive_avg_pool(x, (height, width))
    axes = list(zip((1, 2), (height, width), steps, strict=True))
    if method in ("nearest", "nearest-exact"):
        for axis, out, step in axes:
            x = _nearest(x, axis, out, step, half=0.5 if method == "nearest-exact" else 0.0)
        return x
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"interpolate got {x.dtype} for method={method!r}; cast to float32, or use 'nearest'")
    # The axis that grows least goes first: the array in between stays small.
    axes.sort(key=lambda a: a[1] / x.shape[a[0]])
    y = x.astype(jnp.float32)
    for axis, out, step in axes:
        weights = _weights(x.shape[axis], out, step, method, align_corners, antialias)
        if not np.array_equal(weights, np.eye(x.shape[axis])):
            product = "bhwc,ih->biwc" if axis == 1 else "bhwc,jw->bhjc"
            y = jnp.einsum(product, y, weights.astype(np.float32), precision=jax.lax.Precision.HIGHEST)
    return y.astype(x.dtype)


def _check(
    x: Array,
    size: int | tuple[int, int] | None,
    scale: float | tuple[float, float] | None,
    method: str,
    align_corners: bool,
    antialias: bool,
) -> tuple[tuple[int, int], tuple[float, float]]:
    """Validates the arguments -> output size, and input pixels per output pixel of each axis."""
    if x.ndim != 4:
        raise ValueError(f"interpolate got an array of shape {x.shape}; it takes [B, H, W, C]")
    if method not in METHODS:
        raise ValueError(f"interpolate got method={method!r}; it knows {', '.join(METHODS)}")
    if (align_corners or antialias) and method not in ("bilinear", "bicubic"):
        raise ValueError(
            f"interpolate got method={method!r} with align_corners={align_corners}, antialias={antialias}; "
            "these belong to 'bilinear' and 'bicubic'"
        )
    if align_corners and antialias:
        raise ValueError("interpolate got align_corners and antialias; choose one")
    inputs = x.shape[1:3]
    ratios = None
    if scale is not None and size is None:
        ratios = scale if isinstance(scale, tuple) else (scale, scale)
        outputs = math.floor(inputs[0] * ratios[0]), math.floor(inputs[1] * ratios[1])
    elif size is not None and scale is None:
        outputs = size if isinstance(size, tuple) else (size, size)
    else:
        raise ValueError(f"interpolate got size={size} and scale={scale}; give exactly one of them")
    if min(*outputs, *inputs) < 1:
        raise ValueError(f"interpolate cannot turn {inputs} pixels into {outputs}; both sizes must be positive")
    if align_corners:
        steps = [(n - 1) / (m - 1) if m > 1 else 0.0 for n, m in zip(inputs, outputs, strict=True)]
    elif ratios is not None:
        steps = [1 / r for r in ratios]
    else:
        steps = [n / m for n, m in zip(inputs, outputs, strict=True)]
    return outputs, (steps[0], steps[1])


def _nearest(x: Array, axis: int, out: int, step: float, half: float) -> Array:
    # Torch computes these indices in float32; other precisions pick another pixel at some ratios.
    position = (np.arange(out, dtype=np.float32) + np.float32(half)) * np.float32(step)
    index = np.minimum(np.floor(position).astype(np.int32), x.shape[axis] - 1)
    repeats, rest = divmod(out, x.shape[axis])
    if rest == 0 and np.array_equal(index, np.repeat(np.arange(x.shape[axis]), repeats)):
        return x if repeats == 1 else jnp.repeat(x, repeats, axis=axis)
    return jnp.take(x, index, axis=axis)


def _weights(size: int, out: int, step: float, method: str, align_corners: bool, antialias: bool) -> np.ndarray:
    """The matrix [out, size] that resamples one axis; rows sum to one."""
    i = np.arange(out, dtype=np.float64)
    if antialias:
        return _antialias_weights(size, (i + 0.5) * step, step, method)
    source = i * step if align_corners else (i + 0.5) * step - 0.5
    if method == "bilinear":
        source = np.maximum(source, 0)
    low = np.floor(source)
    reach = range(2) if method == "bilinear" else range(-1, 3)
    weights = np.zeros((out, size))
    for tap in reach:
        pixel = np.clip(low + tap, 0, size - 1).astype(int)  # torch repeats the border
        np.add.at(weights, (np.arange(out), pixel), _kernel(method, source - low - tap, a=-0.75))
    return weights


def _antialias_weights(size: int, centre: np.ndarray, step: float, method: str) -> np.ndarray:
    """Pillow's scheme: the kernel is stretched by the ratio when shrinking, cut at the border and renormalised."""
    stretch = max(step, 1.0)
    support = (1 if method == "bilinear" else 2) * stretch
    first = np.maximum((centre - support + 0.5).astype(int), 0)
    last = np.minimum((centre + support + 0.5).astype(int), size)
    pixel = np.arange(size)
    weights = _kernel(method, (pixel[None, :] + 0.5 - centre[:, None]) / stretch, a=-0.5)
    weights *= (first[:, None] <= pixel) & (pixel < last[:, None])
    return weights / weights.sum(axis=1, keepdims=True)


def _kernel(method: str, distance: np.ndarray, a: float) -> np.ndarray:
    """Triangle, or the cubic convolution kernel of Keys 1981 with parameter `a`."""
    d = np.abs(distance)
    if method == "bilinear":
        return np.maximum(1 - d, 0)
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((d - 5) * d + 8) * d * a - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0))
