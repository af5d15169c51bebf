"""How detectors describe a box relative to a reference: deltas of an anchor, distances from a point, a YOLO cell.

Boxes and anchors are xyxy in pixels; the two broadcast, leading axes of equal rank (`anchors[:, None]` for one box per
class). Encoding computes in float32 and returns the dtype of the boxes. A side of zero length counts as one pixel where
it would divide or be taken the logarithm of, so padding rows stay finite.
"""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxvision.ops.boxes import clip_boxes

Four = tuple[float, float, float, float]
Size = Float[Array, "*b 2"] | Int[Array, "*b 2"] | tuple[int, int] | None

MAX_RATIO = 16 / 1000
"""Smallest ratio of side lengths that a decoded box may have, and the inverse of the largest (1000 / 16 = 62.5)."""


def encode_deltas(
    boxes: Float[Array, "*b 4"],
    anchors: Float[Array, "*b 4"],
    means: Four = (0.0, 0.0, 0.0, 0.0),
    stds: Four = (1.0, 1.0, 1.0, 1.0),
) -> Float[Array, "*b 4"]:
    """Shift of the centre in units of the anchor's sides and log of the ratio of sides (arXiv:1311.2524, appendix C).

    The four numbers (x, y, width, height) are then normalised by `means` and `stds`. torchvision's `BoxCoder` calls
    1 / stds weights: stds (0.1, 0.1, 0.2, 0.2) are weights (10, 10, 5, 5).
    """
    (centre, size), (anchor_centre, anchor_size) = _centre_size(boxes), _centre_size(anchors)
    anchor_size = _at_least_a_pixel(anchor_size)
    shift = (centre - anchor_centre) / anchor_size
    deltas = jnp.concatenate([shift, jnp.log(_at_least_a_pixel(size) / anchor_size)], axis=-1)
    return ((deltas - _row(means, deltas)) / _row(stds, deltas)).astype(boxes.dtype)


def decode_deltas(
    deltas: Float[Array, "*b 4"],
    anchors: Float[Array, "*b 4"],
    means: Four = (0.0, 0.0, 0.0, 0.0),
    stds: Four = (1.0, 1.0, 1.0, 1.0),
    *,
    max_ratio: float = MAX_RATIO,
    limit_shrinking: bool = True,
    size: Size = None,
) -> Float[Array, "*b 4"]:
    """The inverse of `encode_deltas`.

    Args:
      max_ratio: a side becomes at most 1 / max_ratio times as long as the anchor's.
      limit_shrinking: nor shorter than max_ratio times it (mmdet's DeltaXYWHBBoxCoder; torchvision: False).
      size: height and width of the image to clip to (`clip_boxes`); None does not clip.

    Returns:
      xyxy boxes of the dtype of `deltas`.
    """
    centre, sides = _centre_size(anchors)
    deltas32 = _float32(deltas)
    deltas32 = deltas32 * _row(stds, deltas32) + _row(means, deltas32)
    limit = abs(math.log(max_ratio))
    growth = jnp.clip(deltas32[..., 2:], -limit if limit_shrinking else None, limit)
    return _corners(centre + deltas32[..., :2] * sides, sides * jnp.exp(growth), size, deltas)


def encode_tblr(
    boxes: Float[Array, "*b 4"], anchors: Float[Array, "*b 4"], normalizer: float | Four = 4.0
) -> Float[Array, "*b 4"]:
    """Distances from the anchor's centre to top, bottom, left, right in units of `normalizer` times its sides.

    As mmdet's TBLRBBoxCoder (FSAF, Zhu et al. 2019, arXiv:1903.00621).
    """
    centre, size = _centre_size(anchors)
    left_top, right_bottom = _halves(boxes)
    size = _at_least_a_pixel(size)
    before, after = (centre - left_top) / size, (right_bottom - centre) / size
    codes = jnp.stack([before[..., 1], after[..., 1], before[..., 0], after[..., 0]], axis=-1)
    return (codes / _row(normalizer, codes)).astype(boxes.dtype)


def decode_tblr(
    codes: Float[Array, "*b 4"],
    anchors: Float[Array, "*b 4"],
    normalizer: float | Four = 4.0,
    *,
    size: Size = None,
) -> Float[Array, "*b 4"]:
    """The inverse of `encode_tblr`; `size` as in `decode_deltas`."""
    centre, sides = _centre_size(anchors)
    codes32 = _float32(codes)
    top, bottom, left, right = jnp.moveaxis(codes32 * _row(normalizer, codes32), -1, 0)
    before, after = jnp.stack([left, top], axis=-1), jnp.stack([right, bottom], axis=-1)
    boxes = jnp.concatenate([centre - before * sides, centre + after * sides], axis=-1)
    return _finish(boxes, size, codes)


def encode_distances(boxes: Float[Array, "*b 4"], points: Float[Array, "*b 2"]) -> Float[Array, "*b 4"]:
    """Pixels from each point to the left, top, right and bottom of its box (FCOS, Tian et al. 2019, equation 1).

    Negative where the point lies outside. What a head divides by (stride, size of the anchor) is its own business.
    """
    left_top, right_bottom = _halves(boxes)
    points = points.astype(jnp.float32)
    return jnp.concatenate([points - left_top, right_bottom - points], axis=-1).astype(boxes.dtype)


def decode_distances(
    distances: Float[Array, "*b 4"], points: Float[Array, "*b 2"], *, size: Size = None
) -> Float[Array, "*b 4"]:
    """The inverse of `encode_distances`; `size` as in `decode_deltas`."""
    before, after = _halves(distances)
    points = points.astype(jnp.float32)
    return _finish(jnp.concatenate([points - before, points + after], axis=-1), size, distances)


def encode_yolo(
    boxes: Float[Array, "*b 4"], anchors: Float[Array, "*b 4"], stride: float | Array, *, eps: float = 1e-6
) -> Float[Array, "*b 4"]:
    """Place of the centre within the anchor's cell, 0 to 1, and logarithm of the ratio of sides (YOLOv3, section 2.1).

    As mmdet's YOLOBBoxCoder: the anchor's centre is the middle of a cell of `stride` pixels.

    Args:
      stride: of the level; a number, or an array that broadcasts with the first two of the four numbers.
      eps: the place is kept this far from 0 and 1, where the sigmoid that is trained to give it never arrives.
    """
    (centre, size), (anchor_centre, anchor_size) = _centre_size(boxes), _centre_size(anchors)
    place = jnp.clip((centre - anchor_centre) / stride + 0.5, eps, 1 - eps)
    growth = jnp.log(jnp.maximum(_at_least_a_pixel(size) / _at_least_a_pixel(anchor_size), eps))
    return jnp.concatenate([place, growth], axis=-1).astype(boxes.dtype)


def decode_yolo(
    codes: Float[Array, "*b 4"], anchors: Float[Array, "*b 4"], stride: float | Array, *, size: Size = None
) -> Float[Array, "*b 4"]:
    """The inverse of `encode_yolo`, of places after their sigmoid; `size` as in `decode_deltas`."""
    centre, sides = _centre_size(anchors)
    codes32 = _float32(codes)
    centre = centre + (codes32[..., :2] - 0.5) * stride
    return _corners(centre, sides * jnp.exp(codes32[..., 2:]), size, codes)


def _corners(centre: Array, sides: Array, size: Size, like: Array) -> Array:
    return _finish(jnp.concatenate([centre - sides / 2, centre + sides / 2], axis=-1), size, like)


def _finish(boxes: Array, size: Size, like: Array) -> Array:
    return (boxes if size is None else clip_boxes(boxes, size)).astype(like.dtype)


def _centre_size(boxes: Array) -> tuple[Array, Array]:
    left_top, right_bottom = _halves(boxes)
    return (left_top + right_bottom) / 2, right_bottom - left_top


def _halves(x: Array) -> tuple[Array, Array]:
    x = _float32(x)
    return x[..., :2], x[..., 2:]


def _float32(x: Array) -> Array:
    if x.shape[-1] != 4:
        raise ValueError(f"box coders take arrays [..., 4], and got {x.shape}")
    return x.astype(jnp.float32)


def _at_least_a_pixel(size: Array) -> Array:
    """Only what is not positive changes: anchors may be smaller than a pixel in other units."""
    return jnp.where(size > 0, size, 1.0)


def _row(values: float | Four, like: Array) -> Array:
    """Values as an array that broadcasts with `like` in its own rank."""
    row = jnp.asarray(values, jnp.float32)
    return row.reshape((1,) * (like.ndim - row.ndim) + row.shape) if row.ndim else row
