"""Random erasing (Zhong et al. 2020): a rectangle of the image is overwritten.

The rectangle is drawn as in torchvision and timm. Only `image` changes: boxes, masks and maps of classes stay as they
are, as in the paper's detector; what a hidden object is worth is left to the loss.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray, Shaped

from jaxvision.augment.pipeline import Sample
from jaxvision.augment.pixels import (
    check_probability,
    check_range,
    from_float,
    noise_bits,
    normal_noise,
    sometimes,
    to_float,
    uniform_noise,
)

MODES = ("constant", "mean", "uniform", "normal")
_ATTEMPTS = 10
"""Rectangles that are drawn until one fits, in both references; an image where none does stays as it is."""


@dataclasses.dataclass(frozen=True)
class RandomErasing:
    """Overwrites a random rectangle.

    Recipes of timm: `probability=0.25, area=(0.02, 1 / 3), aspect=(0.3, 1 / 0.3), mode="normal"` after `normalize`.

    Attributes:
      probability: of being applied.
      area: range of the rectangle's share of the image, uniform.
      aspect: range of its height divided by its width, uniform in the logarithm.
      mode: what is written.
        "constant": `fill`.
        "mean": the mean of the image, per channel.
        "uniform": independent values in the range of the image, for images that are not normalised (the paper's best).
        "normal": independent standard normal values, for normalised images (torchvision's "random", timm's "pixel").
      fill: one number, or one per channel, in the units of the image.
    """

    probability: float = 0.5
    area: tuple[float, float] = (0.02, 0.33)
    aspect: tuple[float, float] = (0.3, 3.3)
    mode: str = "constant"
    fill: tuple[float, ...] = (0.0,)

    def __post_init__(self):
        check_probability("random_erasing", self.probability)
        check_range("random_erasing", "area", self.area, 0, 1)
        check_range("random_erasing", "aspect", self.aspect, 0)
        if not self.aspect[0]:
            raise ValueError(f"random_erasing: aspect is {self.aspect}, expected more than 0")
        if self.mode not in MODES:
            raise ValueError(f"random_erasing: mode is {self.mode!r}, expected one of {', '.join(MODES)}")

    def __call__(self, sample: Sample, key: PRNGKeyArray) -> dict[str, Any]:
        image = sample["image"]
        rectangle_key, value_key = jax.random.split(key)
        rectangle = self.draw(rectangle_key, image.shape[:2])
        changed = erase(image, rectangle, self._values(image, value_key))
        return {**sample, "image": sometimes(key, self.probability, changed, image)}

    def draw(self, key: PRNGKeyArray, size: tuple[int, int]) -> Int[Array, "4"]:
        """Top, left, height and width in pixels; height and width are 0 where no rectangle fits."""
        height, width = size
        area_key, aspect_key, top_key, left_key = jax.random.split(key, 4)
        low, high = np.asarray(self.area, np.float32) * np.float32(height * width)
        area = jax.random.uniform(area_key, (_ATTEMPTS,), jnp.float32, low, high)
        low, high = np.log(np.asarray(self.aspect, np.float32))
        aspect = jnp.exp(jax.random.uniform(aspect_key, (_ATTEMPTS,), jnp.float32, low, high))
        heights = jnp.round(jnp.sqrt(area * aspect)).astype(jnp.int32)
        widths = jnp.round(jnp.sqrt(area / aspect)).astype(jnp.int32)
        fits = (heights < height) & (widths < width)
        first = jnp.argmax(fits)
        cut_height, cut_width = (jnp.where(fits[first], x[first], 0) for x in (heights, widths))
        top = jax.random.randint(top_key, (), 0, height - cut_height + 1)
        left = jax.random.randint(left_key, (), 0, width - cut_width + 1)
        return jnp.stack((top, left, cut_height, cut_width))

    def _values(self, image: Shaped[Array, "h w c"], key: PRNGKeyArray) -> Shaped[Array, "#h #w c"]:
        channels, is_uint8 = image.shape[-1], image.dtype == jnp.uint8
        if self.mode == "uniform" and is_uint8:
            return (noise_bits(key, image.shape) >> 24).astype(jnp.uint8)
        if self.mode == "uniform":
            return uniform_noise(key, image.shape).astype(image.dtype)
        if self.mode == "normal" and is_uint8:
            raise TypeError('random_erasing: mode "normal" is for normalised images; use "uniform", or put it later')
        if self.mode == "normal":
            return normal_noise(key, image.shape).astype(image.dtype)
        if self.mode == "mean":
            return from_float(jnp.mean(to_float(image), axis=(0, 1), keepdims=True), image.dtype)
        if len(self.fill) not in (1, channels):
            raise ValueError(f"random_erasing: fill has {len(self.fill)} values for images of {channels} channels")
        return jnp.asarray(np.broadcast_to(np.asarray(self.fill, np.float32), (1, 1, channels)).astype(image.dtype))


def erase(
    image: Shaped[Array, "h w c"], rectangle: Int[Array, "4"], values: Shaped[Array, "#h #w c"]
) -> Shaped[Array, "h w c"]:
    """`values` inside the rectangle (top, left, height, width), the image outside."""
    height, width, _ = image.shape
    top, left, cut_height, cut_width = rectangle
    y = np.arange(height, dtype=np.int32).reshape(-1, 1, 1)
    x = np.arange(width, dtype=np.int32).reshape(1, -1, 1)
    inside = (y >= top) & (y < top + cut_height) & (x >= left) & (x < left + cut_width)
    return jnp.where(inside, jnp.broadcast_to(values, image.shape), image)
