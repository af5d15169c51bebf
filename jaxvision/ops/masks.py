"""Instance masks: bit-packed, measured, and pasted from RoI size into a canvas.

Packed masks are uint8 [..., H, ceil(W / 8)]: eight pixels of a row per byte, the first in the most significant bit,
zeros beyond the width (`numpy.packbits(mask, axis=-1)`).
"""

from types import ModuleType
from typing import Any, overload

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8

FORMS = ("continuous", "integer")


@overload
def pack_masks(masks: Bool[np.ndarray, "*n w"]) -> UInt8[np.ndarray, "*n packed_w"]: ...


@overload
def pack_masks(masks: Bool[Array, "*n w"]) -> UInt8[Array, "*n packed_w"]: ...


def pack_masks(masks: Any) -> Any:
    """Eight flags of the last axis per byte; of a numpy array on the host."""
    return np.packbits(masks, axis=-1) if isinstance(masks, np.ndarray) else jnp.packbits(masks, axis=-1)


@overload
def unpack_masks(packed: UInt8[np.ndarray, "*n packed_w"], width: int) -> Bool[np.ndarray, "*n w"]: ...


@overload
def unpack_masks(packed: UInt8[Array, "*n packed_w"], width: int) -> Bool[Array, "*n w"]: ...


def unpack_masks(packed: Any, width: int) -> Any:
    """The masks of `width` columns that `pack_masks` packed; of a numpy array on the host.

    Raises:
      ValueError: bytes for fewer columns, or for eight more.
    """
    needed = -(-width // 8)
    if packed.shape[-1] != needed:
        raise ValueError(f"unpack_masks got {packed.shape[-1]} bytes per row for a width of {width}, not {needed}")
    if isinstance(packed, np.ndarray):
        return np.unpackbits(packed, axis=-1, count=width).astype(bool)
    if packed.size == 0:
        return jnp.zeros((*packed.shape[:-1], width), bool)
    return jnp.unpackbits(packed, axis=-1, count=width).astype(bool)


def mask_areas(masks: UInt8[Array, "*n h packed_w"]) -> Float[Array, "*n"]:
    """Pixels of each packed mask."""
    return jnp.sum(jax.lax.population_count(masks), axis=(-2, -1), dtype=jnp.int32).astype(jnp.float32)


def mask_boxes(masks: UInt8[Array, "*n h packed_w"]) -> Float[Array, "*n 4"]:
    """The tight box (xyxy) of each packed mask; zeros where it has no pixel."""
    if masks.size == 0:
        return jnp.zeros((*masks.shape[:-2], 4), jnp.float32)
    rows = jnp.any(masks != 0, axis=-1)
    columns = jnp.unpackbits(jax.lax.reduce(masks, np.uint8(0), jax.lax.bitwise_or, (masks.ndim - 2,)), axis=-1) != 0
    (top, bottom), (left, right) = (_first_and_last(flags) for flags in (rows, columns))
    return jnp.stack([left, top, right, bottom], axis=-1).astype(jnp.float32)


def mask_iou(
    a: UInt8[Array, "n h packed_w"], b: UInt8[Array, "m h packed_w"], kind: str = "iou"
) -> Float[Array, "n m"]:
    """Common pixels of each pair of packed masks over those of either ("iou") or of `a` ("iof"); 0 for empty masks.

    Raises:
      ValueError: masks of different canvases, or an unknown kind.
    """
    if a.ndim != 3 or b.ndim != 3 or a.shape[1:] != b.shape[1:] or a.dtype != np.uint8 or b.dtype != np.uint8:
        raise ValueError(
            f"mask_iou got {a.dtype}{a.shape} and {b.dtype}{b.shape}; it takes packed masks of one canvas (pack_masks)"
        )
    if kind not in ("iou", "iof"):
        raise ValueError(f"mask_iou got kind={kind!r}; it knows 'iou' and 'iof'")
    if 0 in (len(a), len(b)):
        return jnp.zeros((len(a), len(b)), jnp.float32)
    common = jax.lax.map(lambda mask: mask_areas(mask[None] & b), a)
    size = mask_areas(a)[:, None]
    whole = size + mask_areas(b)[None] - common if kind == "iou" else jnp.broadcast_to(size, common.shape)
    return common / jnp.maximum(whole, 1.0)


def paste_masks(
    masks: Float[Array, "n h w"],
    boxes: Float[Array, "n 4"],
    size: tuple[int, int],
    *,
    threshold: float = 0.5,
    form: str = "continuous",
) -> Bool[Array, "n h2 w2"]:
    """Masks of RoI size, resized bilinearly to their boxes and cut at `threshold` (from it on a pixel belongs).

    Two matrix products per mask, one mask after the other: the canvas of all masks exists in booleans only. Boxes
    without area (or with NaN) give empty masks.

    Args:
      masks: probabilities.
      boxes: xyxy pixels of the canvas, which they may leave.
      size: (height, width) of the canvas.
      form: "continuous" puts the box where its numbers are and zeros around the mask (detectron2, mmdet: grid_sample).
        "integer" is torchvision's `paste_masks_in_image`: a ring of zeros, box corners cut to whole pixels, the right
        and lower ones inside.

    Raises:
      ValueError: shapes that do not fit each other, or an unknown form.
    """
    _check_paste(masks, boxes, form)
    if len(masks) == 0:
        return jnp.zeros((0, *size), bool)

    def paste(mask_and_box: tuple[Array, Array]) -> Bool[Array, "h2 w2"]:
        mask, box = mask_and_box
        rows = _resampling(jnp, box[1], box[3], jnp.arange(size[0], dtype=jnp.int32), mask.shape[0], form)
        columns = _resampling(jnp, box[0], box[2], jnp.arange(size[1], dtype=jnp.int32), mask.shape[1], form)
        highest = jax.lax.Precision.HIGHEST
        return jnp.einsum("ya,ab,xb->yx", rows, mask, columns, precision=highest) >= threshold

    return jax.lax.map(paste, (jnp.asarray(masks).astype(jnp.float32), jnp.asarray(boxes).astype(jnp.float32)))


def paste_masks_on_host(
    masks: Float[np.ndarray, "n h w"],
    boxes: Float[np.ndarray, "n 4"],
    size: tuple[int, int],
    *,
    threshold: float = 0.5,
    form: str = "continuous",
) -> Bool[np.ndarray, "n h2 w2"]:
    """`paste_masks` in numpy for canvases of any size, such as original images: computes only pixels near boxes."""
    _check_paste(masks, boxes, form)
    out = np.zeros((len(masks), *size), bool)
    masks, boxes = np.asarray(masks, np.float32), np.asarray(boxes, np.float32)
    for n, (mask, box) in enumerate(zip(masks, boxes, strict=True)):
        if not np.isfinite(box).all():
            continue
        # The ring around the mask reaches one cell beyond the box.
        margin = 2 + np.ceil(np.abs(box[2:] - box[:2]) / np.array(mask.shape[::-1]))
        left, top = np.clip(np.floor(box[:2] - margin), 0, size[::-1]).astype(int)
        right, bottom = np.clip(np.ceil(box[2:] + margin), 0, size[::-1]).astype(int)
        rows = _resampling(np, box[1], box[3], np.arange(top, bottom), mask.shape[0], form)
        columns = _resampling(np, box[0], box[2], np.arange(left, right), mask.shape[1], form)
        out[n, top:bottom, left:right] = rows @ mask @ columns.T >= threshold
    return out


def _check_paste(masks: Any, boxes: Any, form: str) -> None:
    if masks.ndim != 3 or boxes.shape != (len(masks), 4) or min(masks.shape[1:]) < 1:
        raise ValueError(f"paste_masks got masks {masks.shape} and boxes {boxes.shape}; it takes [N, h, w] and [N, 4]")
    if form not in FORMS:
        raise ValueError(f"paste_masks got form={form!r}; it knows {', '.join(FORMS)}")


def _resampling(xp: ModuleType, low: Any, high: Any, pixel: Any, cells: int, form: str) -> Any:
    """The matrix [pixels, cells] that resamples one axis of a mask to the box from `low` to `high`, float32."""
    pixel = pixel.astype(np.float32)
    if form == "continuous":
        side = high - low
        position = (pixel + np.float32(0.5) - low) / xp.where(side > 0, side, np.float32(1)) * cells - np.float32(0.5)
        inside = side > 0
    else:
        centre, half = (low + high) / 2, (high - low) / 2 * np.float32((cells + 2) / cells)
        first, last = xp.trunc(centre - half), xp.trunc(centre + half)
        side = xp.maximum(last - first + 1, np.float32(1))
        scale = np.float32(cells + 2) / side
        position = xp.maximum((pixel - first + np.float32(0.5)) * scale - np.float32(0.5), np.float32(0)) - 1
        inside = (pixel >= first) & (pixel < first + side) & (high > low)
    weights = 1 - xp.abs(position[:, None] - np.arange(cells, dtype=np.float32)[None])
    return xp.where((weights > 0) & xp.reshape(inside, (-1, 1)), weights, np.float32(0)).astype(np.float32)


def _first_and_last(flags: Bool[Array, "*n k"]) -> tuple[Array, Array]:
    """The first place that is set, and the one after the last; zeros where none is."""
    places = jax.lax.broadcasted_iota(jnp.int32, flags.shape, flags.ndim - 1)
    last = jnp.max(jnp.where(flags, places + 1, 0), axis=-1)
    first = jnp.min(jnp.where(flags, places, flags.shape[-1]), axis=-1)
    return jnp.minimum(first, last), last
