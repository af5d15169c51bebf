"""Pooling with torch's rules (torch.nn.functional: padding, ceil_mode, count_include_pad, adaptive bins), NHWC.

Means are accumulated in float32 and cast back. Window sizes, strides and padding are one int or a (height, width) pair.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

IntOrPair = int | tuple[int, int]


def max_pool(
    x: Float[Array, "b h w c"],
    window: IntOrPair,
    strides: IntOrPair | None = None,
    padding: IntOrPair = 0,
    *,
    ceil_mode: bool = False,
) -> Float[Array, "b h2 w2 c"]:
    """Maximum of each window; padding counts as -inf.

    Args:
      strides: None takes the window.
      padding: added on both sides, at most half the window.
      ceil_mode: also keeps a last window that hangs over the edge, if it starts inside the left-padded input.
    """
    size, step, pads, _ = _windows(x, window, strides, padding, ceil_mode)
    lowest = np.array(-np.inf, x.dtype)
    return jax.lax.reduce_window(x, lowest, jax.lax.max, (1, *size, 1), (1, *step, 1), ((0, 0), *pads, (0, 0)))


def max_pool_with_indices(
    x: Float[Array, "b h w c"], window: IntOrPair, strides: IntOrPair | None = None, padding: IntOrPair = 0
) -> tuple[Float[Array, "b h2 w2 c"], Int[Array, "b h2 w2 c"]]:
    """`max_pool` without ceil_mode, and where each maximum was: row * w + column, int32; of equal ones the first.

    The gradient goes to that pixel alone.
    """
    size, step, pads, padded = _windows(x, window, strides, padding, False)
    height, width = x.shape[1:3]
    counts = [(n + 2 * p - k) // s + 1 for n, p, k, s in zip((height, width), padded, size, step, strict=True)]
    y = jnp.pad(x, ((0, 0), *pads, (0, 0)), constant_values=-np.inf)
    rows, columns = (np.arange(n) * s - p for n, s, p in zip(counts, step, padded, strict=True))
    places, values = [], []
    for i in range(size[0]):
        for j in range(size[1]):
            ends = (i + (counts[0] - 1) * step[0] + 1, j + (counts[1] - 1) * step[1] + 1)
            values.append(y[:, i : ends[0] : step[0], j : ends[1] : step[1]])
            places.append((rows + i)[:, None] * width + columns + j)
    best, index = values[0], jnp.broadcast_to(jnp.asarray(places[0], jnp.int32)[None, :, :, None], values[0].shape)
    for value, place in zip(values[1:], places[1:], strict=True):
        better = value > best
        best = jnp.where(better, value, best)
        index = jnp.where(better, jnp.asarray(place, jnp.int32)[None, :, :, None], index)
    return best, index


def max_unpool(
    x: Float[Array, "b h w c"], indices: Int[Array, "b h w c"], size: tuple[int, int]
) -> Float[Array, "b h2 w2 c"]:
    """Puts maxima back where they were, zeros elsewhere (Zeiler and Fergus 2014; SegNet and DeconvNet).

    Args:
      indices: of `max_pool_with_indices`, row * width + column of the output; those beyond it are left out.
      size: height and width of the output: those of the map that was pooled. Where windows overlapped and two maxima
        were the same pixel, one of the values stays.

    Raises:
      ValueError: shapes that do not fit each other, or a size without pixels.
    """
    _check_rank(x)
    if x.shape != indices.shape or min(size) < 1:
        raise ValueError(f"max_unpool got {x.shape}, indices {indices.shape} and size={size}; it takes equal shapes")
    b, _, _, c = x.shape
    image, channel = np.arange(b)[:, None, None], np.arange(c)[None, None]
    flat = jnp.zeros((b, size[0] * size[1], c), x.dtype)
    flat = flat.at[image, indices.reshape(b, -1, c), channel].set(x.reshape(b, -1, c), mode="drop")
    return flat.reshape(b, *size, c)


def avg_pool(
    x: Float[Array, "b h w c"],
    window: IntOrPair,
    strides: IntOrPair | None = None,
    padding: IntOrPair = 0,
    *,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Float[Array, "b h2 w2 c"]:
    """Mean of each window.

    Args:
      strides, padding, ceil_mode: as in `max_pool`.
      count_include_pad: padding counts as zeros in the mean (what ceil_mode adds beyond it never counts).
    """
    size, step, pads, padded = _windows(x, window, strides, padding, ceil_mode)
    zero = np.array(0, np.float32)
    dimensions = (1, *size, 1), (1, *step, 1), ((0, 0), *pads, (0, 0))
    sums = jax.lax.reduce_window(x.astype(jnp.float32), zero, jax.lax.add, *dimensions)
    rows, columns = (
        _counts(x.shape[1 + i], size[i], step[i], pads[i][0], padded[i] if count_include_pad else 0, sums.shape[1 + i])
        for i in range(2)
    )
    return (sums / np.multiply.outer(rows, columns)[None, :, :, None]).astype(x.dtype)


def global_avg_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b c"]:
    """Mean over height and width."""
    return jnp.mean(x.astype(jnp.float32), axis=(1, 2)).astype(x.dtype)


def adaptive_avg_pool(x: Float[Array, "b h w c"], size: IntOrPair) -> Float[Array, "b h2 w2 c"]:
    """Means over `size` bins: bin i covers the pixels floor(i * n / size) up to ceil((i + 1) * n / size), exclusive.

    Bins overlap where `size` does not divide the input, and repeat pixels where it is larger.
    """
    _check_rank(x)
    height, width = _pair(size)
    if min(height, width) < 1:
        raise ValueError(f"adaptive_avg_pool got size={size}; it takes positive sizes")
    b, h, w, c = x.shape
    y = x.astype(jnp.float32)
    if h % height == 0 and w % width == 0:
        y = jnp.mean(y.reshape(b, height, h // height, width, w // width, c), axis=(2, 4))
    else:
        bins = _adaptive_matrix(h, height), _adaptive_matrix(w, width)
        y = jnp.einsum("bhwc,ih,jw->bijc", y, *bins, precision=jax.lax.Precision.HIGHEST)
    return y.astype(x.dtype)


def _windows(
    x: Array, window: IntOrPair, strides: IntOrPair | None, padding: IntOrPair, ceil_mode: bool
) -> tuple[tuple[int, int], tuple[int, int], tuple[tuple[int, int], ...], tuple[int, int]]:
    """Checks the arguments -> window, strides, (low, high) padding of each axis for XLA, and torch's padding."""
    _check_rank(x)
    sizes, paddings = _pair(window), _pair(padding)
    steps = sizes if strides is None else _pair(strides)
    pads = []
    for n, k, s, p in zip(x.shape[1:3], sizes, steps, paddings, strict=True):
        if not 0 <= p <= k // 2:
            raise ValueError(f"pooling got padding={p} for a window of {k}; padding is at most half the window")
        if n + 2 * p < k:
            raise ValueError(f"pooling got a window of {k} for {n} pixels padded by {p}: {x.shape} is too small")
        out = (n + 2 * p - k) // s + 1
        if ceil_mode and (n + 2 * p - k) % s and out * s < n + p:
            out += 1
        pads.append((p, max((out - 1) * s + k - n - p, 0)))  # on the right only what the last window reaches
    return sizes, steps, tuple(pads), paddings


def _counts(size: int, window: int, stride: int, low: int, counted_pad: int, out: int) -> np.ndarray:
    """Number of values in each window that its mean divides by."""
    start = np.arange(out) * stride - low
    end = np.minimum(start + window, size + counted_pad)
    return (end - np.maximum(start, -counted_pad)).astype(np.float32)


def _adaptive_matrix(size: int, out: int) -> np.ndarray:
    i = np.arange(out)[:, None]
    start, end = i * size // out, -(-(i + 1) * size // out)
    pixel = np.arange(size)[None, :]
    return (((start <= pixel) & (pixel < end)) / (end - start)).astype(np.float32)


def _pair(value: IntOrPair) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


def _check_rank(x: Array) -> None:
    if x.ndim != 4:
        raise ValueError(f"pooling got an array of shape {x.shape}; it takes [B, H, W, C]")
