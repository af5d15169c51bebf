"""Transforms of pixel values.

Pixels are uint8 in 0..255 or floating-point in 0..1, before normalisation. The adjustments follow torchvision's
functions of the same name in floating point; uint8 is rounded once, at the end, where torchvision truncates after each.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, Shaped

from jaxvision.augment.pipeline import Sample


@dataclasses.dataclass(frozen=True)
class Normalize:
    """`(x - mean) / std` in float32, per channel, where uint8 is first divided by 255.

    Attributes:
      mean: one number, or one per channel, in units where white is 1.
      std: likewise.
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __post_init__(self):
        if not self.mean or not self.std or min(self.std) <= 0:
            raise ValueError(f"normalize: mean {self.mean} and std {self.std} must be numbers with every std > 0")

    def __call__(self, sample: Sample, key: PRNGKeyArray) -> dict[str, Any]:
        image = _to_float(sample["image"])
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, image.shape[-1]):
                raise ValueError(
                    f"normalize: {name} has {len(values)} values for images of {image.shape[-1]} channels; "
                    f"give 1 or {image.shape[-1]}"
                )
        mean, std = (np.asarray(values, np.float32).reshape(1, 1, -1) for values in (self.mean, self.std))
        return {**sample, "image": (image - mean) / std}


@dataclasses.dataclass(frozen=True)
class ColorJitter:
    """Random brightness, contrast and saturation, in random order, as torchvision's `ColorJitter` without hue.

    Attributes:
      brightness: its factor is uniform in `[max(0, 1 - brightness), 1 + brightness]`; 0 leaves it alone.
      contrast: likewise.
      saturation: likewise; grey images have none.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0

    def __post_init__(self):
        if min(self.brightness, self.contrast, self.saturation) < 0:
            raise ValueError(f"color_jitter: strengths must be at least 0, got {self}")

    def __call__(self, sample: Sample, key: PRNGKeyArray) -> dict[str, Any]:
        strengths = (self.brightness, self.contrast, self.saturation)
        used = [i for i, strength in enumerate(strengths) if strength]
        if not used:
            return dict(sample)
        order_key, factor_key = jax.random.split(key)
        order = jax.random.permutation(order_key, len(used))
        low = np.asarray([max(0.0, 1.0 - strengths[i]) for i in used], np.float32)
        high = np.asarray([1.0 + strengths[i] for i in used], np.float32)
        factors = jax.random.uniform(factor_key, (len(used),), jnp.float32, low, high)
        image = _to_float(sample["image"])
        for turn in order:
            grey = _grey(image)
            # Under vmap a branch costs the same as computing all and choosing; they share the grey image.
            other = jax.lax.select_n(turn, *(_BLENDED_WITH[i](grey) for i in used))
            image = _blend(image, other, factors[turn])
        return {**sample, "image": _from_float(image, sample["image"].dtype)}


def adjust_brightness(image: Float[Array, "h w c"], factor: Float[Array, ""]) -> Float[Array, "h w c"]:
    """Blends with black: `factor * image`, clipped to 0..1."""
    return _blend(image, _black(_grey(image)), factor)


def adjust_contrast(image: Float[Array, "h w c"], factor: Float[Array, ""]) -> Float[Array, "h w c"]:
    """Blends with the mean grey level of the image."""
    return _blend(image, _mean_level(_grey(image)), factor)


def adjust_saturation(image: Float[Array, "h w c"], factor: Float[Array, ""]) -> Float[Array, "h w c"]:
    """Blends with the grey version of the image; the identity for one channel."""
    return _blend(image, _grey(image), factor)


def _blend(image: Float[Array, "h w c"], other: Float[Array, "h w 1"], factor: Float[Array, ""]) -> Array:
    return jnp.clip(factor * image + (1.0 - factor) * other, 0.0, 1.0)


def _black(grey: Float[Array, "h w 1"]) -> Float[Array, "h w 1"]:
    return jnp.zeros_like(grey)


def _mean_level(grey: Float[Array, "h w 1"]) -> Float[Array, "h w 1"]:
    return jnp.broadcast_to(jnp.mean(grey), grey.shape)


def _itself(grey: Float[Array, "h w 1"]) -> Float[Array, "h w 1"]:
    return grey


_BLENDED_WITH = (_black, _mean_level, _itself)  # brightness, contrast, saturation


def _grey(image: Float[Array, "h w c"]) -> Float[Array, "h w 1"]:
    if image.shape[-1] == 1:
        return image
    # Written out: a reduction over an axis of three is several times slower on the CPU.
    return 0.2989 * image[..., 0:1] + 0.587 * image[..., 1:2] + 0.114 * image[..., 2:3]


def _to_float(image: Shaped[Array, "h w c"]) -> Float[Array, "h w c"]:
    """uint8 becomes 0..1 in float32; floating-point images stay as they are."""
    if image.dtype == jnp.uint8:
        return image.astype(jnp.float32) / 255.0
    if not jnp.issubdtype(image.dtype, jnp.floating):
        raise TypeError(f"image is {image.dtype}: expected uint8 in 0..255 or floating-point in 0..1")
    return image.astype(jnp.float32)


def _from_float(image: Float[Array, "h w c"], dtype: Any) -> Shaped[Array, "h w c"]:
    return jnp.round(image * 255.0).astype(dtype) if dtype == jnp.uint8 else image.astype(dtype)
