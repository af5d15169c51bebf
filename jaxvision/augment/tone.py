"""Transforms of grey levels, channel by channel: solarize, posterize, invert, equalize, autocontrast.

Pixels are uint8 in 0..255 or floating-point in 0..1, before normalisation, of any number of channels. The functions
follow torchvision's of the same name; where those truncate a uint8 result, these round.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray, Shaped

from jaxvision.augment.pipeline import Sample
from jaxvision.augment.pixels import check_probability, from_float, from_planes, sometimes, to_float, to_planes

Image = Shaped[Array, "h w c"]


@dataclasses.dataclass(frozen=True)
class RandomInvert:
    """Turns the image into its negative with the given probability."""

    probability: float = 0.5

    def __post_init__(self):
        check_probability("random_invert", self.probability)

    def __call__(self, sample: Sample, key: PRNGKeyArray) -> dict[str, Any]:
        image = sample["image"]
        return {**sample, "image": sometimes(key, self.probability, invert(image), image)}


@dataclasses.dataclass(frozen=True)
class RandomSolarize:
    """Inverts the values from `threshold` on (0..1, where white is 1), with the given probability.

    The default threshold is that of BYOL (Grill et al. 2020, table 6): the upper half, 128 and above in uint8.
    """

    threshold: float = 0.5
    probability: float = 0.5

    def __post_init__(self):
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"random_solarize: threshold is {self.threshold}, expected 0..1, where white is 1")
        check_probability("random_solarize", self.probability)

    def __call__(self, sample: Sample, key: PRNGKeyArray) -> dict[str, Any]:
        image = sample["image"]
        return {**sample, "image": sometimes(key, self.probability, solarize(image, self.threshold), image)}


@dataclasses.dataclass(frozen=True)
class RandomPosterize:
    """Keeps the `bits` (0..8) most significant bits of each value, with the given probability."""

    bits: int = 4
    probability: float = 0.5

    def __post_init__(self):
        if not 0 <= self.bits <= 8:
            raise ValueError(f"random_posterize: bits is {self.bits}, expected 0..8")
        check_probability("random_posterize", self.probability)

    def __call__(self, sample: Sample, key: PRNGKeyArray) -> dict[str, Any]:
        image = sample["image"]
        return {**sample, "image": sometimes(key, self.probability, posterize(image, self.bits), image)}


@dataclasses.dataclass(frozen=True)
class RandomEqualize:
    """Flattens the histogram of each channel, with the given probability."""

    probability: float = 0.5

    def __post_init__(self):
        check_probability("random_equalize", self.probability)

    def __call__(self, sample: Sample, key: PRNGKeyArray) -> dict[str, Any]:
        image = sample["image"]
        return {**sample, "image": sometimes(key, self.probability, equalize(image), image)}


@dataclasses.dataclass(frozen=True)
class RandomAutocontrast:
    """Stretches each channel to the whole range, with the given probability."""

    probability: float = 0.5

    def __post_init__(self):
        check_probability("random_autocontrast", self.probability)

    def __call__(self, sample: Sample, key: PRNGKeyArray) -> dict[str, Any]:
        image = sample["image"]
        return {**sample, "image": sometimes(key, self.probability, autocontrast(image), image)}


def invert(image: Image) -> Image:
    """White minus the image."""
    to_float(image[:0])  # refuses other dtypes
    return jnp.asarray(255 if image.dtype == jnp.uint8 else 1, image.dtype) - image


def solarize(image: Image, threshold: float) -> Image:
    """Inverts values of at least `threshold`, where white is 1."""
    lowest = np.ceil(threshold * 255) if image.dtype == jnp.uint8 else threshold
    return jnp.where(image >= np.asarray(lowest).astype(image.dtype), invert(image), image)


def posterize(image: Image, bits: int) -> Image:
    """Keeps the most significant bits; floating-point values are rounded down to multiples of `2**-bits`."""
    if image.dtype == jnp.uint8:
        return image & np.uint8(256 - 2 ** (8 - bits) & 255)
    levels = 2.0**bits
    return from_float(jnp.clip(jnp.floor(to_float(image) * levels), 0.0, levels - 1) / levels, image.dtype)


def autocontrast(image: Image) -> Image:
    """Maps the smallest value of each channel to 0 and the largest to white; a channel of one value stays."""
    planes = to_planes(image)
    low = jnp.min(planes, axis=(1, 2), keepdims=True)
    extent = jnp.max(planes, axis=(1, 2), keepdims=True) - low
    flat = extent <= 0
    low = jnp.where(flat, jnp.zeros_like(low), low)
    extent = jnp.where(flat, jnp.ones_like(extent), extent)
    return from_planes(jnp.clip((planes - low) / extent, 0.0, 1.0), image.dtype)


def equalize(image: Image) -> Image:
    """Maps each channel's values through its cumulative histogram of 256 levels, as Pillow does.

    Floating-point values are first rounded to those levels. A channel of one value stays.
    """
    levels = image if image.dtype == jnp.uint8 else from_float(to_float(image), jnp.uint8)
    height, width, channels = image.shape
    # One table of all channels, in the image's own layout.
    place = levels.astype(jnp.int32) + 256 * np.arange(channels, dtype=np.int32).reshape(1, 1, -1)
    counts = jnp.zeros((256 * channels,), jnp.int32).at[place.reshape(-1)].add(1).reshape(channels, 256)
    cumulative = jnp.cumsum(counts, axis=1, dtype=jnp.int32)
    # Pillow leaves the pixels of the brightest level out of the step between levels.
    darker = jnp.max(
        jnp.where(cumulative < height * width, cumulative, jnp.zeros_like(cumulative)), axis=1, keepdims=True
    )
    step = darker // 255
    table = jnp.minimum((cumulative - counts + step // 2) // jnp.maximum(step, 1), 255)
    table = jnp.where(step > 0, table, np.arange(256, dtype=np.int32).reshape(1, -1))
    equal = table.astype(jnp.uint8).reshape(-1)[place]
    return equal if image.dtype == jnp.uint8 else to_float(equal).astype(image.dtype)
