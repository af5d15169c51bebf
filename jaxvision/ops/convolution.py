"""2-d convolution, with other forms of it where XLA is slow on CPUs.

On CPUs XLA's own convolution is many times slower than its operations allow where it is depthwise, and slow where it is
widely dilated. There a large one of these becomes a sum over the kernel's taps: products of shifted images with a row
of weights (depthwise), or with a matrix (dilated, where taps that see little but zeros are cheap, too). Other platforms
compile XLA's form, and small arrays take it anywhere, as the sums cost 0.2 to 0.7 seconds to compile.
"""

import itertools
import math
from collections.abc import Iterator, Sequence

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

LARGE = 2**18
"""Elements of an image batch from which on the sums pay off."""
MOST_TAPS = 25
"""Of a depthwise kernel; the gradient of 49 sums takes three seconds to compile."""
WIDE, DEEP = 8, 256
"""Dilation and input channels from which on products of matrices are faster than a dilated convolution: 2048 channels
to 256 at 64 x 128 pixels, two cores, in seconds: 0.59 against 0.73 at a dilation of 12, 0.37 against 1.26 at 36; with
gradients 1.4 against 2.9."""
Pads = Sequence[tuple[int, int]]
Pair = tuple[int, int]


def convolve(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "kh kw i d"],
    *,
    strides: Pair = (1, 1),
    padding: str | Pads = "VALID",
    dilation: Pair = (1, 1),
    groups: int = 1,
) -> Float[Array, "b h2 w2 d"]:
    """Cross-correlation of images with kernels, the sum over taps and the `c / groups` channels of each group.

    2 * b * h2 * w2 * kh * kw * i * d operations, whatever the form.

    Args:
      kernel: `i` is c / groups.
      padding: zeros before and behind the rows and the columns, or XLA's "VALID" or "SAME".
      dilation: distance of the taps.
      groups: independent convolutions side by side.
    """

    def dense(x: Float[Array, "b h w c"], kernel: Float[Array, "kh kw i d"]) -> Float[Array, "b h2 w2 d"]:
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            window_strides=strides,
            padding=padding,
            rhs_dilation=dilation,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )

    taps, channels, features = math.prod(kernel.shape[:2]), x.shape[3], kernel.shape[3]
    if _elements(x) < LARGE:
        return dense(x, kernel)
    extent = [1 + (size - 1) * step for size, step in zip(kernel.shape[:2], dilation, strict=True)]
    pads = jax.lax.padtype_to_pads(x.shape[1:3], extent, strides, padding) if isinstance(padding, str) else padding
    if groups == channels == features and 1 < taps <= MOST_TAPS:
        return jax.lax.platform_dependent(
            x, kernel, cpu=lambda x, k: depthwise_by_taps(x, k, strides, pads, dilation), default=dense
        )
    if groups == 1 and taps > 1 and strides == (1, 1) and min(dilation) >= WIDE and channels >= DEEP:
        return jax.lax.platform_dependent(
            x, kernel, cpu=lambda x, k: dilated_by_taps(x, k, pads, dilation), default=dense
        )
    return dense(x, kernel)


def depthwise_by_taps(
    x: Float[Array, "b h w c"], kernel: Float[Array, "kh kw 1 c"], strides: Pair, pads: Pads, dilation: Pair
) -> Float[Array, "b h2 w2 c"]:
    """The sum of shifted images, each times one weight per channel; adds up in float32 at least."""
    dtype, exact = x.dtype, _exact(x.dtype)
    x = jnp.pad(x.astype(exact), ((0, 0), *pads, (0, 0)))
    height, width = (
        (side - 1 - (size - 1) * step) // stride + 1
        for side, size, step, stride in zip(x.shape[1:3], kernel.shape[:2], dilation, strides, strict=True)
    )
    total = jnp.zeros((), exact)
    for i, j in itertools.product(range(kernel.shape[0]), range(kernel.shape[1])):
        top, left = i * dilation[0], j * dilation[1]
        end = (x.shape[0], top + (height - 1) * strides[0] + 1, left + (width - 1) * strides[1] + 1, x.shape[3])
        shifted = jax.lax.slice(x, (0, top, left, 0), end, (1, *strides, 1))
        total = total + shifted * kernel[i, j].astype(exact)[None, None]
    return total.astype(dtype)


def dilated_by_taps(
    x: Float[Array, "b h w c"], kernel: Float[Array, "kh kw c d"], pads: Pads, dilation: Pair
) -> Float[Array, "b h2 w2 d"]:
    """A product of matrices for each tap, of the pixels that it sees, added at their places; of stride 1."""
    dtype, exact = x.dtype, _exact(x.dtype)
    rows, columns = (
        list(_seen(x.shape[1 + axis], kernel.shape[axis], pads[axis], dilation[axis])) for axis in range(2)
    )
    size = tuple(
        side + sum(pad) - (taps - 1) * step
        for side, pad, taps, step in zip(x.shape[1:3], pads, kernel.shape[:2], dilation, strict=True)
    )
    total = jnp.zeros((x.shape[0], *size, kernel.shape[3]), exact)
    for (i, top, height, row), (j, left, width, column) in itertools.product(rows, columns):
        seen = jax.lax.slice(x, (0, top, left, 0), (x.shape[0], top + height, left + width, x.shape[3]))
        part = jax.lax.dot_general(seen, kernel[i, j], (((3,), (0,)), ((), ())), preferred_element_type=exact)
        behind = (size[0] - row - height, size[1] - column - width)
        total = total + jnp.pad(part, ((0, 0), (row, behind[0]), (column, behind[1]), (0, 0)))
    return total.astype(dtype)


def _elements(x: Array) -> int:
    """Of an array; where it is exported for batches of any size, of one image."""
    return math.prod(side for side in x.shape if not jax.export.is_symbolic_dim(side))


def _exact(dtype: jnp.dtype) -> jnp.dtype:
    """The type in which sums of numbers of this type are taken."""
    return jnp.dtype(np.float32) if jnp.finfo(dtype).bits < 32 else jnp.dtype(dtype)


def _seen(side: int, taps: int, pad: tuple[int, int], step: int) -> Iterator[tuple[int, int, int, int]]:
    """Along one axis, for each tap that sees any pixel: its number, the first pixel, their number, the first output."""
    outputs = side + sum(pad) - (taps - 1) * step
    for tap in range(taps):
        offset = tap * step - pad[0]
        first, end = max(0, -offset), min(outputs, side - offset)
        if end > first:
            yield tap, first + offset, end - first, first
