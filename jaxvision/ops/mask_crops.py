"""Parts of packed masks at RoI size: what a mask head is to say of each region (He et al. 2017, arXiv:1703.06870)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from jaxvision.ops.gather import clamped_taps, exact_quotient
from jaxvision.ops.masks import unpack_masks


def crop_masks(
    masks: UInt8[Array, "n h packed_w"],
    boxes: Float[Array, "r 4"],
    index: Int[Array, " r"],
    *,
    width: int,
    output_size: int,
    aligned: bool = True,
) -> Float[Array, "r s s"]:
    """`roi_align` with adaptive sampling of one mask per box: how much of each bin the mask covers, 0..1, float32.

    Samples lie on a grid, so that a crop is the mask between two matrices of weights. One box after the other: of all
    masks only one lies unpacked in memory, 4 bytes per pixel, and costs about 2 * output_size FLOPs per pixel. No
    gradient passes.

    Args:
      masks: of one canvas, packed along the width (`pack_masks`).
      boxes: xyxy in pixels of the canvas, to which they are clipped.
      index: row of the mask of each box; values outside take the nearest row.
      width: of the canvas.
      output_size: bins along each side.
      aligned: as in `roi_align`.

    Raises:
      ValueError: arrays that do not fit each other.
    """
    if masks.ndim != 3 or masks.dtype != np.uint8 or boxes.shape != (*index.shape, 4) or output_size < 1:
        raise ValueError(
            f"crop_masks got masks {masks.dtype}{masks.shape}, boxes {boxes.shape}, index {index.shape} and "
            f"output_size={output_size}; it takes packed masks [N, H, ceil(W / 8)], [R, 4], [R] and a positive number"
        )
    height = masks.shape[1]
    boxes = jax.lax.stop_gradient(boxes).astype(jnp.float32)
    if 0 in (*masks.shape, len(boxes)):
        return jnp.zeros((len(boxes), output_size, output_size), jnp.float32)
    weights = functools.partial(_weights, bins=output_size, aligned=aligned)

    def crop(one: tuple[Array, Array]) -> Float[Array, "s s"]:
        (left, top, right, bottom), row = one
        mask = unpack_masks(jnp.take(masks, row, axis=0, mode="clip"), width).astype(jnp.float32)
        down, across = weights(top, bottom, size=height), weights(left, right, size=width)
        return jnp.einsum("ay,yx,bx->ab", down, mask, across, precision=jax.lax.Precision.HIGHEST)

    return jax.lax.map(crop, (boxes, index))


def _weights(low: Array, high: Array, *, size: int, bins: int, aligned: bool) -> Float[Array, "bins size"]:
    """What each pixel of an axis counts in the mean of each bin."""
    low, high = jnp.clip(low, 0.0, float(size)), jnp.clip(high, 0.0, float(size))
    side = high - low if aligned else jnp.maximum(high - low, 1.0)
    bin_size = exact_quotient(side, bins)
    most = -(-size // bins)
    number = jnp.clip(jnp.ceil(bin_size), 0, most).astype(jnp.int32)
    at_least_one = jnp.maximum(number, 1)
    sample = jnp.arange(bins * most, dtype=jnp.int32)
    of_bin, turn = sample // at_least_one, sample % at_least_one
    within = (turn.astype(jnp.float32) + 0.5) / at_least_one.astype(jnp.float32)
    position = low - (0.5 if aligned else 0.0) + (of_bin.astype(jnp.float32) + within) * bin_size
    inside = (position >= -1) & (position <= size) & (sample < bins * number)
    pixels, taps = clamped_taps(position, size)
    share = jnp.where(inside, 1.0 / at_least_one.astype(jnp.float32), 0.0)[:, None] * taps
    return jnp.zeros((bins, size), jnp.float32).at[of_bin[:, None], pixels].add(share, mode="drop")
