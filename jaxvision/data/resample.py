"""The one resampling of an image: a window of it, at any size, antialiased as Pillow does.

`resample` is Pillow's bilinear or bicubic filter, which averages over `step` pixels where it shrinks; it sees what lies
around the window, so that a crop of a resized image equals the resizing of the cropped window. `nearest` takes the
pixel under each centre, for values that cannot be averaged.

A pixel of the canvas shows the image where its centre lies inside of it, and the fill elsewhere.
"""

import dataclasses
import math

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

from jaxvision.data.images import stretch
from jaxvision.data.transforms.view import Fill, View


@dataclasses.dataclass(frozen=True)
class Placement:
    """What of the image goes where on the canvas.

    Attributes:
      place: left, top, right, bottom on the canvas, whole pixels; empty where nothing of the image is to be seen.
      box: left, top, right, bottom of the pixels of the image that it shows; it may reach beyond the image by half a
        pixel of the canvas, where the image's edge is continued.
      needed: whole pixels of the image that the filter reads.
    """

    place: tuple[int, int, int, int]
    box: tuple[float, float, float, float]
    needed: tuple[int, int, int, int]

    @property
    def empty(self) -> bool:
        return self.place[0] >= self.place[2] or self.place[1] >= self.place[3]


def placement(view: View) -> Placement:
    """Where the image lies on the canvas of a view."""
    support = 2 if view.interpolation == "bicubic" else 1
    columns, x_box, x_needed = _axis(view.window[0], view.window[2], view.size[1], view.original[1], support)
    rows, y_box, y_needed = _axis(view.window[1], view.window[3], view.size[0], view.original[0], support)
    return Placement(
        (columns[0], rows[0], columns[1], rows[1]),
        (x_box[0], y_box[0], x_box[1], y_box[1]),
        (x_needed[0], y_needed[0], x_needed[1], y_needed[1]),
    )


def _axis(
    start: float, stop: float, size: int, original: int, support: int
) -> tuple[tuple[int, int], tuple[float, float], tuple[int, int]]:
    step = (stop - start) / size
    # A pixel i is inside if its centre start + (i + 1/2) step is; the margin is for rounding errors of the window.
    first = max(0, math.ceil(-start / step - 0.5 - 1e-6))
    last = min(size, math.floor((original - start) / step - 0.5 + 1e-6) + 1)
    low, high = start + first * step, start + last * step
    reach = max(step, 1.0) * support + 1.0
    return (first, last), (low, high), (max(0, math.floor(low - reach)), min(original, math.ceil(high + reach)))


def resample(
    image: UInt8[np.ndarray, "h w c"], view: View, canvas: UInt8[np.ndarray, "H W c"], corner: tuple[int, int] = (0, 0)
) -> None:
    """Draws the image on a canvas, all of whose pixels are written.

    Args:
      image: the image, or the part of it that `placement(view).needed` names.
      view: what to show.
      canvas: of the view's canvas size, and of the image's channels.
      corner: left and top of `image` in the whole image.
    """
    where = placement(view)
    left, top, right, bottom = (0, 0, 0, 0) if where.empty else where.place
    _fill_around(canvas, (left, top, right, bottom), view.fill)
    if where.empty:
        return
    x, y = corner
    box = (where.box[0] - x, where.box[1] - y, where.box[2] - x, where.box[3] - y)
    _draw(image, box, canvas[top:bottom, left:right], view.interpolation)


def _draw(image: np.ndarray, box: tuple[float, float, float, float], target: np.ndarray, interpolation: str) -> None:
    """Resamples a box of the image into the target."""
    left, top, right, bottom = whole = tuple(round(side) for side in box)
    height, width = target.shape[:2]
    if max(abs(a - b) for a, b in zip(box, whole, strict=True)) < 1e-6:
        if (bottom - top, right - left) == (height, width):
            target[...] = image[top:bottom, left:right]
            return
        if whole == (0, 0, image.shape[1], image.shape[0]) and interpolation == "bilinear":
            stretch(image, target)
            return
    if image.shape[-1] == 1:
        image, target = image[..., 0], target[..., 0]
    image, box = _continued(image, box)
    picture = Image.fromarray(image)
    limits = (max(0.0, box[0]), max(0.0, box[1]), min(picture.width, box[2]), min(picture.height, box[3]))
    target[...] = picture.resize((width, height), Image.Resampling[interpolation.upper()], box=limits)


def _continued(
    image: np.ndarray, box: tuple[float, float, float, float]
) -> tuple[np.ndarray, tuple[float, float, float, float]]:
    """Repeats the pixels at the edges as far as the box reaches beyond them."""
    height, width = image.shape[:2]
    left, top, right, bottom = (
        max(0, math.ceil(beyond - 1e-6)) for beyond in (-box[0], -box[1], box[2] - width, box[3] - height)
    )
    if left or top or right or bottom:
        image = np.pad(image, [(top, bottom), (left, right), (0, 0)][: image.ndim], mode="edge")
        box = (box[0] + left, box[1] + top, box[2] + left, box[3] + top)
    return image, box


def _fill_around(canvas: np.ndarray, place: tuple[int, int, int, int], fill: Fill) -> None:
    left, top, right, bottom = place
    for part in (canvas[:top], canvas[bottom:], canvas[top:bottom, :left], canvas[top:bottom, right:]):
        if part.size:
            part[...] = fill if isinstance(fill, int) or canvas.shape[-1] == 3 else round(sum(fill) / len(fill))


def nearest(values: np.ndarray, view: View, fill: int) -> np.ndarray:
    """Values `[..., h, w]` of the image's pixels on the canvas `[..., H, W]`: those under the centres of its pixels."""
    where = placement(view)
    canvas = np.full((*values.shape[:-2], *view.canvas), fill, values.dtype)
    if not where.empty:
        left, top, right, bottom = where.place
        rows = _under(view.window[1], view.step[1], top, bottom, view.original[0])
        columns = _under(view.window[0], view.step[0], left, right, view.original[1])
        canvas[..., top:bottom, left:right] = values.take(rows, axis=-2).take(columns, axis=-1)
    return canvas


def _under(start: float, step: float, first: int, last: int, original: int) -> Int[np.ndarray, " n"]:
    centers = start + (np.arange(first, last) + 0.5) * step
    return np.clip(np.floor(centers + 1e-9).astype(np.int64), 0, original - 1)
