"""AutoAugment and its successors: policies of Pillow operations on uint8 images, after the one resampling.

A policy draws a few steps (`draw`) and applies them (`apply`); with the same steps the result equals that of
torchvision's and timm's transforms on Pillow images bit for bit. The two disagree in ranges and in what a magnitude
means: the bare names are torchvision's, `timm/randaugment` is timm's. Steps that move pixels leave boxes, keypoints and
masks where they are: these are transforms for classification.

Images are uint8 `[h, w, 1]` or `[h, w, 3]`; grey ones give the same as in Pillow's mode "L".
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageEnhance, ImageOps

from jaxvision.data.transforms.policy_tables import AUTOAUGMENT, SIGNED, TIMM_OPS, augmix_ranges, ranges, wide_ranges
from jaxvision.registry import hint

Pixels = UInt8[np.ndarray, "h w c"]

RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


class Step(NamedTuple):
    """One operation.

    Attributes:
      op: a key of `OPS`.
      value: shear: the tangent; translation: pixels to the right or down; rotation: degrees counter-clockwise;
        brightness, color, contrast, sharpness: the factor, 1 changes nothing; posterize: bits that stay, 0..8;
        solarize: the lowest inverted value; solarize_add: what is added to values below 128; others ignore it.
      interpolation: a key of `RESAMPLING`, for the operations that move pixels.
    """

    op: str
    value: float = 0.0
    interpolation: str = "nearest"


@dataclasses.dataclass(frozen=True)
class AutoAugment:
    """One of 25 learned pairs of operations (Cubuk et al. 2019), as torchvision's `AutoAugment`.

    Attributes:
      policy: "imagenet" (table 9 of the paper), "cifar10" (table 7) or "svhn" (table 8).
      interpolation: "nearest", "bilinear" or "bicubic".
      fill: value of pixels from outside the image, one or one per channel.
    """

    policy: str = "imagenet"
    interpolation: str = "nearest"
    fill: tuple[int, ...] = (0,)

    def __post_init__(self):
        if self.policy not in AUTOAUGMENT:
            raise ValueError(f"autoaugment: unknown policy {self.policy!r}: {hint(self.policy, AUTOAUGMENT)}")
        _check_interpolation("autoaugment", self.interpolation)

    def pixels(self, image: Pixels, rng: np.random.Generator) -> Pixels:
        return apply(image, self.draw(rng, image.shape[:2]), self.fill)

    def draw(self, rng: np.random.Generator, size: tuple[int, ...]) -> list[Step]:
        """The steps for an image of this (height, width)."""
        bins = ranges(10, size)
        pair = AUTOAUGMENT[self.policy][rng.integers(25)]
        chances, signs = rng.random(2), rng.integers(2, size=2)
        return [
            _step(op, bins[op], level, bool(sign), self.interpolation)
            for (op, probability, level), chance, sign in zip(pair, chances, signs, strict=True)
            if chance < probability
        ]


@dataclasses.dataclass(frozen=True)
class RandAugment:
    """`num_ops` operations drawn from 14, all of one magnitude (Cubuk et al. 2020), as torchvision's `RandAugment`.

    Attributes:
      num_ops: operations per image.
      magnitude: which of the bins, from 0; every operation grows with it.
      num_bins: steps of the magnitude.
      interpolation: "nearest", "bilinear" or "bicubic".
      fill: value of pixels from outside the image, one or one per channel.
    """

    num_ops: int = 2
    magnitude: int = 9
    num_bins: int = 31
    interpolation: str = "nearest"
    fill: tuple[int, ...] = (0,)

    def __post_init__(self):
        if self.num_ops < 0:
            raise ValueError(f"randaugment: num_ops is {self.num_ops}, expected at least 0")
        if self.num_bins < 2 or not 0 <= self.magnitude < self.num_bins:
            raise ValueError(
                f"randaugment: magnitude is {self.magnitude} of {self.num_bins} bins, "
                "expected at least 2 bins and 0 <= magnitude < num_bins"
            )
        _check_interpolation("randaugment", self.interpolation)

    def pixels(self, image: Pixels, rng: np.random.Generator) -> Pixels:
        return apply(image, self.draw(rng, image.shape[:2]), self.fill)

    def draw(self, rng: np.random.Generator, size: tuple[int, ...]) -> list[Step]:
        """The steps for an image of this (height, width)."""
        bins = ranges(self.num_bins, size)
        ops = [op for op in bins if op != "invert"]
        chosen, signs = rng.integers(len(ops), size=self.num_ops), rng.integers(2, size=self.num_ops)
        return [
            _step(ops[i], bins[ops[i]], self.magnitude, bool(sign), self.interpolation)
            for i, sign in zip(chosen, signs, strict=True)
        ]


@dataclasses.dataclass(frozen=True)
class TrivialAugmentWide:
    """One operation of 14, of any magnitude, in wide ranges (Müller and Hutter 2021), as torchvision's of that name.

    Attributes:
      num_bins: steps of the magnitude.
      interpolation: "nearest", "bilinear" or "bicubic".
      fill: value of pixels from outside the image, one or one per channel.
    """

    num_bins: int = 31
    interpolation: str = "nearest"
    fill: tuple[int, ...] = (0,)

    def __post_init__(self):
        if self.num_bins < 2:
            raise ValueError(f"trivial_augment: num_bins is {self.num_bins}, expected at least 2")
        _check_interpolation("trivial_augment", self.interpolation)

    def pixels(self, image: Pixels, rng: np.random.Generator) -> Pixels:
        return apply(image, self.draw(rng), self.fill)

    def draw(self, rng: np.random.Generator) -> list[Step]:
        """The step."""
        bins = wide_ranges(self.num_bins)
        op, level, sign = list(bins)[rng.integers(len(bins))], rng.integers(self.num_bins), rng.integers(2)
        return [_step(op, bins[op], int(level), bool(sign), self.interpolation)]


@dataclasses.dataclass(frozen=True)
class AugMix:
    """A convex combination of the image and of `width` chains of operations (Hendrycks et al. 2020).

    Ranges and weights are those of torchvision's `AugMix`; the operations are Pillow's, as in the authors' program
    (torchvision runs them on tensors), and the mixture is rounded, where torchvision truncates.

    Attributes:
      severity: the magnitudes are drawn from the first `severity` of 10 steps.
      width: chains.
      depth: operations per chain; 0 draws 1, 2 or 3.
      alpha: of the Dirichlet distribution of the chains' weights and of the beta distribution of the image's.
      interpolation: "nearest", "bilinear" or "bicubic".
      fill: value of pixels from outside the image, one or one per channel.
    """

    severity: int = 3
    width: int = 3
    depth: int = 0
    alpha: float = 1.0
    interpolation: str = "bilinear"
    fill: tuple[int, ...] = (0,)

    def __post_init__(self):
        if not 1 <= self.severity <= 10:
            raise ValueError(f"augmix: severity is {self.severity}, expected 1..10")
        if self.width < 1 or self.depth < 0 or self.alpha <= 0:
            raise ValueError(f"augmix: expected width >= 1, depth >= 0 and alpha > 0, got {self}")
        _check_interpolation("augmix", self.interpolation)

    def pixels(self, image: Pixels, rng: np.random.Generator) -> Pixels:
        weights, chains = self.draw(rng, image.shape[:2])
        mixed = np.float32(weights[0]) * image
        for weight, chain in zip(weights[1:], chains, strict=True):
            mixed += np.float32(weight) * apply(image, chain, self.fill)
        return np.clip(np.rint(mixed), 0, 255).astype(np.uint8)

    def draw(self, rng: np.random.Generator, size: tuple[int, ...]) -> tuple[np.ndarray, list[list[Step]]]:
        """The weights of the image and of each chain, which add up to 1, and the steps of each chain."""
        bins = augmix_ranges(size)
        ops = list(bins)
        own = rng.beta(self.alpha, self.alpha)
        weights = np.concatenate(([own], (1 - own) * rng.dirichlet([self.alpha] * self.width)))
        chains = []
        for _ in range(self.width):
            depth = self.depth or int(rng.integers(1, 4))
            chosen, levels = rng.integers(len(ops), size=depth), rng.integers(self.severity, size=depth)
            chains.append(
                [
                    _step(ops[i], bins[ops[i]], int(level), bool(sign), self.interpolation)
                    for i, level, sign in zip(chosen, levels, rng.integers(2, size=depth), strict=True)
                ]
            )
        return weights, chains


@dataclasses.dataclass(frozen=True)
class TimmRandAugment:
    """timm's `rand_augment_transform`, from its string form.

    DeiT (Touvron et al. 2021) and the stronger recipes of "ResNet strikes back" (Wightman et al. 2021) train with
    "rand-m9-mstd0.5-inc1" and "rand-m7-mstd0.5-inc1".

    Attributes:
      policy: "rand", and in any order, joined by "-": `m` magnitude 0..10 (10), `n` operations per image (2), `p`
        probability of each (0.5), `mstd` standard deviation of the magnitude (0; above 100: uniform in 0..m), `mmax`
        its upper bound (10), `inc1` the forms that all grow with the magnitude. The sets of operations that timm
        chooses with `t` are not here.
      interpolation: "random" (bilinear or bicubic, timm's default), or one of them (DeiT: "bicubic").
      fill: value of pixels from outside the image; timm's recipes take the mean of ImageNet. Its mean for grey images.
    """

    policy: str = "rand-m9-mstd0.5-inc1"
    interpolation: str = "random"
    fill: tuple[int, ...] = (124, 116, 104)

    def __post_init__(self):
        self.settings()
        if self.interpolation != "random":
            _check_interpolation("timm/randaugment", self.interpolation, ("random", *RESAMPLING))

    def pixels(self, image: Pixels, rng: np.random.Generator) -> Pixels:
        fill = self.fill if len(self.fill) in (1, image.shape[-1]) else (round(sum(self.fill) / len(self.fill)),)
        return apply(image, self.draw(rng, image.shape[:2]), fill)

    def settings(self) -> dict[str, float]:
        """The numbers of `policy`: `m`, `n`, `p`, `mstd`, `mmax`, `inc`."""
        settings = {"m": 10.0, "n": 2.0, "p": 0.5, "mstd": 0.0, "mmax": 10.0, "inc": 0.0}
        name, *parts = self.policy.split("-")
        matches = [re.fullmatch(r"([a-z]+)(\d+\.?\d*)", part) for part in parts]
        if name != "rand" or not all(match and match[1] in settings for match in matches):
            raise ValueError(
                f"timm/randaugment: policy is {self.policy!r}, expected 'rand' followed by some of "
                f"{', '.join(f'-{key}<number>' for key in settings)}, such as 'rand-m9-mstd0.5-inc1'"
            )
        return settings | {match[1]: float(match[2]) for match in matches if match}

    def draw(self, rng: np.random.Generator, size: tuple[int, ...]) -> list[Step]:
        """The steps for an image of this (height, width)."""
        settings = self.settings()
        steps = []
        for i in rng.integers(len(TIMM_OPS), size=int(settings["n"])):
            if rng.random() >= settings["p"]:
                continue
            if settings["mstd"] > 100:
                level = rng.uniform(0, settings["m"])
            else:
                level = rng.normal(settings["m"], settings["mstd"])
            level = min(max(level, 0.0), settings["mmax"])
            value = timm_value(TIMM_OPS[i], level, rng.random() < 0.5, bool(settings["inc"]), size)
            interpolation = ("bilinear", "bicubic")[rng.integers(2)]
            steps.append(
                Step(TIMM_OPS[i], value, interpolation if self.interpolation == "random" else self.interpolation)
            )
        return steps


def timm_value(op: str, level: float, negative: bool, increasing: bool, size: tuple[int, ...]) -> float:
    """What timm makes of a magnitude 0..10 (more, where `mmax` allows), see `Step`."""
    share = level / 10
    sign = -1.0 if negative else 1.0
    if op in ("translate_x", "translate_y"):
        return -sign * 0.45 * share * size[1 if op == "translate_x" else 0]
    if op in ("shear_x", "shear_y"):
        return sign * 0.3 * share
    if op == "rotate":
        return sign * 30.0 * share
    if op in ("brightness", "color", "contrast", "sharpness"):
        return max(0.1, 1.0 + sign * 0.9 * share) if increasing else 0.1 + 1.8 * share
    if op == "posterize":
        return 4 - int(4 * share) if increasing else int(4 * share)
    if op == "solarize":
        threshold = min(256, int(256 * share))
        return 256 - threshold if increasing else threshold
    return min(128, int(110 * share)) if op == "solarize_add" else 0.0


def apply(image: Pixels, steps: Sequence[Step], fill: tuple[int, ...] = (0,)) -> Pixels:
    """Applies the steps in order; pixels from outside the image get the value `fill`.

    Raises:
      ValueError: the image is neither uint8 grey nor uint8 RGB, or `fill` has another number of channels.
    """
    if image.ndim != 3 or image.dtype != np.uint8 or image.shape[2] not in (1, 3):
        raise ValueError(f"expected a uint8 image [h, w, 1 or 3], got {image.dtype} {list(image.shape)}")
    channels = image.shape[2]
    if len(fill) not in (1, channels):
        raise ValueError(f"fill has {len(fill)} values for images of {channels} channels; give 1 or {channels}")
    if not steps:
        return image
    outside = fill[0] if channels == 1 else tuple(fill) * (channels // len(fill))
    picture = Image.fromarray(image[..., 0] if channels == 1 else image)
    for step in steps:
        picture = OPS[step.op](picture, step.value, RESAMPLING[step.interpolation], outside)
    return np.array(picture).reshape(image.shape)


def _affine(matrix):
    """An operation that looks up its pixels at `matrix(value)` times (x, y, 1)."""
    return lambda image, value, resample, fill: image.transform(
        image.size, Image.Transform.AFFINE, matrix(value), resample, fillcolor=fill
    )


def _enhance(enhancer):
    return lambda image, value, resample, fill: enhancer(image).enhance(value)


def _table(function):
    """An operation that replaces each value by another."""

    def op(image, value, resample, fill):
        return image.point([function(i, value) for i in range(256)] * len(image.getbands()))

    return op


OPS = {
    "identity": lambda image, value, resample, fill: image,
    "shear_x": _affine(lambda v: (1, v, 0, 0, 1, 0)),
    "shear_y": _affine(lambda v: (1, 0, 0, v, 1, 0)),
    "translate_x": _affine(lambda v: (1, 0, -v, 0, 1, 0)),
    "translate_y": _affine(lambda v: (1, 0, 0, 0, 1, -v)),
    "rotate": lambda image, value, resample, fill: image.rotate(value, resample, fillcolor=fill),
    "brightness": _enhance(ImageEnhance.Brightness),
    "color": _enhance(ImageEnhance.Color),
    "contrast": _enhance(ImageEnhance.Contrast),
    "sharpness": _enhance(ImageEnhance.Sharpness),
    "posterize": _table(lambda i, bits: i & -(1 << (8 - int(bits)))),
    "solarize": _table(lambda i, threshold: i if i < threshold else 255 - i),
    "solarize_add": _table(lambda i, add: min(255, i + int(add)) if i < 128 else i),
    "auto_contrast": lambda image, value, resample, fill: ImageOps.autocontrast(image),
    "equalize": lambda image, value, resample, fill: ImageOps.equalize(image),
    "invert": lambda image, value, resample, fill: ImageOps.invert(image),
}


def _step(op: str, bins: np.ndarray | None, level: int | None, negative: bool, interpolation: str) -> Step:
    """The bin `level` of an operation, in the units of `Step`."""
    value = 0.0 if bins is None or level is None else float(bins[level])
    if negative and op in SIGNED:
        value = -value
    if op in ("brightness", "color", "contrast", "sharpness"):
        value = 1.0 + value
    if op in ("translate_x", "translate_y"):
        value = int(value)
    return Step(op, value, interpolation)


def _check_interpolation(name: str, interpolation: str, known: Sequence[str] = tuple(RESAMPLING)) -> None:
    if interpolation not in known:
        raise ValueError(f"{name}: unknown interpolation {interpolation!r}: {hint(interpolation, known)}")
