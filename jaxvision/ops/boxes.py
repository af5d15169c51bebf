"""Axis-aligned boxes: area, overlap (IoU, IoF, GIoU, DIoU, CIoU), formats, clipping.

Boxes are `[..., 4]` left, top, right, bottom in pixels; the size is right - left, without the "+ 1" of older code.
Values equal torchvision.ops (`box_iou`, `generalized_box_iou`, `distance_box_iou`, `complete_box_iou`); where those
give NaN (two boxes without area) the value here is 0 and every gradient is finite. The formulas take left <= right and
top <= bottom; for boxes turned inside out they give the same meaningless numbers as torchvision's.
Overlaps are computed in float32 and returned in the dtype of the boxes (float32 where two dtypes meet).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

KINDS = ("iou", "iof", "giou", "diou", "ciou")
FORMATS = ("xyxy", "xywh", "cxcywh")
EPS = 1e-7
"""torchvision's term in the denominators of DIoU and CIoU."""

Sides = tuple[Array, Array, Array, Array]


def box_area(boxes: Float[Array, "*b 4"]) -> Float[Array, "*b"]:
    """Width times height, in square pixels."""
    _check_boxes(boxes)
    return _area(_sides(boxes)).astype(boxes.dtype)


def box_iou(a: Float[Array, "*b n 4"], b: Float[Array, "*b m 4"], kind: str = "iou") -> Float[Array, "*b n m"]:
    """Overlap of every box of `a` with every box of `b`.

    Args:
      kind: "iou" | "iof" (intersection over the area of `a`) | "giou" (Rezatofighi et al. 2019, in [-1, 1]) | "diou" |
        "ciou" (Zheng et al. 2020; as published, the weight of the shape term has no gradient).

    Raises:
      ValueError: an unknown kind, or arrays that do not hold boxes.
    """
    _check_boxes(a, b)
    if a.ndim != b.ndim or a.ndim < 2:
        raise ValueError(f"box_iou takes [..., N, 4] and [..., M, 4] of the same rank, and got {a.shape} and {b.shape}")
    rows: Sides = tuple(side[..., :, None] for side in _sides(a))  # type: ignore[assignment]
    columns: Sides = tuple(side[..., None, :] for side in _sides(b))  # type: ignore[assignment]
    return _overlap(rows, columns, kind).astype(_common_dtype(a, b))


def box_iou_aligned(a: Float[Array, "*b 4"], b: Float[Array, "*b 4"], kind: str = "iou") -> Float[Array, "*b"]:
    """Overlap of each box of `a` with the box of `b` at the same place; `kind` and errors as in `box_iou`."""
    _check_boxes(a, b)
    return _overlap(_sides(a), _sides(b), kind).astype(_common_dtype(a, b))


def box_convert(boxes: Float[Array, "*b 4"], source: str, target: str) -> Float[Array, "*b 4"]:
    """Changes the format: "xyxy" (corners) | "xywh" (corner and size) | "cxcywh" (centre and size).

    Raises:
      ValueError: an unknown format.
    """
    _check_boxes(boxes)
    for name in (source, target):
        if name not in FORMATS:
            raise ValueError(f"unknown box format {name!r}: expected one of {', '.join(FORMATS)}")
    if source == target:
        return boxes
    first, second = boxes[..., :2], boxes[..., 2:]
    if source != "xyxy":
        first = first - second / 2 if source == "cxcywh" else first
        second = first + second
    if target != "xyxy":
        size = second - first
        first = (first + second) / 2 if target == "cxcywh" else first
        second = size
    return jnp.concatenate([first, second], axis=-1)


def clip_boxes(
    boxes: Float[Array, "*b n 4"], size: Float[Array, "*b 2"] | Int[Array, "*b 2"] | tuple[int, int]
) -> Float[Array, "*b n 4"]:
    """Moves the corners into the image.

    Args:
      size: height and width in pixels, of all boxes or per image.
    """
    _check_boxes(boxes)
    height, width = jnp.moveaxis(jnp.asarray(size).astype(boxes.dtype), -1, 0)
    limits = jnp.stack([width, height, width, height], axis=-1)[..., None, :]
    limits = limits.reshape((1,) * (boxes.ndim - limits.ndim) + limits.shape)
    return jnp.clip(boxes, jnp.zeros_like(limits), limits)


def _overlap(a: Sides, b: Sides, kind: str) -> Array:
    if kind not in KINDS:
        raise ValueError(f"unknown kind of overlap {kind!r}: expected one of {', '.join(KINDS)}")
    left, top = jnp.maximum(a[0], b[0]), jnp.maximum(a[1], b[1])
    right, bottom = jnp.minimum(a[2], b[2]), jnp.minimum(a[3], b[3])
    intersection = _not_negative(right - left) * _not_negative(bottom - top)
    if kind == "iof":
        return _divide(intersection, _area(a) + jnp.zeros_like(intersection))
    union = _area(a) + _area(b) - intersection
    iou = _divide(intersection, union)
    if kind == "iou":
        return iou
    width = _not_negative(jnp.maximum(a[2], b[2]) - jnp.minimum(a[0], b[0]))
    height = _not_negative(jnp.maximum(a[3], b[3]) - jnp.minimum(a[1], b[1]))
    if kind == "giou":
        return iou - _divide(width * height - union, width * height)
    dx, dy = (a[0] + a[2] - b[0] - b[2]) / 2, (a[1] + a[3] - b[1] - b[3]) / 2
    diou = iou - (dx * dx + dy * dy) / (width * width + height * height + EPS)
    if kind == "diou":
        return diou
    shape = (4 / jnp.pi**2) * jnp.square(_angle(a) - _angle(b))
    weight = jax.lax.stop_gradient(shape / (1 - iou + shape + EPS))
    return diou - weight * shape


def _sides(boxes: Array) -> Sides:
    left, top, right, bottom = jnp.moveaxis(boxes.astype(jnp.float32), -1, 0)
    return left, top, right, bottom


def _area(a: Sides) -> Array:
    return (a[2] - a[0]) * (a[3] - a[1])


def _angle(a: Sides) -> Array:
    """arctan(width / height), of a box without height pi / 2, of a point 0."""
    width, height = a[2] - a[0], a[3] - a[1]
    point = (width == 0) & (height == 0)
    return jnp.arctan2(width, jnp.where(point, 1.0, height))


def _not_negative(x: Array) -> Array:
    """max(x, 0), whose gradient at 0 is torch's 1 (jnp.maximum has 1/2); NaN stays."""
    return jnp.where(x < 0, 0.0, x)


def _divide(a: Array, b: Array) -> Array:
    """a / b, and 0 without a gradient where b is 0."""
    zero = b == 0
    return jnp.where(zero, 0.0, a / jnp.where(zero, 1.0, b))


def _common_dtype(a: Array, b: Array) -> jnp.dtype:
    return a.dtype if a.dtype == b.dtype else jnp.dtype(jnp.float32)


def _check_boxes(*arrays: Array) -> None:
    for boxes in arrays:
        if not boxes.shape or boxes.shape[-1] != 4 or not jnp.issubdtype(boxes.dtype, jnp.floating):
            raise ValueError(f"expected floating-point boxes [..., 4], and got {boxes.dtype} {boxes.shape}")
