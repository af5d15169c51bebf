"""Random windows and random scales on a canvas of fixed size."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray, Shaped

from jaxvision.augment import warp
from jaxvision.augment.geometry import (
    compose,
    from_float,
    move_sample,
    picture_size,
    scale_matrix,
    shift_matrix,
)
from jaxvision.augment.instances import Keep
from jaxvision.augment.pipeline import Sample


@dataclasses.dataclass(frozen=True)
class RandomCropPad:
    """Pads by `padding` pixels on every side and cuts a random window of the original size (He et al. 2016, sec. 4.2).

    The window has the `size` of the picture; the rest of the canvas stays as it is.

    Attributes:
      padding: pixels; offsets are uniform in 0..2 * padding, in both directions.
      fill: value of the padded pixels, in the units of the image.
      min_area_ratio: objects of which a smaller share of the box is left are dropped.
      min_size: so are those with a side shorter than this, in pixels.
    """

    padding: int = 4
    fill: float = 0
    min_area_ratio: float = 0.1
    min_size: float = 1.0

    def __post_init__(self):
        if self.padding < 0:
            raise ValueError(f"random_crop_pad: padding is {self.padding}, expected at least 0 pixels")
        Keep(self.min_area_ratio, self.min_size)

    def __call__(self, sample: Sample, key: PRNGKeyArray) -> dict[str, Any]:
        top, left = jax.random.randint(key, (2,), 0, 2 * self.padding + 1)
        matrix = shift_matrix(*((self.padding - offset).astype(jnp.float32) for offset in (left, top)))
        keep = Keep(self.min_area_ratio, self.min_size)
        image = self._window(sample, top, left)
        return move_sample(sample, matrix, keep, fill=self.fill, image=image, upright=True)

    def _window(self, sample: Sample, top: Array, left: Array) -> Shaped[Array, "h w c"]:
        image, pad = sample["image"], self.padding
        fill = np.asarray(self.fill).astype(image.dtype)
        if "size" in sample:
            known = warp.inside(picture_size(sample), *image.shape[:2])
            image = jnp.where(known[..., None], image, fill)
        padded = jnp.pad(image, ((pad, pad), (pad, pad), (0, 0)), constant_values=fill)
        return jax.lax.dynamic_slice(padded, (top, left, jnp.zeros_like(top)), image.shape)


@dataclasses.dataclass(frozen=True)
class LargeScaleJitter:
    """Scales the picture by a random factor, then cuts or pads it to the canvas (Ghiasi et al. 2021, sec. 3).

    The factor is relative to the largest size that fits the canvas, and the same for height and width. What is larger
    than the canvas is cut at a random place; what is smaller lies in the top left corner. Images are smoothed when they
    shrink. The sample needs `size`.

    Attributes:
      scale: range of the factor (paper: 0.1 to 2; its "standard" jitter: 0.8 to 1.25).
      fill: value of the canvas beside the picture, in the units of the image.
      min_area_ratio: objects of which a smaller share of the box is left are dropped.
      min_size: so are those with a side shorter than this, in pixels.
    """

    scale: tuple[float, float] = (0.1, 2.0)
    fill: float = 0
    min_area_ratio: float = 0.1
    min_size: float = 1.0

    def __post_init__(self):
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"large_scale_jitter: scale is {self.scale}, expected (lowest, highest) above 0")
        Keep(self.min_area_ratio, self.min_size)

    def __call__(self, sample: Sample, key: PRNGKeyArray) -> dict[str, Any]:
        if "size" not in sample:
            raise ValueError("large_scale_jitter changes the size of the picture, but the sample has no `size`")
        image = sample["image"]
        canvas = np.asarray(image.shape[:2], np.float32)
        old = picture_size(sample)
        size = jnp.maximum(jnp.stack(old).astype(jnp.float32), 1.0)
        low, high = self.scale
        factor_key, place_key = jax.random.split(key)
        factor = low + (high - low) * jax.random.uniform(factor_key, (), jnp.float32)
        scale = factor * jnp.min(canvas / size)
        scaled = jnp.maximum(jnp.round(scale * size), 1.0)
        room = jnp.maximum(scaled - canvas, 0.0)
        offset = jnp.floor(jax.random.uniform(place_key, (2,), jnp.float32) * (room + 1.0))
        offset = jnp.minimum(offset, room)
        new = jnp.minimum(scaled, canvas).astype(jnp.int32)
        matrix = compose(shift_matrix(-offset[1], -offset[0]), scale_matrix(scale, scale))
        window = from_float(warp.resize_window(image, scale, offset, old), image.dtype)
        filled = jnp.full_like(image, np.asarray(self.fill).astype(image.dtype))
        keep = Keep(self.min_area_ratio, self.min_size)
        return move_sample(
            {**sample, "image": filled}, matrix, keep, fill=self.fill, image=window, size=(new[0], new[1]), upright=True
        )
