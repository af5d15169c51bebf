"""Instances (`structures.Instances`, one image's) under a map of the plane: boxes, masks, keypoints, rotated boxes.

The rules, the same for every transform that moves pixels:

- **Boxes** become the tight boxes of their four moved corners, clipped to the picture. Where an object has a mask, and
  the map turns or bends it or the picture's edge cuts it, its box becomes the tight box of its moved mask: corners
  alone make boxes of turned objects too large (`tight_boxes=False` leaves it at that).
- **Objects** go when less than `min_area_ratio` of their moved box is in the picture, when a side of their box is below
  `min_size` pixels, or when no pixel of their mask is left. Their rows become zeros and not `valid`.
- **Area** shrinks with the share of the box that is left; it stays in pixels of the original image.
- **Keypoints** that are not labelled, or leave the picture, become zeros, so their visibility is 0.
- **Rotated boxes** are exact under similarities (turns, even scales, shifts, mirrors). Otherwise the width edge moves
  with the map at the box's centre and the height gives the moved area. They are not clipped. The angle lies in
  [-pi, pi]; a mirror keeps the direction from the top to the bottom edge.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from jaxvision.ops.masks import mask_boxes
from jaxvision.structures import Instances, Proposals

Matrix = Float[Array, "3 3"]
"""Maps (x, y, 1) up to a factor."""


@dataclasses.dataclass(frozen=True)
class Keep:
    """Which objects stay; see the top of this file."""

    min_area_ratio: float = 0.1
    min_size: float = 1.0
    tight_boxes: bool = True

    def __post_init__(self):
        if not 0 <= self.min_area_ratio <= 1:
            raise ValueError(f"min_area_ratio is {self.min_area_ratio}, expected 0..1")
        if self.min_size < 0:
            raise ValueError(f"min_size is {self.min_size}, expected at least 0 pixels")


def move_points(matrix: Matrix, points: Float[Array, "*n 2"]) -> Float[Array, "*n 2"]:
    """The places to which points go."""
    x, y = points[..., 0], points[..., 1]
    moved = [matrix[i, 0] * x + matrix[i, 1] * y + matrix[i, 2] for i in range(3)]
    return jnp.stack(moved[:2], axis=-1) / moved[2][..., None]


def move_instances(
    targets: Instances,
    matrix: Matrix,
    size: Float[Array, " 2"],
    keep: Keep,
    masks: UInt8[Array, "n h packed_w"] | None = None,
    *,
    upright: bool = False,
) -> Instances:
    """The objects after `matrix`, in a picture of `size` (height, width).

    Args:
      masks: the moved masks, where there are any.
      upright: the map keeps the sides of boxes upright (shifts, scales, quarter turns), so that only objects that the
        edge cuts need their masks for a tight box.
    """
    moved, cut = move_boxes(targets, matrix, size, keep)
    if masks is None:
        return blank(moved)
    return with_masks(moved, masks, cut if upright else jnp.ones_like(cut), keep)


def move_boxes(
    targets: Instances, matrix: Matrix, size: Float[Array, " 2"], keep: Keep
) -> tuple[Instances, Bool[Array, " n"]]:
    """`move_instances` without masks, and which boxes the edge of the picture cuts."""
    boxes = _around_corners(targets.boxes, matrix)
    clipped = clip_boxes(boxes, size)
    area, left_over = box_areas(boxes), box_areas(clipped)
    share = jnp.where(area > 0, left_over / jnp.where(area > 0, area, 1.0), 0.0)
    valid = targets.valid & (share >= keep.min_area_ratio) & (left_over > 0) & _large_enough(clipped, keep)
    moved = dataclasses.replace(targets, boxes=clipped, area=targets.area * share, valid=valid, masks=None)
    if targets.keypoints is not None:
        moved = dataclasses.replace(moved, keypoints=move_keypoints(targets.keypoints, matrix, size))
    if targets.rotated_boxes is not None:
        moved = dataclasses.replace(moved, rotated_boxes=move_rotated(targets.rotated_boxes, matrix))
    return moved, jnp.any(boxes != clipped, axis=-1)


def move_proposals(proposals: Proposals, matrix: Matrix, size: Float[Array, " 2"]) -> Proposals:
    """The regions after `matrix`, as boxes are moved; those of which something is in a picture of `size` stay."""
    boxes = clip_boxes(_around_corners(proposals.boxes, matrix), size)
    valid = proposals.valid & jnp.all(boxes[:, 2:] > boxes[:, :2], axis=-1)
    return Proposals(jnp.where(valid[:, None], boxes, 0.0), valid)


def _around_corners(boxes: Float[Array, "n 4"], matrix: Matrix) -> Float[Array, "n 4"]:
    """The tight boxes of the moved corners."""
    left, top, right, bottom = (boxes[:, i] for i in range(4))
    places = ((left, top), (right, top), (right, bottom), (left, bottom))
    corners = move_points(matrix, jnp.stack([jnp.stack(place, axis=-1) for place in places]))
    return jnp.concatenate([jnp.min(corners, axis=0), jnp.max(corners, axis=0)], axis=-1)


def with_masks(
    targets: Instances, masks: UInt8[Array, "n h packed_w"], loose: Bool[Array, " n"], keep: Keep
) -> Instances:
    """Gives the objects their masks, which those without a pixel do not survive, and `loose` boxes their tight form."""
    boxes = jnp.where(loose[:, None], mask_boxes(masks), targets.boxes) if keep.tight_boxes else targets.boxes
    valid = targets.valid & jnp.any(masks != 0, axis=(1, 2)) & _large_enough(boxes, keep)
    return blank(dataclasses.replace(targets, boxes=boxes, valid=valid, masks=masks))


def blank(targets: Instances) -> Instances:
    """Zeros in every row that is not valid."""

    def rows(values: Array) -> Array:
        valid = targets.valid.reshape(-1, *[1] * (values.ndim - 1))
        return jnp.where(valid, values, jnp.zeros_like(values))

    return jax.tree.map(rows, targets)


def take_rows(targets: Instances, rows: Int[Array, " n"]) -> Instances:
    """The instances of these rows."""
    return jax.tree.map(lambda values: values[rows], targets)


def largest(targets: Instances, count: int) -> tuple[Int[Array, " count"], Int[Array, ""]]:
    """Rows of the `count` largest boxes among the valid ones, and how many valid ones are left out.

    The largest comes first, the earlier row of equals; rows that are not valid fill up.
    """
    _, rows = jax.lax.top_k(jnp.where(targets.valid, box_areas(targets.boxes), -1.0), count)
    return rows, jnp.maximum(jnp.sum(targets.valid, dtype=jnp.int32) - count, 0)


def swap_keypoints(keypoints: Float[Array, "n k 3"], pairs: tuple[tuple[int, int], ...]) -> Float[Array, "n k 3"]:
    """Exchanges the keypoints of each pair: the left eye of a mirrored face is its right one."""
    count = keypoints.shape[1]
    order = np.arange(count)
    for one, other in pairs:
        if not (0 <= one < count and 0 <= other < count):
            raise ValueError(f"flip_pairs holds {(one, other)}, but there are {count} keypoints, numbered from 0")
        order[[one, other]] = other, one
    return keypoints[:, order]


def clip_boxes(boxes: Float[Array, "n 4"], size: Float[Array, " 2"]) -> Float[Array, "n 4"]:
    """The part of each box in a picture of `size` (height, width)."""
    end = jnp.stack([size[1], size[0], size[1], size[0]])[None]
    return jnp.clip(boxes, 0.0, end)


def box_areas(boxes: Float[Array, "n 4"]) -> Float[Array, " n"]:
    """Square pixels."""
    sides = jnp.maximum(boxes[:, 2:] - boxes[:, :2], 0.0)
    return sides[:, 0] * sides[:, 1]


def in_picture(points: Float[Array, "*n 2"], size: Float[Array, " 2"]) -> Bool[Array, "*n"]:
    """Which points lie in a picture of `size` (height, width)."""
    x, y = points[..., 0], points[..., 1]
    return (x >= 0) & (x < size[1]) & (y >= 0) & (y < size[0])


def move_keypoints(keypoints: Float[Array, "n k 3"], matrix: Matrix, size: Float[Array, " 2"]) -> Float[Array, "n k 3"]:
    """See the top of this file."""
    points = move_points(matrix, keypoints[..., :2])
    seen = (keypoints[..., 2] > 0) & in_picture(points, size)
    return jnp.where(seen[..., None], jnp.concatenate([points, keypoints[..., 2:]], axis=-1), 0.0)


def _large_enough(boxes: Float[Array, "n 4"], keep: Keep) -> Bool[Array, " n"]:
    return jnp.all(boxes[:, 2:] - boxes[:, :2] >= keep.min_size, axis=-1)


def move_rotated(boxes: Float[Array, "n 5"], matrix: Matrix) -> Float[Array, "n 5"]:
    """See the top of this file."""
    width, height, angle = (boxes[:, i] for i in (2, 3, 4))
    centre = move_points(matrix, boxes[:, :2])
    # The map's derivative at the centre; of an affine map its linear part.
    scale = matrix[2, 0] * boxes[:, 0] + matrix[2, 1] * boxes[:, 1] + matrix[2, 2]
    (a, b), (c, d) = ([(matrix[i, j] - centre[:, i] * matrix[2, j]) / scale for j in (0, 1)] for i in (0, 1))
    determinant = a * d - b * c
    # After a mirror the width edge runs the other way, so that the height edge keeps its direction.
    sign = jnp.where(determinant < 0, -1.0, 1.0)
    x = sign * (a * jnp.cos(angle) + b * jnp.sin(angle))
    y = sign * (c * jnp.cos(angle) + d * jnp.sin(angle))
    stretch = jnp.sqrt(x * x + y * y)
    new_height = height * jnp.abs(determinant) / jnp.where(stretch > 0, stretch, 1.0)
    return jnp.stack([centre[:, 0], centre[:, 1], width * stretch, new_height, jnp.arctan2(y, x)], axis=-1)
