"""Label maps and masks as files store them: COCO polygons and run lengths, semantic and panoptic PNG files."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from jaxvision.data.images import MAX_PIXELS, ImageError, open_image


def instance_masks(segmentations: Sequence[Any], size: tuple[int, int]) -> Bool[np.ndarray, "n h w"]:
    """Masks of COCO `segmentation` values: lists of polygons, or run lengths, compressed or not.

    Polygons are drawn by the official tool (`pycocotools.mask`), so that they are its pixels; run lengths, which it
    does not check, are expanded here.

    Raises:
      ImageError: a value that `parse_segmentation` refuses, or of another size.
    """
    from pycocotools import mask as coco

    height, width = size
    masks = np.zeros((len(segmentations), height, width), bool)
    for mask, segmentation in zip(masks, segmentations, strict=True):
        if not isinstance(segmentation, dict) and not len(segmentation):
            continue
        parsed = parse_segmentation(segmentation, (0, 0))
        if parsed is None:
            raise ImageError(f"a mask that is neither polygons nor run lengths: {str(segmentation)[:80]}")
        if isinstance(parsed, list):
            drawn = coco.merge(coco.frPyObjects(parsed, height, width))
            mask[:] = _draw(_expand_text(drawn["counts"]), size)
        elif tuple(parsed["size"]) != (height, width):
            raise ImageError(f"a mask of size {list(parsed['size'])} for an image of {height} x {width} pixels")
        else:
            mask[:] = _draw(parsed["counts"], size)
    return masks


def _draw(runs: np.ndarray, size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """Runs of 0s and 1s in turn down the columns; `pycocotools.mask.decode` uses numpy in a deprecated way."""
    pixels = np.repeat(np.arange(len(runs)) % 2 == 1, runs.astype(np.int64))
    return pixels.reshape(size[1], size[0]).T


_LARGEST_DRAWING = 2**25
"""Numbers of a polygon times its largest coordinate: the memory that drawing it takes grows with it."""


def parse_segmentation(
    value: Any, size: tuple[int, int], largest: float = 2.0**20
) -> list[Float[np.ndarray, " k"]] | dict[str, Any] | None:
    """A COCO `segmentation` in compact form, None if it is wrong: float64 arrays of polygons, or uint32 run lengths.

    Args:
      value: a list of polygons `[x, y, x, y, ...]` (or one alone), or `{"size": [h, w], "counts": runs}`, with runs of
        0s and 1s in turn down the columns, as numbers or in COCO's text form.
      size: height and width that run lengths must have; zeros allow any.
      largest: coordinate of a polygon.

    Polygons of less than three points, which cover nothing, are left out.
    """
    if isinstance(value, dict):
        return _parse_runs(value, size)
    if not isinstance(value, (list, tuple)) or not value:
        return None
    polygons = []
    for polygon in [value] if isinstance(value[0], (int, float)) else value:
        try:
            points = np.asarray(polygon, np.float64)
        except (TypeError, ValueError, OverflowError):
            return None
        if points.ndim != 1 or len(points) % 2:
            return None
        if len(points) >= 6:
            reach = np.abs(points).max()  # NaN fails both comparisons
            if not (reach <= largest and reach * len(points) <= _LARGEST_DRAWING):
                return None
            polygons.append(points)
    return polygons or None


def _parse_runs(value: dict[str, Any], size: tuple[int, int]) -> dict[str, Any] | None:
    own, counts = value.get("size"), value.get("counts")
    if not isinstance(own, (list, tuple)) or len(own) != 2 or not all(type(side) is int and side > 0 for side in own):
        return None
    if own[0] * own[1] > MAX_PIXELS or (size[0] > 0 and tuple(own) != tuple(size)):
        return None
    if isinstance(counts, (str, bytes)):
        runs = _expand_text(counts.encode("ascii", "replace") if isinstance(counts, str) else counts)
    else:
        try:
            runs = np.asarray(counts, np.float64)
        except (TypeError, ValueError, OverflowError):
            return None
    if runs.ndim != 1 or not len(runs) or not (runs >= 0).all() or runs.sum() != own[0] * own[1]:
        return None
    return {"size": tuple(own), "counts": runs.astype(np.uint32)}


def _expand_text(text: bytes) -> Float[np.ndarray, " runs"]:
    """COCO's text form: 5 bits per character from 48 on, the sixth says that more follow; from the fourth run on,
    what is stored is the difference from the run before the last.

    Nothing (an empty array) for a text that is not of this form.
    """
    digits = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    nothing = np.zeros(0)
    if not len(digits) or (digits < 0).any() or (digits > 63).any() or digits[-1] & 32:
        return nothing
    last = (digits & 32) == 0
    number = np.cumsum(last) - last
    starts = np.flatnonzero(np.concatenate([[True], last[:-1]]))
    place = np.arange(len(digits)) - starts[number]
    if place.max() > 7:  # more than 40 bits
        return nothing
    values = np.bincount(number, weights=((digits & 31) << (5 * place)).astype(np.float64))
    ends = np.flatnonzero(last)
    negative = (digits[ends] & 16) > 0
    values = values - np.where(negative, 2.0 ** (5 * (place[ends] + 1)), 0.0)
    for parity in (1, 2):  # runs 1, 3, 5, ... and 2, 4, 6, ... are running sums; run 0 stands alone
        values[parity::2] = np.cumsum(values[parity::2])
    return values


def read_semantic(
    path: str | os.PathLike, size: tuple[int, int], values: UInt8[np.ndarray, "256"] | None = None
) -> UInt8[np.ndarray, "h w"]:
    """The class of each pixel from an 8-bit grey or palette file (the palette's indices count, not its colours).

    Args:
      path: usually a PNG.
      size: height and width that it must have.
      values: the class of each value in the file.

    Raises:
      ImageError: unreadable, of another size, or with more than one channel.
    """
    with open_image(path) as picture:
        if picture.mode not in ("L", "P", "1"):
            raise ImageError(
                f"cannot use {str(path)!r} as a label map: its mode is {picture.mode}, not 8-bit or palette"
            )
        classes = np.array(picture, np.uint8)
    _check_size(classes, size, path)
    return classes if values is None else values[classes]


def read_panoptic(
    path: str | os.PathLike, size: tuple[int, int], segment_ids: Int[np.ndarray, " s"]
) -> Int[np.ndarray, "h w"]:
    """The number of each pixel's segment, from 1 in the order of `segment_ids`, from a COCO panoptic PNG.

    The id of a pixel is red + 256 green + 65536 blue; ids that `segment_ids` lacks become 0.
    """
    with open_image(path) as picture:
        colors = np.asarray(picture.convert("RGB"), np.int64)
    _check_size(colors, size, path)
    ids = colors @ np.array([1, 256, 65536])
    order = np.argsort(segment_ids)
    known = np.asarray(segment_ids)[order]
    if not len(known):
        return np.zeros(ids.shape, np.int32)
    places = np.minimum(np.searchsorted(known, ids), len(known) - 1)
    return np.where(known[places] == ids, order[places] + 1, 0).astype(np.int32)


def read_instances(
    path: str | os.PathLike, size: tuple[int, int], values: Int[np.ndarray, " n"]
) -> Bool[np.ndarray, "n h w"]:
    """The mask of each object from an 8-bit grey or palette file in which the pixels of object i have `values[i]`."""
    classes = read_semantic(path, size)
    return classes == np.asarray(values).reshape(-1, 1, 1)


def _check_size(values: np.ndarray, size: tuple[int, int], path: str | os.PathLike) -> None:
    if values.shape[:2] != tuple(size):
        raise ImageError(
            f"label map {str(path)!r} is {values.shape[0]} x {values.shape[1]} (height x width), "
            f"its image {size[0]} x {size[1]}"
        )
