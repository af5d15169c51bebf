"""Transforms that change the size of the whole picture."""

import dataclasses
from typing import Literal, get_args

import numpy as np

from jaxvision.data.samples import Sample
from jaxvision.data.transforms.view import (
    Fill,
    Interpolation,
    Size,
    View,
    check_fill,
    check_interpolation,
    check_size,
)
from jaxvision.errors import SetupError
from jaxvision.registry import hint

Mode = Literal["stretch", "fit", "cover"]


@dataclasses.dataclass(frozen=True)
class Resize:
    """To one size.

    Attributes:
      size: height and width; None is the canvas.
      mode: "stretch" changes the ratio of the sides, "fit" makes the largest picture that lies inside `size`, "cover"
        the smallest that contains it (a crop may follow).
      interpolation: "bilinear" or "bicubic".
    """

    size: Size | None = None
    mode: Mode = "stretch"
    interpolation: Interpolation = "bilinear"

    def __post_init__(self):
        check_size("resize", self.size)
        check_interpolation("resize", self.interpolation)
        if self.mode not in get_args(Mode):
            raise SetupError(f"resize: unknown mode {self.mode!r}: {hint(self.mode, get_args(Mode))}")

    def plan(self, view: View, sample: Sample, rng: np.random.Generator) -> tuple[View, Sample]:
        height, width = self.size or view.canvas
        if self.mode != "stretch":
            pick = min if self.mode == "fit" else max
            scale = pick(height / view.size[0], width / view.size[1])
            height, width = (round(side * scale) for side in view.size)
        return view.resize((height, width), self.interpolation), sample


@dataclasses.dataclass(frozen=True)
class ResizeSide:
    """By one side, with the same ratio of the sides: `short=800, long=1333` is that of detectors on COCO.

    The other side is rounded down, as torchvision's `Resize` does.

    Attributes:
      short: length of the shorter side; None leaves it to `long`.
      long: the largest that the longer side may become, or what it becomes where `short` is None.
      interpolation: "bilinear" or "bicubic".
    """

    short: int | None = 256
    long: int | None = None
    interpolation: Interpolation = "bilinear"

    def __post_init__(self):
        check_interpolation("resize_side", self.interpolation)
        if self.short is None and self.long is None:
            raise SetupError("resize_side: give short, long or both")
        for name, value in (("short", self.short), ("long", self.long)):
            if value is not None and value < 1:
                raise SetupError(f"resize_side: {name} is {value}, expected at least 1 pixel")

    def plan(self, view: View, sample: Sample, rng: np.random.Generator) -> tuple[View, Sample]:
        return view.resize(side_size(view.size, self.short, self.long), self.interpolation), sample


@dataclasses.dataclass(frozen=True)
class RandomShortSide:
    """By the shorter side, which is one of several (multi-scale training; DETR's and detectron2's lengths).

    Attributes:
      shorts: lengths to choose from.
      long: the largest that the longer side may become.
    """

    shorts: tuple[int, ...] = (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)
    long: int | None = 1333

    def __post_init__(self):
        if not self.shorts or min(self.shorts) < 1:
            raise SetupError(f"random_short_side: shorts is {self.shorts}, expected lengths of at least 1 pixel")

    def plan(self, view: View, sample: Sample, rng: np.random.Generator) -> tuple[View, Sample]:
        short = self.shorts[rng.integers(len(self.shorts))]
        return view.resize(side_size(view.size, short, self.long)), sample


@dataclasses.dataclass(frozen=True)
class RandomScale:
    """A random factor of the size that `ResizeSide` gives (segmenters; OpenMMLab's `RandomResize`).

    Attributes:
      short, long: as in `ResizeSide`.
      factors: lowest and highest factor; uniform.
    """

    short: int = 512
    long: int | None = None
    factors: tuple[float, float] = (0.5, 2.0)

    def __post_init__(self):
        for name, value in (("short", self.short), ("long", self.long)):
            if value is not None and value < 1:
                raise SetupError(f"random_scale: {name} is {value}, expected at least 1 pixel")
        if len(self.factors) != 2 or not 0 < self.factors[0] <= self.factors[1]:
            raise SetupError(f"random_scale: factors is {self.factors}, expected (lowest, highest) above 0")

    def plan(self, view: View, sample: Sample, rng: np.random.Generator) -> tuple[View, Sample]:
        factor = float(rng.uniform(*self.factors))
        short, long = (None if side is None else max(1, round(side * factor)) for side in (self.short, self.long))
        height, width = side_size(view.size, short, long)
        return view.resize((max(1, height), max(1, width))), sample


@dataclasses.dataclass(frozen=True)
class Letterbox:
    """The largest picture that lies inside `size`, centred on a plain ground (YOLO, Darknet and ultralytics).

    Attributes:
      size: height and width; None is the canvas.
      fill: of the ground.
      upscale: whether small pictures are enlarged.
      centered: False: the picture lies in the upper left corner and keeps its size, and the ground is the canvas
        around it (YOLOX).
    """

    size: Size | None = None
    fill: Fill = 114
    upscale: bool = True
    centered: bool = True

    def __post_init__(self):
        check_size("letterbox", self.size)
        check_fill("letterbox", self.fill)

    def plan(self, view: View, sample: Sample, rng: np.random.Generator) -> tuple[View, Sample]:
        height, width = self.size or view.canvas
        scale = min(height / view.size[0], width / view.size[1])
        scale = scale if self.upscale else min(scale, 1.0)
        view = view.resize((round(view.size[0] * scale), round(view.size[1] * scale)))
        if not self.centered:
            return dataclasses.replace(view, fill=self.fill), sample
        top, left = (height - view.size[0]) // 2, (width - view.size[1]) // 2
        return view.crop(-left, -top, height, width, self.fill), sample


def side_size(size: Size, short: int | None, long: int | None) -> Size:
    """Height and width after the rule of `ResizeSide`."""
    low, high = min(size), max(size)
    if short is None:
        assert long is not None
        new_low, new_high = int(long * low / high), long
    else:
        new_low, new_high = short, int(short * high / low)
        if long is not None and new_high > long:
            new_low, new_high = int(long * new_low / new_high), long
    return (new_low, new_high) if size[0] <= size[1] else (new_high, new_low)
