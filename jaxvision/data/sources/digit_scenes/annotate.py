"""Annotations of a layout, from what is visible of each object.

As in COCO, what hides cuts away: masks hold the visible pixels, `boxes` and `rotated_boxes` are the tight boxes of the
masks and `area` counts their pixels. Keypoints stay where the digit's frame is.
"""

import dataclasses
import math

import numpy as np
from jaxtyping import Float, Int

from jaxvision.data.samples import Sample
from jaxvision.data.sources.digit_scenes.compose import Item, Layout


@dataclasses.dataclass(frozen=True, eq=False)
class Found:
    """What is visible of one object: its tight box, rotated box and number of pixels."""

    box: tuple[int, int, int, int]
    rotated: tuple[float, float, float, float, float]
    area: int


def visible(item: Item, number: int, top: Int[np.ndarray, "h w"]) -> Found | None:
    """What is visible of object `number`, or None."""
    tile = item.tile.cut(*top.shape)
    rows, columns = np.nonzero(top[tile.window] == number)
    if not len(rows):
        return None
    x, y = columns + tile.left, rows + tile.top
    box = (int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1)
    return Found(box, _rotated_box(x, y, item.angle), len(rows))


def keypoints(item: Item, number: int, top: Int[np.ndarray, "h w"]) -> Float[np.ndarray, "5 3"]:
    """Corners and centre of the frame: 2 in the picture, 1 where something lies on top, 0 (and zeros) outside.

    A crowd has none.
    """
    height, width = top.shape
    found = np.zeros((len(item.points), 3), np.float32)
    if item.crowd:
        return found
    points = item.points.astype(np.float32)
    for row, (x, y) in zip(found, points, strict=True):
        if 0 <= x < width and 0 <= y < height:
            row[:] = x, y, 1 if top[int(y), int(x)] > number else 2
    return found


def instances(layout: Layout) -> Sample:
    """The rows of all objects but their masks, which `masks` makes of the map."""
    numbers = range(1, len(layout.items) + 1)
    found = [visible(item, number, layout.top) for item, number in zip(layout.items, numbers, strict=True)]
    points = [keypoints(item, number, layout.top) for item, number in zip(layout.items, numbers, strict=True)]
    rows = [one for one in found if one is not None]
    assert len(rows) == len(found), "an object without a visible pixel was placed"
    return {
        "boxes": np.array([one.box for one in rows], np.float32).reshape(-1, 4),
        "labels": np.array([item.label for item in layout.items], np.int32),
        "crowd": np.array([item.crowd for item in layout.items], bool),
        "area": np.array([one.area for one in rows], np.float32),
        "keypoints": np.array(points, np.float32).reshape(-1, 5, 3),
        "rotated_boxes": np.array([one.rotated for one in rows], np.float32).reshape(-1, 5),
        "texts": tuple(item.text for item in layout.items),
    }


def masks(objects: Int[np.ndarray, "h w"], count: int) -> np.ndarray:
    """bool [count, h, w] of a map of object numbers."""
    return objects[None] == np.arange(1, count + 1, dtype=objects.dtype)[:, None, None]


def semantic(objects: Int[np.ndarray, "h w"], labels: Int[np.ndarray, " n"], background: int) -> np.ndarray:
    """The class of each pixel, uint8."""
    return np.concatenate([[background], labels]).astype(np.uint8)[objects]


def panoptic(objects: Int[np.ndarray, "h w"], sample: Sample, background: int) -> Sample:
    """Objects keep their numbers; the ground is the last segment, where any of it is seen."""
    ground = len(sample["labels"]) + 1
    seen = bool((objects == 0).any())
    segments = objects.astype(np.int32)
    segments[objects == 0] = ground
    return {
        "panoptic": segments,
        "segment_labels": np.concatenate([sample["labels"], [background] * seen]).astype(np.int32),
        "segment_crowd": np.concatenate([sample["crowd"], [False] * seen]).astype(bool),
    }


def _rotated_box(
    x: Int[np.ndarray, " n"], y: Int[np.ndarray, " n"], angle: float
) -> tuple[float, float, float, float, float]:
    """The smallest box at this angle that holds the pixels, which are squares."""
    cosine, sine = math.cos(angle), math.sin(angle)
    u = (x + 0.5) * cosine + (y + 0.5) * sine
    v = (y + 0.5) * cosine - (x + 0.5) * sine
    reach = abs(cosine) + abs(sine)
    low, high = (float(u.min()), float(v.min())), (float(u.max()), float(v.max()))
    along, across = (low[0] + high[0]) / 2, (low[1] + high[1]) / 2
    return (
        along * cosine - across * sine,
        along * sine + across * cosine,
        high[0] - low[0] + reach,
        high[1] - low[1] + reach,
        angle,
    )
