"""Transforms that choose a window of the picture, or put it on a larger ground."""

import dataclasses
import math

import numpy as np
from jaxtyping import Bool, Float

from jaxvision.data.samples import INSTANCE_KEYS, Sample
from jaxvision.data.transforms.resize import side_size
from jaxvision.data.transforms.view import (
    Fill,
    Interpolation,
    Size,
    View,
    check_fill,
    check_interpolation,
    check_range,
    check_size,
)
from jaxvision.errors import SetupError


@dataclasses.dataclass(frozen=True)
class CenterCrop:
    """The middle of the picture; where it is smaller, the rest is filled.

    Attributes:
      size: height and width; None is the canvas.
      fill: value outside of the image.
    """

    size: Size | None = None
    fill: Fill = 0

    def __post_init__(self):
        check_size("center_crop", self.size)
        check_fill("center_crop", self.fill)

    def plan(self, view: View, sample: Sample, rng: np.random.Generator) -> tuple[View, Sample]:
        height, width = self.size or view.canvas
        # Half of an odd number is rounded to even, as torchvision does.
        top, left = (round((old - new) / 2) for old, new in zip(view.size, (height, width), strict=True))
        return view.crop(left, top, height, width, self.fill), sample


@dataclasses.dataclass(frozen=True)
class RandomCrop:
    """A window anywhere in the picture, or in the picture with a margin (He et al. 2016, sec. 4.2).

    Where the picture is smaller than the window, it lies anywhere inside of it.

    Attributes:
      size: height and width; None is the canvas.
      padding: width of the margin in pixels.
      fill: value outside of the image.
    """

    size: Size | None = None
    padding: int = 0
    fill: Fill = 0

    def __post_init__(self):
        check_size("random_crop", self.size)
        check_fill("random_crop", self.fill)
        if self.padding < 0:
            raise SetupError(f"random_crop: padding is {self.padding}, expected at least 0 pixels")

    def plan(self, view: View, sample: Sample, rng: np.random.Generator) -> tuple[View, Sample]:
        size = self.size or view.canvas
        spare = [old + 2 * self.padding - new for old, new in zip(view.size, size, strict=True)]
        top, left = (int(rng.integers(min(0, s), max(0, s) + 1)) - self.padding for s in spare)
        return view.crop(left, top, size[0], size[1], self.fill), sample


@dataclasses.dataclass(frozen=True)
class RandomResizedCrop:
    """A window of random area and ratio of sides, stretched to one size (Szegedy et al. 2015, sec. 6).

    torchvision's rule: ten attempts at a window inside the picture, then the largest centred one within `ratio`.

    Attributes:
      size: height and width of the result; None is the canvas.
      scale: area of the window, as a share of the picture's; uniform.
      ratio: its width over its height; log-uniform.
      interpolation: "bilinear" or "bicubic".
    """

    size: Size | None = None
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: Interpolation = "bilinear"

    def __post_init__(self):
        check_size("random_resized_crop", self.size)
        check_interpolation("random_resized_crop", self.interpolation)
        check_range("random_resized_crop", "scale", self.scale)
        check_range("random_resized_crop", "ratio", self.ratio)

    def plan(self, view: View, sample: Sample, rng: np.random.Generator) -> tuple[View, Sample]:
        left, top, height, width = self._window(view.size, rng)
        view = view.crop(left, top, height, width).resize(self.size or view.canvas, self.interpolation)
        return view, sample

    def _window(self, size: Size, rng: np.random.Generator) -> tuple[int, int, int, int]:
        height, width = size
        log_low, log_high = math.log(self.ratio[0]), math.log(self.ratio[1])
        for _ in range(10):
            area = height * width * rng.uniform(*self.scale)
            ratio = math.exp(rng.uniform(log_low, log_high))
            new_width, new_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < new_width <= width and 0 < new_height <= height:
                top = int(rng.integers(height - new_height + 1))
                left = int(rng.integers(width - new_width + 1))
                return left, top, new_height, new_width
        new_width, new_height = width, height
        if width / height < self.ratio[0]:
            new_height = min(height, round(width / self.ratio[0]))
        elif width / height > self.ratio[1]:
            new_width = min(width, round(height * self.ratio[1]))
        return (width - new_width) // 2, (height - new_height) // 2, new_height, new_width


@dataclasses.dataclass(frozen=True)
class RandomScaledCrop:
    """A window of random sides, cut after the picture got a random scale (DETR, Carion et al. 2020, appendix A.4).

    A resize follows, of all pictures, so that it does not matter that those without a window keep their size.

    Attributes:
      shorts: lengths to choose the shorter side of the picture from.
      sides: shortest and longest side of the window in pixels, no longer than the picture; uniform, each by itself.
      probability: else the picture stays as it is.
    """

    shorts: tuple[int, ...] = (400, 500, 600)
    sides: tuple[int, int] = (384, 600)
    probability: float = 0.5

    def __post_init__(self):
        if not self.shorts or min(self.shorts) < 1:
            raise SetupError(f"random_scaled_crop: shorts is {self.shorts}, expected lengths of at least 1 pixel")
        check_range("random_scaled_crop", "sides", self.sides)
        if not 0 <= self.probability <= 1:
            raise SetupError(f"random_scaled_crop: probability is {self.probability}, expected 0..1")

    def plan(self, view: View, sample: Sample, rng: np.random.Generator) -> tuple[View, Sample]:
        if rng.random() >= self.probability:
            return view, sample
        view = view.resize(side_size(view.size, self.shorts[rng.integers(len(self.shorts))], None))
        low, high = self.sides
        height, width = (int(rng.integers(min(low, side), min(high, side) + 1)) for side in view.size)
        top, left = (int(rng.integers(old - new + 1)) for old, new in zip(view.size, (height, width), strict=True))
        return view.crop(left, top, height, width), sample


@dataclasses.dataclass(frozen=True)
class Expand:
    """Puts the picture anywhere on a larger ground, so that objects become smaller (SSD, Liu et al. 2016, sec. 3.6).

    Attributes:
      sides: how many times longer the sides become; uniform.
      probability: else the picture stays as it is.
      fill: of the ground; the mean of ImageNet.
    """

    sides: tuple[float, float] = (1.0, 4.0)
    probability: float = 0.5
    fill: Fill = (124, 116, 104)

    def __post_init__(self):
        check_range("expand", "sides", self.sides)
        check_fill("expand", self.fill)
        if self.sides[0] < 1:
            raise SetupError(f"expand: sides is {self.sides}, expected at least 1")
        if not 0 <= self.probability <= 1:
            raise SetupError(f"expand: probability is {self.probability}, expected 0..1")

    def plan(self, view: View, sample: Sample, rng: np.random.Generator) -> tuple[View, Sample]:
        if rng.random() >= self.probability:
            return view, sample
        factor = rng.uniform(*self.sides)
        height, width = (int(side * factor) for side in view.size)
        top, left = (int((new - old) * rng.random()) for new, old in zip((height, width), view.size, strict=True))
        return view.crop(-left, -top, height, width, self.fill), sample


@dataclasses.dataclass(frozen=True)
class IouCrop:
    """A window that overlaps an object by a random least IoU; objects with their centre outside go (SSD, sec. 2.2).

    The rule and the defaults are those of torchvision's `RandomIoUCrop`.

    Attributes:
      scale: sides of the window, as shares of the picture's; uniform, each by itself.
      ratio: bounds of the window's width over its height.
      overlaps: least IoU of the window and one of the objects inside, chosen anew after `trials` failures; 1 or more
        leaves the picture as it is.
      trials: windows tried for each.
    """

    scale: tuple[float, float] = (0.3, 1.0)
    ratio: tuple[float, float] = (0.5, 2.0)
    overlaps: tuple[float, ...] = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
    trials: int = 40

    def __post_init__(self):
        check_range("iou_crop", "scale", self.scale)
        check_range("iou_crop", "ratio", self.ratio)
        if not self.overlaps or max(self.overlaps) < 1:
            raise SetupError(f"iou_crop: overlaps is {self.overlaps}, expected one of at least 1 (no crop) among them")

    def plan(self, view: View, sample: Sample, rng: np.random.Generator) -> tuple[View, Sample]:
        if not len(sample.get("boxes", ())):
            return view, sample
        boxes = view.boxes(sample["boxes"])
        centers = (boxes[:, :2] + boxes[:, 2:]) / 2
        while (least := self.overlaps[rng.integers(len(self.overlaps))]) < 1:
            for _ in range(self.trials):
                window = self._window(view.size, rng)
                if window is None:
                    continue
                inside = ((centers > window[:2]) & (centers < window[2:])).all(1)
                if inside.any() and _iou(boxes[inside], window).max() >= least:
                    left, top, right, bottom = (int(side) for side in window)
                    return view.crop(left, top, bottom - top, right - left), keep_rows(sample, inside)
        return view, sample

    def _window(self, size: Size, rng: np.random.Generator) -> Float[np.ndarray, "4"] | None:
        height, width = (int(side * rng.uniform(*self.scale)) for side in size)
        if not height or not self.ratio[0] <= width / height <= self.ratio[1] or not width:
            return None
        top, left = (int((old - new) * rng.random()) for old, new in zip(size, (height, width), strict=True))
        return np.array([left, top, left + width, top + height], np.float64)


def keep_rows(sample: Sample, keep: Bool[np.ndarray, " n"]) -> Sample:
    """The sample with some of its objects."""
    kept = dict(sample)
    for key in sample.keys() & {*INSTANCE_KEYS, "rows"}:
        value = sample[key]
        kept[key] = tuple(v for v, k in zip(value, keep, strict=True) if k) if key == "texts" else value[keep]
    return kept


def _iou(boxes: Float[np.ndarray, "n 4"], window: Float[np.ndarray, "4"]) -> Float[np.ndarray, " n"]:
    sides = np.minimum(boxes[:, 2:], window[2:]) - np.maximum(boxes[:, :2], window[:2])
    common = np.clip(sides, 0, None).prod(1)
    return common / ((boxes[:, 2:] - boxes[:, :2]).prod(1) + (window[2:] - window[:2]).prod() - common)
