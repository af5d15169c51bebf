"""Which part of an image is shown at what size: the composition of any number of crops, pads and resizings."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, TypeGuard, get_args

import numpy as np
from jaxtyping import Float

from jaxvision.data.samples import Sample
from jaxvision.errors import SetupError
from jaxvision.registry import hint

Size = tuple[int, int]
"""Height and width in pixels."""
Fill = int | tuple[int, int, int]
"""0..255, for every channel or for red, green and blue."""
Interpolation = Literal["bilinear", "bicubic"]
HostTransform = Any
"""See the package's docstring."""


@dataclasses.dataclass(frozen=True)
class View:
    """A window of the upright image, shown as a picture in the top left corner of a canvas.

    Attributes:
      original: of the image.
      window: left, top, right, bottom in pixels of the image; may reach outside of it, where there is only `fill`.
      size: of the picture that the window becomes.
      canvas: of the array that the network gets; the picture lies in its top left corner.
      fill: value of the canvas where there is no image.
      interpolation: "bilinear" or "bicubic", antialiased (Pillow's filters).
    """

    original: Size
    window: tuple[float, float, float, float]
    size: Size
    canvas: Size
    fill: Fill = 0
    interpolation: Interpolation = "bilinear"

    @classmethod
    def whole(cls, original: Size, canvas: Size) -> "View":
        """The image as it is."""
        height, width = original
        return cls((height, width), (0.0, 0.0, float(width), float(height)), (height, width), canvas)

    @property
    def step(self) -> tuple[float, float]:
        """Pixels of the image per pixel of the canvas, in x and in y."""
        left, top, right, bottom = self.window
        return (right - left) / self.size[1], (bottom - top) / self.size[0]

    @property
    def to_original(self) -> Float[np.ndarray, "3 3"]:
        """Takes (x, y, 1) on the canvas to the image."""
        step_x, step_y = self.step
        return np.array([[step_x, 0, self.window[0]], [0, step_y, self.window[1]], [0, 0, 1]], np.float32)

    def crop(self, left: float, top: float, height: int, width: int, fill: Fill | None = None) -> "View":
        """The part of the picture that starts at (left, top), in pixels of the picture.

        It may reach outside, where there is `fill` from then on (None: as before).
        """
        step_x, step_y = self.step
        x, y = self.window[0] + left * step_x, self.window[1] + top * step_y
        outside = min(left, top) < 0 or left + width > self.size[1] or top + height > self.size[0]
        return dataclasses.replace(
            self,
            window=(x, y, x + width * step_x, y + height * step_y),
            size=(height, width),
            fill=fill if outside and fill is not None else self.fill,
        )

    def resize(self, size: Size, interpolation: Interpolation | None = None) -> "View":
        """The same window as a picture of `size`, of at least one pixel.

        The image is resampled once, at the end, by the `interpolation` that was given last (None: as before).
        """
        size = (max(1, size[0]), max(1, size[1]))
        return dataclasses.replace(self, size=size, interpolation=interpolation or self.interpolation)

    def fitted(self) -> "View":
        """Where the picture is larger than the canvas, the largest that fits, with the same ratio of its sides."""
        (height, width), (canvas_height, canvas_width) = self.size, self.canvas
        if height <= canvas_height and width <= canvas_width:
            return self
        scale = min(canvas_height / height, canvas_width / width)
        return self.resize((min(canvas_height, round(height * scale)), min(canvas_width, round(width * scale))))

    def points(self, xy: Float[np.ndarray, "*n 2"]) -> Float[np.ndarray, "*n 2"]:
        """From pixels of the image to pixels of the canvas."""
        return (xy - np.array(self.window[:2])) / np.array(self.step)

    def boxes(self, boxes: Float[np.ndarray, "n 4"]) -> Float[np.ndarray, "n 4"]:
        """From pixels of the image to pixels of the canvas, not clipped."""
        return self.points(boxes.reshape(-1, 2, 2)).reshape(-1, 4)


def is_geometric(transform: HostTransform) -> TypeGuard[Any]:
    """Whether it has the form `plan`."""
    return hasattr(transform, "plan")


def split_forms(transforms: Sequence[HostTransform]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """The geometric transforms and those of pixels.

    Raises:
      SetupError: a geometric one after one of pixels, or something that is neither.
    """
    geometric: list[Any] = []
    of_pixels: list[Any] = []
    for transform in transforms:
        name = type(transform).__name__
        if is_geometric(transform):
            if of_pixels:
                raise SetupError(
                    f"host transform {name} comes after {type(of_pixels[-1]).__name__}: those that crop and resize "
                    "come first, because the image is resampled once; change their order"
                )
            geometric.append(transform)
        elif hasattr(transform, "pixels"):
            of_pixels.append(transform)
        else:
            raise SetupError(
                f"{name} is no host transform: it has neither `plan` nor `pixels`; "
                "a device transform belongs into `augment`"
            )
    return tuple(geometric), tuple(of_pixels)


def compose(view: View, sample: Sample, transforms: Sequence[Any], rng: np.random.Generator) -> tuple[View, Sample]:
    """Applies geometric transforms in turn; the picture fits the canvas at the end (`View.fitted`)."""
    for transform in transforms:
        view, sample = transform.plan(view, sample, rng)
    return view.fitted(), sample


def check_interpolation(name: str, interpolation: str) -> None:
    """Raises SetupError unless it is one of `Interpolation`."""
    if interpolation not in get_args(Interpolation):
        raise SetupError(
            f"{name}: unknown interpolation {interpolation!r}: {hint(interpolation, get_args(Interpolation))}"
        )


def check_size(name: str, size: Size | None) -> None:
    """Raises SetupError unless `size` is None or (height, width) of at least one pixel."""
    if size is not None and (len(size) != 2 or min(size) < 1):
        raise SetupError(f"{name}: size is {size}, expected (height, width) of at least 1 pixel")


def check_fill(name: str, fill: Fill) -> None:
    """Raises SetupError unless `fill` is 0..255, or three of them."""
    values = (fill,) if isinstance(fill, int) else tuple(fill)
    if len(values) not in (1, 3) or not all(0 <= value <= 255 for value in values):
        raise SetupError(f"{name}: fill is {fill}, expected 0..255, or red, green and blue")


def check_range(name: str, what: str, values: tuple[float, float], low: float = 0.0) -> None:
    """Raises SetupError unless low < values[0] <= values[1]."""
    if len(values) != 2 or not low < values[0] <= values[1]:
        raise SetupError(f"{name}: {what} is {values}, expected two numbers above {low:g}, the smaller one first")
