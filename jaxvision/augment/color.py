"""Transforms of colour, each pixel for itself (contrast also looks at the mean).

Pixels are uint8 in 0..255 or floating-point in 0..1, before normalisation. The adjustments follow torchvision's
functions of the same name in floating point; uint8 is rounded once, at the end, where torchvision truncates after each.
Hue is an angle: 1 is a whole turn round the colour circle.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from jaxvision.augment.pipeline import Sample
from jaxvision.augment.pixels import (
    barrier,
    check_channels,
    check_probability,
    check_range,
    from_planes,
    sometimes,
    to_float,
    to_planes,
)

Planes = Float[Array, "c h w"]


@dataclasses.dataclass(frozen=True)
class Normalize:
    """`(x - mean) / std` in float32, per channel, where uint8 is first divided by 255.

    Attributes:
      mean: one number, or one per channel, in units where white is 1.
      std: likewise.
      bgr: reverses the channels first, for networks that saw images as OpenCV reads them; `mean` and `std` are those
        of the reversed ones.
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    bgr: bool = False

    def __post_init__(self):
        if not self.mean or not self.std or min(self.std) <= 0:
            raise ValueError(f"normalize: mean {self.mean} and std {self.std} must be numbers with every std > 0")

    def __call__(self, sample: Sample, key: PRNGKeyArray) -> dict[str, Any]:
        image = to_float(sample["image"])
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, image.shape[-1]):
                raise ValueError(
                    f"normalize: {name} has {len(values)} values for images of {image.shape[-1]} channels; "
                    f"give 1 or {image.shape[-1]}"
                )
        mean, std = (np.asarray(values, np.float32).reshape(1, 1, -1) for values in (self.mean, self.std))
        return {**sample, "image": ((image[..., ::-1] if self.bgr else image) - mean) / std}


@dataclasses.dataclass(frozen=True)
class ColorJitter:
    """Random brightness, contrast, saturation and hue, in random order, as torchvision's `ColorJitter`.

    Attributes:
      brightness: its factor is uniform in `[max(0, 1 - brightness), 1 + brightness]`; 0 leaves it alone.
      contrast: likewise.
      saturation: likewise; grey images have none.
      hue: its turn is uniform in `[-hue, hue]`, at most 0.5; grey images have none.
      probability: of being applied (SimCLR and MoCo v2: 0.8).
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    probability: float = 1.0

    def __post_init__(self):
        if min(self._strengths) < 0:
            raise ValueError(f"color_jitter: strengths must be at least 0, got {self}")
        if self.hue > 0.5:
            raise ValueError(f"color_jitter: hue is {self.hue}, expected at most 0.5, half a turn")
        check_probability("color_jitter", self.probability)

    def __call__(self, sample: Sample, key: PRNGKeyArray) -> dict[str, Any]:
        image = sample["image"]
        if not self._used:
            return dict(sample)
        check_channels("color_jitter", image)
        order, factors = self.draw(key)
        planes = to_planes(image)
        for turn in order:
            # Under vmap a branch costs the same as computing all and choosing; the blends share the grey image.
            planes = barrier(self._adjust(planes, turn, factors[turn]))
        return {**sample, "image": sometimes(key, self.probability, from_planes(planes, image.dtype), image)}

    def draw(self, key: PRNGKeyArray) -> tuple[Int[Array, " n"], Float[Array, " n"]]:
        """The order and the factors of the n adjustments whose strength is not 0, as numbered in the fields' order."""
        order_key, factor_key = jax.random.split(key)
        used, strengths = self._used, self._strengths
        order = jax.random.permutation(order_key, len(used))
        low = np.asarray([-self.hue if i == 3 else max(0.0, 1.0 - strengths[i]) for i in used], np.float32)
        high = np.asarray([self.hue if i == 3 else 1.0 + strengths[i] for i in used], np.float32)
        return order, jax.random.uniform(factor_key, (len(used),), jnp.float32, low, high)

    @property
    def _strengths(self) -> tuple[float, ...]:
        return self.brightness, self.contrast, self.saturation, self.hue

    @property
    def _used(self) -> list[int]:
        return [i for i, strength in enumerate(self._strengths) if strength]

    def _adjust(self, planes: Planes, turn: Int[Array, ""], factor: Float[Array, ""]) -> Planes:
        blends = [i for i in self._used if i < 3]
        is_hue = turn == len(blends)
        if blends:
            grey = _grey(planes)
            other = jax.lax.select_n(jnp.minimum(turn, len(blends) - 1), *(_BLENDED_WITH[i](grey) for i in blends))
            planes = barrier(_blend(planes, other, jnp.where(is_hue, jnp.ones_like(factor), factor)))
        if self.hue:
            # Not a choice between two images: XLA would compute the whole chain up to here once for each.
            planes = _turn_hue(planes, jnp.where(is_hue, factor, jnp.zeros_like(factor)))
        return planes


@dataclasses.dataclass(frozen=True)
class RandomHSV:
    """Random gains of hue, saturation and value, as in the YOLO family.

    The turn of the hue is uniform in `[-hue, hue]`, as in Ultralytics' YOLOv8 and later; YOLOv5 multiplied the hue, so
    that red stayed red and violet moved most. The references work on 8-bit HSV; this one on float32. A grey image has
    a value only.

    Attributes:
      hue: 0..0.5 of a turn.
      saturation: its factor is uniform in `[1 - saturation, 1 + saturation]`; the result is clipped to 0..1.
      value: likewise.
      probability: of being applied.
    """

    hue: float = 0.015
    saturation: float = 0.7
    value: float = 0.4
    probability: float = 1.0

    def __post_init__(self):
        for name, gain, high in (("hue", self.hue, 0.5), ("saturation", self.saturation, 1), ("value", self.value, 1)):
            if not 0 <= gain <= high:
                raise ValueError(f"random_hsv: {name} is {gain}, expected 0..{high}")
        check_probability("random_hsv", self.probability)

    def __call__(self, sample: Sample, key: PRNGKeyArray) -> dict[str, Any]:
        image = sample["image"]
        changed = adjust_hsv(image, *self.draw(key))
        return {**sample, "image": sometimes(key, self.probability, changed, image)}

    def draw(self, key: PRNGKeyArray) -> tuple[Float[Array, ""], Float[Array, ""], Float[Array, ""]]:
        """The turn of the hue, and the factors of saturation and value."""
        gains = np.asarray((self.hue, self.saturation, self.value), np.float32)
        hue, saturation, value = jax.random.uniform(key, (3,), jnp.float32, -gains, gains)
        return hue, 1.0 + saturation, 1.0 + value


@dataclasses.dataclass(frozen=True)
class RandomGrayscale:
    """Every channel becomes the luminance `0.2989 R + 0.587 G + 0.114 B` (torchvision's `RandomGrayscale`)."""

    probability: float = 0.1

    def __post_init__(self):
        check_probability("random_grayscale", self.probability)

    def __call__(self, sample: Sample, key: PRNGKeyArray) -> dict[str, Any]:
        image = sample["image"]
        return {**sample, "image": sometimes(key, self.probability, grayscale(image), image)}


@dataclasses.dataclass(frozen=True)
class PhotoMetricDistortion:
    """The distortions of SSD (Liu et al. 2016, sec. 2.2), as OpenMMLab's `PhotoMetricDistortion`.

    In this order: a brightness is added; contrast multiplies; saturation multiplies; hue turns; in half of the images
    contrast comes here instead; the channels are permuted. As there, values may exceed white in between and are
    clipped at the end. What differs: values below black are clipped before the hue, where OpenCV's formula would
    brighten them. Grey images have brightness and contrast only.

    Attributes:
      brightness: the sum is uniform in `[-brightness, brightness]`, in units where white is 1.
      contrast: range of the factor.
      saturation: range of the factor.
      hue: the turn is uniform in `[-hue, hue]` (18 degrees of 360).
      probability: of each of the five.
    """

    brightness: float = 32 / 255
    contrast: tuple[float, float] = (0.5, 1.5)
    saturation: tuple[float, float] = (0.5, 1.5)
    hue: float = 18 / 360
    probability: float = 0.5

    def __post_init__(self):
        name = "photo_metric_distortion"
        check_range(name, "contrast", self.contrast, 0)
        check_range(name, "saturation", self.saturation, 0)
        if self.brightness < 0 or not 0 <= self.hue <= 0.5:
            raise ValueError(f"{name}: brightness must be at least 0 and hue in 0..0.5, got {self}")
        check_probability(name, self.probability)

    def __call__(self, sample: Sample, key: PRNGKeyArray) -> dict[str, Any]:
        image = sample["image"]
        check_channels("photo_metric_distortion", image)
        return {**sample, "image": distort(image, **self.draw(key))}

    def draw(self, key: PRNGKeyArray) -> dict[str, Array]:
        """The arguments of `distort`; what is not applied gets the value that changes nothing."""
        on_key, value_key, order_key = jax.random.split(key, 3)
        on = jax.random.bernoulli(on_key, self.probability, (5,))
        low = np.asarray((-self.brightness, self.contrast[0], self.saturation[0], -self.hue), np.float32)
        high = np.asarray((self.brightness, self.contrast[1], self.saturation[1], self.hue), np.float32)
        drawn = jax.random.uniform(value_key, (4,), jnp.float32, low, high)
        values = jnp.where(on[:4], drawn, np.asarray((0, 1, 1, 0), np.float32))
        early_key, channel_key = jax.random.split(order_key)
        channels = jnp.where(on[4], jax.random.permutation(channel_key, 3), np.arange(3, dtype=np.int32))
        names = ("brightness", "contrast", "saturation", "hue")
        first = jax.random.bernoulli(early_key)
        return {**dict(zip(names, values, strict=True)), "contrast_first": first, "channels": channels}


def distort(
    image: Float[Array, "h w c"],
    brightness: Float[Array, ""],
    contrast: Float[Array, ""],
    saturation: Float[Array, ""],
    hue: Float[Array, ""],
    contrast_first: Bool[Array, ""],
    channels: Int[Array, "3"],
) -> Float[Array, "h w c"]:
    """See `PhotoMetricDistortion`; output channel i is channel `channels[i]`. uint8 or floating-point."""
    planes = to_planes(image)
    one = jnp.ones_like(contrast)
    planes = (planes + brightness) * jnp.where(contrast_first, contrast, one)
    if image.shape[-1] == 3:
        hue6, low, chroma = _hue_parts(barrier(jnp.maximum(planes, 0.0)))
        top = low + chroma
        chroma = jnp.minimum(chroma * saturation, top)
        planes = _from_hue(hue6 + 6.0 * hue, top - chroma, chroma)
        planes = planes[channels]
    planes = planes * jnp.where(contrast_first, one, contrast)
    return from_planes(jnp.clip(planes, 0.0, 1.0), image.dtype)


def adjust_brightness(image: Float[Array, "h w c"], factor: Float[Array, ""]) -> Float[Array, "h w c"]:
    """Blends with black: `factor * image`, clipped to 0..1. uint8 or floating-point, as all of these."""
    planes = to_planes(image)
    return from_planes(_blend(planes, _black(_grey(planes)), factor), image.dtype)


def adjust_contrast(image: Float[Array, "h w c"], factor: Float[Array, ""]) -> Float[Array, "h w c"]:
    """Blends with the mean grey level of the image."""
    planes = to_planes(image)
    return from_planes(_blend(planes, _mean_level(_grey(planes)), factor), image.dtype)


def adjust_saturation(image: Float[Array, "h w c"], factor: Float[Array, ""]) -> Float[Array, "h w c"]:
    """Blends with the grey version of the image; the identity for one channel."""
    planes = to_planes(image)
    return from_planes(_blend(planes, _grey(planes), factor), image.dtype)


def adjust_hue(image: Float[Array, "h w c"], turn: Float[Array, ""]) -> Float[Array, "h w c"]:
    """Turns every hue; saturation and value (HSV) stay. The identity for one channel."""
    return from_planes(_turn_hue(to_planes(image), turn), image.dtype)


def adjust_hsv(
    image: Float[Array, "h w c"], hue: Float[Array, ""], saturation: Float[Array, ""], value: Float[Array, ""]
) -> Float[Array, "h w c"]:
    """Turns the hue, multiplies saturation and value and clips them to 0..1."""
    check_channels("adjust_hsv", image)
    planes = to_planes(image)
    if image.shape[-1] == 1:
        return from_planes(jnp.clip(planes * value, 0.0, 1.0), image.dtype)
    hue6, low, chroma = _hue_parts(planes)
    top = low + chroma
    new_top = jnp.clip(top * value, 0.0, 1.0)
    new_chroma = new_top * jnp.minimum(saturation * chroma / jnp.where(top > 0, top, jnp.ones_like(top)), 1.0)
    return from_planes(_from_hue(hue6 + 6.0 * hue, new_top - new_chroma, new_chroma), image.dtype)


def grayscale(image: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
    """The luminance in every channel; the identity for one channel."""
    check_channels("grayscale", image)
    planes = to_planes(image)
    return from_planes(jnp.broadcast_to(_grey(planes), planes.shape), image.dtype)


def _blend(planes: Planes, other: Float[Array, "1 h w"], factor: Float[Array, ""]) -> Planes:
    return jnp.clip(factor * planes + (1.0 - factor) * other, 0.0, 1.0)


def _black(grey: Float[Array, "1 h w"]) -> Float[Array, "1 h w"]:
    return jnp.zeros_like(grey)


def _mean_level(grey: Float[Array, "1 h w"]) -> Float[Array, "1 h w"]:
    return jnp.broadcast_to(jnp.mean(grey), grey.shape)


def _itself(grey: Float[Array, "1 h w"]) -> Float[Array, "1 h w"]:
    return grey


_BLENDED_WITH = (_black, _mean_level, _itself)  # brightness, contrast, saturation


def _grey(planes: Planes) -> Float[Array, "1 h w"]:
    if planes.shape[0] == 1:
        return planes
    return 0.2989 * planes[0:1] + 0.587 * planes[1:2] + 0.114 * planes[2:3]


def _turn_hue(planes: Planes, turn: Float[Array, ""]) -> Planes:
    if planes.shape[0] == 1:
        return planes
    hue6, low, chroma = _hue_parts(planes)
    return _from_hue(hue6 + 6.0 * turn, low, chroma)


def _hue_parts(planes: Planes) -> tuple[Float[Array, "h w"], Float[Array, "h w"], Float[Array, "h w"]]:
    """Hue in sixths of a turn (0 where there is none), the smallest channel, and the largest minus the smallest."""
    red, green, blue = planes
    top = jnp.maximum(jnp.maximum(red, green), blue)
    low = jnp.minimum(jnp.minimum(red, green), blue)
    chroma = top - low
    scale = 1.0 / jnp.where(chroma > 0, chroma, jnp.ones_like(chroma))
    hue6 = jnp.where(top == green, 2.0 + (blue - red) * scale, 4.0 + (red - green) * scale)
    return jnp.where(top == red, (green - blue) * scale, hue6), low, chroma


def _from_hue(hue6: Float[Array, "h w"], low: Float[Array, "h w"], chroma: Float[Array, "h w"]) -> Planes:
    """Each channel is a trapezoid of the hue: 1 for a third of the circle round its own colour, 0 opposite."""
    planes = []
    for shift in (0.0, 4.0, 2.0):
        around = hue6 + shift
        around = around - 6.0 * jnp.floor(around * (1 / 6))
        planes.append(low + chroma * jnp.clip(jnp.abs(around - 3.0) - 1.0, 0.0, 1.0))
    return barrier(jnp.stack(planes))
