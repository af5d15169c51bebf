"""The tables of the policies: AutoAugment's learned pairs, and the ranges of magnitudes.

The pairs are those of Cubuk et al. 2019, tables 7 to 9, as (operation, probability, level 0..9). The ranges are
torchvision's, in float32 like its `linspace`, so that a bin is the same number. timm's are in `policies.timm_value`.
"""

import functools
from collections.abc import Mapping

import numpy as np

SIGNED = (
    *("shear_x", "shear_y", "translate_x", "translate_y", "rotate"),
    *("brightness", "color", "contrast", "sharpness"),
)
"""Operations whose magnitude is negated in half of the draws."""

TIMM_OPS = (
    *("auto_contrast", "equalize", "invert", "rotate", "posterize", "solarize", "solarize_add", "color"),
    *("contrast", "brightness", "sharpness", "shear_x", "shear_y", "translate_x", "translate_y"),
)

Ranges = Mapping[str, np.ndarray | None]
"""The magnitude of each bin, or None where an operation has none."""


@functools.lru_cache(maxsize=64)
def ranges(bins: int, size: tuple[int, ...]) -> Ranges:
    """Of AutoAugment (10 bins) and of RandAugment, which does not use "invert", for images of this (height, width)."""
    strength = _linear(0.0, 0.9, bins)
    return {
        "identity": None,
        "shear_x": _linear(0.0, 0.3, bins),
        "shear_y": _linear(0.0, 0.3, bins),
        "translate_x": _linear(0.0, 150.0 / 331.0 * size[1], bins),
        "translate_y": _linear(0.0, 150.0 / 331.0 * size[0], bins),
        "rotate": _linear(0.0, 30.0, bins),
        "brightness": strength,
        "color": strength,
        "contrast": strength,
        "sharpness": strength,
        "posterize": _bits(8, 4, bins),
        "solarize": _linear(255.0, 0.0, bins),
        "auto_contrast": None,
        "equalize": None,
        "invert": None,
    }


@functools.lru_cache(maxsize=64)
def wide_ranges(bins: int) -> Ranges:
    """Of TrivialAugment."""
    strength = _linear(0.0, 0.99, bins)
    return {
        "identity": None,
        "shear_x": strength,
        "shear_y": strength,
        "translate_x": _linear(0.0, 32.0, bins),
        "translate_y": _linear(0.0, 32.0, bins),
        "rotate": _linear(0.0, 135.0, bins),
        "brightness": strength,
        "color": strength,
        "contrast": strength,
        "sharpness": strength,
        "posterize": _bits(8, 6, bins),
        "solarize": _linear(255.0, 0.0, bins),
        "auto_contrast": None,
        "equalize": None,
    }


@functools.lru_cache(maxsize=64)
def augmix_ranges(size: tuple[int, ...]) -> Ranges:
    """Of AugMix, for images of this (height, width)."""
    return {op: bins for op, bins in ranges(10, size).items() if op not in ("identity", "invert")} | {
        "translate_x": _linear(0.0, size[1] / 3.0, 10),
        "translate_y": _linear(0.0, size[0] / 3.0, 10),
        "posterize": _bits(4, 4, 10),
    }


def _linear(start: float, stop: float, bins: int) -> np.ndarray:
    """`bins` float32 numbers, from the nearer end; product and sum are rounded once together, as if fused."""
    ends = np.asarray((start, stop), np.float32)
    step = ((ends[1] - ends[0]) / np.float32(bins - 1)).astype(np.float64)
    place = np.arange(bins)
    return np.where(place < bins // 2, ends[0] + step * place, ends[1] - step * (bins - 1 - place)).astype(np.float32)


def _bits(most: int, fewer: int, bins: int) -> np.ndarray:
    """From `most` down to `most - fewer`, halves rounded to even."""
    return most - np.round(np.arange(bins, dtype=np.float32) / np.float32((bins - 1) / fewer)).astype(np.int32)


_Pair = tuple[tuple[str, float, int | None], tuple[str, float, int | None]]
AUTOAUGMENT: dict[str, tuple[_Pair, ...]] = {
    "imagenet": (
        (("posterize", 0.4, 8), ("rotate", 0.6, 9)),
        (("solarize", 0.6, 5), ("auto_contrast", 0.6, None)),
        (("equalize", 0.8, None), ("equalize", 0.6, None)),
        (("posterize", 0.6, 7), ("posterize", 0.6, 6)),
        (("equalize", 0.4, None), ("solarize", 0.2, 4)),
        (("equalize", 0.4, None), ("rotate", 0.8, 8)),
        (("solarize", 0.6, 3), ("equalize", 0.6, None)),
        (("posterize", 0.8, 5), ("equalize", 1.0, None)),
        (("rotate", 0.2, 3), ("solarize", 0.6, 8)),
        (("equalize", 0.6, None), ("posterize", 0.4, 6)),
        (("rotate", 0.8, 8), ("color", 0.4, 0)),
        (("rotate", 0.4, 9), ("equalize", 0.6, None)),
        (("equalize", 0.0, None), ("equalize", 0.8, None)),
        (("invert", 0.6, None), ("equalize", 1.0, None)),
        (("color", 0.6, 4), ("contrast", 1.0, 8)),
        (("rotate", 0.8, 8), ("color", 1.0, 2)),
        (("color", 0.8, 8), ("solarize", 0.8, 7)),
        (("sharpness", 0.4, 7), ("invert", 0.6, None)),
        (("shear_x", 0.6, 5), ("equalize", 1.0, None)),
        (("color", 0.4, 0), ("equalize", 0.6, None)),
        (("equalize", 0.4, None), ("solarize", 0.2, 4)),
        (("solarize", 0.6, 5), ("auto_contrast", 0.6, None)),
        (("invert", 0.6, None), ("equalize", 1.0, None)),
        (("color", 0.6, 4), ("contrast", 1.0, 8)),
        (("equalize", 0.8, None), ("equalize", 0.6, None)),
    ),
    "cifar10": (
        (("invert", 0.1, None), ("contrast", 0.2, 6)),
        (("rotate", 0.7, 2), ("translate_x", 0.3, 9)),
        (("sharpness", 0.8, 1), ("sharpness", 0.9, 3)),
        (("shear_y", 0.5, 8), ("translate_y", 0.7, 9)),
        (("auto_contrast", 0.5, None), ("equalize", 0.9, None)),
        (("shear_y", 0.2, 7), ("posterize", 0.3, 7)),
        (("color", 0.4, 3), ("brightness", 0.6, 7)),
        (("sharpness", 0.3, 9), ("brightness", 0.7, 9)),
        (("equalize", 0.6, None), ("equalize", 0.5, None)),
        (("contrast", 0.6, 7), ("sharpness", 0.6, 5)),
        (("color", 0.7, 7), ("translate_x", 0.5, 8)),
        (("equalize", 0.3, None), ("auto_contrast", 0.4, None)),
        (("translate_y", 0.4, 3), ("sharpness", 0.2, 6)),
        (("brightness", 0.9, 6), ("color", 0.2, 8)),
        (("solarize", 0.5, 2), ("invert", 0.0, None)),
        (("equalize", 0.2, None), ("auto_contrast", 0.6, None)),
        (("equalize", 0.2, None), ("equalize", 0.6, None)),
        (("color", 0.9, 9), ("equalize", 0.6, None)),
        (("auto_contrast", 0.8, None), ("solarize", 0.2, 8)),
        (("brightness", 0.1, 3), ("color", 0.7, 0)),
        (("solarize", 0.4, 5), ("auto_contrast", 0.9, None)),
        (("translate_y", 0.9, 9), ("translate_y", 0.7, 9)),
        (("auto_contrast", 0.9, None), ("solarize", 0.8, 3)),
        (("equalize", 0.8, None), ("invert", 0.1, None)),
        (("translate_y", 0.7, 9), ("auto_contrast", 0.9, None)),
    ),
    "svhn": (
        (("shear_x", 0.9, 4), ("invert", 0.2, None)),
        (("shear_y", 0.9, 8), ("invert", 0.7, None)),
        (("equalize", 0.6, None), ("solarize", 0.6, 6)),
        (("invert", 0.9, None), ("equalize", 0.6, None)),
        (("equalize", 0.6, None), ("rotate", 0.9, 3)),
        (("shear_x", 0.9, 4), ("auto_contrast", 0.8, None)),
        (("shear_y", 0.9, 8), ("invert", 0.4, None)),
        (("shear_y", 0.9, 5), ("solarize", 0.2, 6)),
        (("invert", 0.9, None), ("auto_contrast", 0.8, None)),
        (("equalize", 0.6, None), ("rotate", 0.9, 3)),
        (("shear_x", 0.9, 4), ("solarize", 0.3, 3)),
        (("shear_y", 0.8, 8), ("invert", 0.7, None)),
        (("equalize", 0.9, None), ("translate_y", 0.6, 6)),
        (("invert", 0.9, None), ("equalize", 0.6, None)),
        (("contrast", 0.3, 3), ("rotate", 0.8, 4)),
        (("invert", 0.8, None), ("translate_y", 0.0, 2)),
        (("shear_y", 0.7, 6), ("solarize", 0.4, 8)),
        (("invert", 0.6, None), ("rotate", 0.8, 4)),
        (("shear_y", 0.3, 7), ("translate_x", 0.9, 3)),
        (("shear_x", 0.1, 6), ("invert", 0.6, None)),
        (("solarize", 0.7, 2), ("translate_y", 0.6, 7)),
        (("shear_y", 0.8, 4), ("invert", 0.8, None)),
        (("shear_x", 0.7, 9), ("translate_y", 0.8, 3)),
        (("shear_y", 0.8, 5), ("auto_contrast", 0.7, None)),
        (("shear_x", 0.7, 2), ("invert", 0.1, None)),
    ),
}
