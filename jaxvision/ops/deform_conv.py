"""Deformable convolution, v1 (Dai et al. 2017, arXiv:1703.06211) and v2 (Zhu et al. 2019, arXiv:1811.11168).

Numbers and gradients are those of torchvision.ops.deform_conv2d. Every tap of the kernel reads the image at its usual
place plus an offset, bilinearly, zeros outside; what was read is multiplied with the kernel as one product.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxvision.ops.gather import corner_taps, weighted_gather

IntOrPair = int | tuple[int, int]


def deform_conv2d(
    x: Float[Array, "b h w c"],
    offsets: Float[Array, "b h2 w2 offsets"],
    kernel: Float[Array, "kh kw c_of_group features"],
    mask: Float[Array, "b h2 w2 taps"] | None = None,
    bias: Float[Array, " features"] | None = None,
    *,
    strides: IntOrPair = 1,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
) -> Float[Array, "b h2 w2 features"]:
    """A convolution whose taps move; returns the dtype of `x`, offsets are used in float32.

    Differentiable in all arrays (reverse mode). Groups follow from shapes: those of the convolution are C / kernel
    shape[2], the deformable ones (channels that move alike) offset channels / (2 kh kw).

    Args:
      offsets: pixels; channel 2 * (g * kh * kw + i * kw + j) is the shift along y of tap (i, j) in deformable group g,
        the next one that along x: as a channel-last copy of torchvision's.
      kernel: as in `layers.Conv`.
      mask: v2: factor of tap (i, j) in group g at channel g * kh * kw + i * kw + j, usually in [0, 1]; None is v1.
      strides, padding, dilation: of the undeformed convolution; zeros are added on both sides.

    Raises:
      ValueError: shapes that do not fit each other, with those that would.
    """
    (sy, sx), (py, px), (dy, dx) = _pair(strides), _pair(padding), _pair(dilation)
    kh, kw, of_group, features = kernel.shape
    batch, height, width, channels = x.shape
    taps = kh * kw
    out = (height + 2 * py - dy * (kh - 1) - 1) // sy + 1, (width + 2 * px - dx * (kw - 1) - 1) // sx + 1
    moving, groups = offsets.shape[-1] // (2 * taps), channels // of_group
    _check(x, offsets, kernel, mask, (batch, *out), moving, groups)

    # Taps before groups: what is gathered then already lies as [pixels, taps, channels].
    shifts = jnp.swapaxes(offsets.astype(jnp.float32).reshape(batch, *out, moving, taps, 2), 3, 4)
    row, column = (a.reshape(-1) for a in np.mgrid[:kh, :kw])
    rows = (np.arange(out[0]) * sy - py)[:, None, None, None] + (row * dy)[:, None]
    columns = (np.arange(out[1]) * sx - px)[:, None, None] + (column * dx)[:, None]
    places = shifts[..., 0] + rows[None].astype(np.float32), shifts[..., 1] + columns[None, None].astype(np.float32)
    index, weights = corner_taps(*places, (height, width))
    if mask is not None:
        factors = jnp.swapaxes(mask.astype(jnp.float32).reshape(batch, *out, moving, taps), 3, 4)
        weights = weights * factors[..., None]
    image = jnp.arange(batch, dtype=jnp.int32).reshape(-1, 1, 1, 1, 1, 1) * (height * width)
    index = (index + image) * moving + np.arange(moving, dtype=np.int32).reshape(1, 1, 1, 1, -1, 1)
    read = weighted_gather(jnp.reshape(x, (-1, channels // moving)), index.reshape(-1, 4), weights.reshape(-1, 4))
    # One plain product per group: XLA multiplies slowly on CPU where the group is an inner axis.
    read = jnp.moveaxis(read.reshape(-1, taps, groups, of_group), 2, 0).reshape(groups, -1, taps * of_group)
    kernel = jnp.moveaxis(kernel.astype(x.dtype).reshape(taps * of_group, groups, features // groups), 1, 0)
    if groups == 1:
        result = jnp.dot(read[0], kernel[0], preferred_element_type=jnp.float32)
    else:
        result = jnp.moveaxis(jnp.einsum("gnk,gko->gno", read, kernel, preferred_element_type=jnp.float32), 0, 1)
    result = result.reshape(batch, *out, features)
    if bias is not None:
        result = result + bias.astype(jnp.float32)[None, None, None]
    return result.astype(x.dtype)


def _check(
    x: Array,
    offsets: Array,
    kernel: Array,
    mask: Array | None,
    pixels: tuple[int, int, int],
    moving: int,
    groups: int,
) -> None:
    kh, kw, of_group, features = kernel.shape
    if x.shape[3] != groups * of_group or features % max(groups, 1):
        raise ValueError(
            f"deform_conv2d got {x.shape[3]} channels and a kernel {kernel.shape}; kernel shape[2] divides the "
            "channels, and the groups that makes divide the features"
        )
    if min(pixels[1:]) < 1:
        raise ValueError(f"deform_conv2d got {x.shape} and a kernel {kernel.shape}: no pixel would be left")
    fits = moving >= 1 and offsets.shape == (*pixels, 2 * moving * kh * kw)
    if not fits or x.shape[3] % moving:
        raise ValueError(
            f"deform_conv2d got offsets {offsets.shape}; it takes {pixels} + (2 * groups * {kh * kw},), the groups "
            f"dividing {x.shape[3]} channels"
        )
    if mask is not None and mask.shape != (*pixels, moving * kh * kw):
        raise ValueError(f"deform_conv2d got a mask {mask.shape}; it takes {(*pixels, moving * kh * kw)}")


def _pair(value: IntOrPair) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value
