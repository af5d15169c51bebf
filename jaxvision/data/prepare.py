"""One sample on its canvas, by numpy and Pillow: in prediction, evaluation, checks, pictures and tests.

The loader does the same with TensorFlow's JPEG decoder; both share everything but the decoding.
"""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from jaxvision.data.images import fit_images, read_image
from jaxvision.data.resample import nearest, resample
from jaxvision.data.samples import IGNORED, Sample
from jaxvision.data.transforms.crops import keep_rows
from jaxvision.data.transforms.view import Size, View, compose, split_forms

MIN_SIDE = 1.0
"""Objects of which less than this many pixels are to be seen, in either direction, are no truth in training."""


def prepare(
    image: UInt8[np.ndarray, "h w #c"] | bytes | str | os.PathLike,
    annotations: Sample | None,
    transforms: Sequence[Any],
    rng: np.random.Generator,
    *,
    canvas: Size,
    channels: int = 3,
    train: bool = False,
) -> Sample:
    """The sample as the network gets it.

    Args:
      image: the upright image, or a file that `read_image` decodes.
      annotations: of the image, in its pixels (`data.samples`); None for none.
      transforms: host transforms, the geometric ones first.
      rng: their randomness: `data.order.sample_rng(seed, position)`.
      canvas: height and width of the array.
      channels: 1 or 3.
      train: leaves out objects of which less than `MIN_SIDE` pixels are to be seen.

    Returns:
      the annotations in pixels of the canvas, `image` uint8 `[*canvas, channels]`, and `size`, `original_size` and
      `to_original` of `data.collate`.
    """
    if not isinstance(image, np.ndarray):
        image = read_image(image)
    geometric, of_pixels = split_forms(transforms)
    view, sample = compose(View.whole(image.shape[:2], canvas), dict(annotations or {}), geometric, rng)
    drawn = np.empty((*canvas, channels), np.uint8)
    resample(in_channels(image, channels), view, drawn)
    return {**move(sample, view, train=train), "image": change_pixels(drawn, view, of_pixels, rng)}


def in_channels(image: UInt8[np.ndarray, "h w #c"], channels: int) -> UInt8[np.ndarray, "h w channels"]:
    """Grey as luminance, or repeated to RGB; see `fit_image`."""
    image = image if image.ndim == 3 else image[..., None]
    return image if image.shape[-1] == channels else fit_images(image[None], image.shape[:2], channels)[0]


def change_pixels(
    image: UInt8[np.ndarray, "h w c"], view: View, transforms: Sequence[Any], rng: np.random.Generator
) -> UInt8[np.ndarray, "h w c"]:
    """Applies transforms of pixels to the picture on the canvas, in place where there are any."""
    if transforms:
        height, width = view.size
        picture = np.ascontiguousarray(image[:height, :width])
        for transform in transforms:
            picture = transform.pixels(picture, rng)
        image[:height, :width] = picture
    return image


def move(sample: Sample, view: View, *, train: bool) -> Sample:
    """Annotations from pixels of the image to pixels of the canvas.

    Boxes and proposals are clipped to the picture. Keypoints outside of it are not labelled any more (0, 0, 0). Masks
    and maps take the nearest pixel; outside of the image they are False, `IGNORED` and 0. A rotated box that is
    stretched becomes a parallelogram, and is replaced by the smallest rectangle around it. `area` stays that of the
    original.
    """
    moved = dict(sample)
    for key in ("boxes", "proposals"):
        if key in sample:
            height, width = view.size
            boxes = view.boxes(np.asarray(sample[key], np.float64).reshape(-1, 4))
            moved[key] = np.clip(boxes, 0, (width, height, width, height)).astype(np.float32)
    if "keypoints" in sample:
        moved["keypoints"] = _keypoints(sample["keypoints"], view)
    if "rotated_boxes" in sample:
        moved["rotated_boxes"] = _rotated(sample["rotated_boxes"], view)
    if train and "boxes" in sample:
        sides = moved["boxes"][:, 2:] - moved["boxes"][:, :2]
        keep = (sides >= MIN_SIDE).all(1)
        if not keep.all():
            moved = keep_rows(moved, keep)
    for key, fill in (("masks", 0), ("semantic", IGNORED), ("panoptic", 0)):
        if key in moved:
            moved[key] = nearest(moved[key], view, fill)
    moved["size"] = np.array(view.size, np.float32)
    moved["original_size"] = np.array(view.original, np.int32)
    moved["to_original"] = view.to_original
    return moved


def _keypoints(keypoints: Float[np.ndarray, "n k 3"], view: View) -> Float[np.ndarray, "n k 3"]:
    xy = view.points(np.asarray(keypoints[..., :2], np.float64))
    height, width = view.size
    seen = (keypoints[..., 2] > 0) & ((xy >= 0) & (xy < (width, height))).all(-1)
    return np.where(seen[..., None], np.concatenate([xy, keypoints[..., 2:]], -1), 0).astype(np.float32)


def _rotated(boxes: Float[np.ndarray, "n 5"], view: View) -> Float[np.ndarray, "n 5"]:
    """Centre x, y, width, height, angle; see `move`."""
    boxes = np.asarray(boxes, np.float64).reshape(-1, 5)
    step_x, step_y = view.step
    centers = view.points(boxes[:, :2])
    if abs(step_x - step_y) <= 1e-2 * step_x:  # a side that was rounded to whole pixels is no stretching
        sides = boxes[:, 2:4] / np.sqrt(step_x * step_y)
        return np.concatenate([centers, sides, boxes[:, 4:]], 1).astype(np.float32)
    cos, sin = np.cos(boxes[:, 4]), np.sin(boxes[:, 4])
    scale = 1 / np.array([step_x, step_y])
    along = boxes[:, 2:3] * np.stack([cos, sin], 1) * scale
    across = boxes[:, 3:4] * np.stack([-sin, cos], 1) * scale
    # The smallest rectangle around a parallelogram shares the direction of one of its sides (Freeman & Shapira 1975).
    first = _around(along, across)
    second = _around(across, -along)[:, [1, 0, 2]] - np.array([0, 0, np.pi / 2])
    better = first[:, 0] * first[:, 1] <= second[:, 0] * second[:, 1]
    return np.concatenate([centers, np.where(better[:, None], first, second)], 1).astype(np.float32)


def _around(side: Float[np.ndarray, "n 2"], other: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 3"]:
    """Width, height and angle of the rectangle in the direction of `side` around the parallelogram of both."""
    length = np.linalg.norm(side, axis=1)
    unit = side / np.maximum(length, 1e-12)[:, None]
    normal = np.stack([-unit[:, 1], unit[:, 0]], 1)
    width = length + np.abs((other * unit).sum(1))
    return np.stack([width, np.abs((other * normal).sum(1)), np.arctan2(unit[:, 1], unit[:, 0])], 1)
