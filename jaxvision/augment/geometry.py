"""Transforms that move pixels."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from jaxvision.augment.pipeline import Sample


@dataclasses.dataclass(frozen=True)
class RandomFlip:
    """Mirrors the image left to right with the given probability."""

    probability: float = 0.5

    def __post_init__(self):
        if not 0 <= self.probability <= 1:
            raise ValueError(f"random_flip: probability is {self.probability}, expected 0..1")

    def __call__(self, sample: Sample, key: PRNGKeyArray) -> dict[str, Any]:
        image = sample["image"]
        return {**sample, "image": jnp.where(jax.random.bernoulli(key, self.probability), image[:, ::-1], image)}


@dataclasses.dataclass(frozen=True)
class RandomCropPad:
    """Pads by `padding` pixels on every side and cuts a random window of the original size (He et al. 2016, sec. 4.2).

    Attributes:
      padding: pixels; offsets are uniform in 0..2 * padding, in both directions.
      fill: value of the padded pixels, in the units of the image.
    """

    padding: int = 4
    fill: float = 0

    def __post_init__(self):
        if self.padding < 0:
            raise ValueError(f"random_crop_pad: padding is {self.padding}, expected at least 0 pixels")

    def __call__(self, sample: Sample, key: PRNGKeyArray) -> dict[str, Any]:
        image, pad = sample["image"], self.padding
        fill = np.asarray(self.fill).astype(image.dtype)
        padded = jnp.pad(image, ((pad, pad), (pad, pad), (0, 0)), constant_values=fill)
        top, left = jax.random.randint(key, (2,), 0, 2 * pad + 1)
        return {**sample, "image": jax.lax.dynamic_slice(padded, (top, left, jnp.zeros_like(top)), image.shape)}
