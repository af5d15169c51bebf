"""Rotation, shear, affine and perspective maps about the centre of the picture, drawn as torchvision draws them.

The picture keeps its size and place; what leaves it is lost. See `augment.geometry` for images and label maps and
`augment.instances` for objects.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from jaxvision.augment import warp
from jaxvision.augment.geometry import (
    affine_matrix,
    choose,
    invert,
    matrix_of,
    move_sample,
    picture_size,
    quad_matrix,
)
from jaxvision.augment.instances import Keep, Matrix
from jaxvision.augment.pipeline import Sample

Range = float | tuple[float, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Warp:
    """What these transforms share.

    Attributes:
      probability: with which a sample is moved at all.
      fill: value of pixels from outside the picture, in the units of the image.
      min_area_ratio: objects of which a smaller share of the box is left are dropped.
      min_size: so are those with a side shorter than this, in pixels.
      tight_boxes: boxes of objects with masks become those of the moved masks; else of the four moved corners.
    """

    probability: float = 1.0
    fill: float = 0
    min_area_ratio: float = 0.1
    min_size: float = 1.0
    tight_boxes: bool = True

    def __post_init__(self):
        if not 0 <= self.probability <= 1:
            raise ValueError(f"{type(self).__name__}: probability is {self.probability}, expected 0..1")
        Keep(self.min_area_ratio, self.min_size)

    def __call__(self, sample: Sample, key: PRNGKeyArray) -> dict[str, Any]:
        own, coin = jax.random.split(key)
        matrix = self.matrix(own, picture_size(sample))
        if self.probability < 1:
            matrix = choose(jax.random.bernoulli(coin, self.probability), matrix)
        keep = Keep(self.min_area_ratio, self.min_size, self.tight_boxes)
        return move_sample(sample, matrix, keep, fill=self.fill)

    def matrix(self, key: PRNGKeyArray, size: warp.Size) -> Matrix:
        """A random map for a picture of this size."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class RandomAffine(_Warp):
    """Turns, shifts, scales and shears, as torchvision's `RandomAffine`.

    Attributes:
      degrees: range of the angle, clockwise; a number d means (-d, d).
      translate: largest shift along x and y, as a share of the picture's width and height; rounded to whole pixels.
      scale: range of the factor.
      shear: degrees; a number s means (-s, s) along x, two the range along x, four those along x and y.
    """

    degrees: Range = 10.0
    translate: tuple[float, float] = (0.0, 0.0)
    scale: tuple[float, float] = (1.0, 1.0)
    shear: float | tuple[float, ...] = 0.0

    def __post_init__(self):
        super().__post_init__()
        _range("degrees", self.degrees)
        shear_ranges(self.shear)
        if len(self.translate) != 2 or not all(0 <= share <= 1 for share in self.translate):
            raise ValueError(f"translate is {self.translate}, expected two shares of the picture in 0..1")
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale is {self.scale}, expected (lowest, highest) above 0")

    def matrix(self, key: PRNGKeyArray, size: warp.Size) -> Matrix:
        height, width = (side.astype(jnp.float32) for side in size)
        angle, scale, shear_x, shear_y, x, y = _uniform(
            key,
            _range("degrees", self.degrees),
            self.scale,
            *shear_ranges(self.shear),
            *((-share, share) for share in self.translate),
        )
        shift = jnp.round(x * width), jnp.round(y * height)
        return affine_matrix(angle, shift, scale, (shear_x, shear_y), (width / 2.0, height / 2.0))


@dataclasses.dataclass(frozen=True)
class RandomRotate(_Warp):
    """Turns about the centre, as torchvision's `RandomRotation`.

    Attributes:
      degrees: range of the angle, counter-clockwise (as there; `RandomAffine` counts clockwise, as there); a number d
        means (-d, d).
    """

    degrees: Range = 10.0

    def __post_init__(self):
        super().__post_init__()
        _range("degrees", self.degrees)

    def matrix(self, key: PRNGKeyArray, size: warp.Size) -> Matrix:
        low, high = _range("degrees", self.degrees)
        return RandomAffine((-high, -low)).matrix(key, size)


@dataclasses.dataclass(frozen=True)
class RandomShear(_Warp):
    """Shears about the centre: `RandomAffine` with `shear` alone.

    Attributes:
      shear: degrees; a number s means (-s, s) along x, two the range along x, four those along x and y.
    """

    shear: float | tuple[float, ...] = 10.0

    def __post_init__(self):
        super().__post_init__()
        shear_ranges(self.shear)

    def matrix(self, key: PRNGKeyArray, size: warp.Size) -> Matrix:
        return RandomAffine(0.0, shear=self.shear).matrix(key, size)


@dataclasses.dataclass(frozen=True)
class RandomPerspective(_Warp):
    """Moves each corner of the picture inwards, as torchvision's `RandomPerspective`, but by fractions of pixels.

    Attributes:
      distortion_scale: largest move, as a share of half the width and half the height.
    """

    distortion_scale: float = 0.5

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.distortion_scale < 1:
            raise ValueError(f"distortion_scale is {self.distortion_scale}, expected 0..1, 1 excluded")

    def matrix(self, key: PRNGKeyArray, size: warp.Size) -> Matrix:
        height, width = (side.astype(jnp.float32) for side in size)
        # A picture without pixels has no corners to move apart.
        height, width = jnp.maximum(height, 1.0), jnp.maximum(width, 1.0)
        moves = jax.random.uniform(key, (4, 2), jnp.float32, 0.0, self.distortion_scale / 2)
        relative = np.asarray([[0, 0], [1, 0], [1, 1], [0, 1]], np.float32)
        corners = relative + moves * (1.0 - 2.0 * relative)
        return quad_matrix(jnp.asarray(corners) * jnp.stack([width, height])[None], (height, width))


@dataclasses.dataclass(frozen=True)
class RandomRot90:
    """Turns by 0, 90, 180 or 270 degrees, each as likely, exactly; the canvas must be a square.

    The picture of h x w pixels becomes one of w x h where it is turned by 90 or 270 degrees, in the top left corner.

    Attributes:
      probability: with which a sample is turned by 90, 180 or 270 degrees.
      fill: value of the canvas where the picture was and is not now, in the units of the image.
    """

    probability: float = 0.75
    fill: float = 0

    def __post_init__(self):
        if not 0 <= self.probability <= 1:
            raise ValueError(f"random_rot90: probability is {self.probability}, expected 0..1")

    def __call__(self, sample: Sample, key: PRNGKeyArray) -> dict[str, Any]:
        rows, columns = sample["image"].shape[:2]
        if rows != columns:
            raise ValueError(
                f"random_rot90 needs a square canvas, got {rows} x {columns} pixels: pad it, or use random_rotate"
            )
        coin, turn_key = jax.random.split(key)
        turns = jax.random.randint(turn_key, (), 1, 4)
        turns = jnp.where(jax.random.bernoulli(coin, self.probability), turns, 0)
        height, width = picture_size(sample)
        matrix = _quarter_turns(turns, height.astype(jnp.float32), width.astype(jnp.float32))
        odd = turns % 2 == 1
        size = jnp.where(odd, width, height), jnp.where(odd, height, width)
        # Whole pixels: the nearest one is the moved one.
        x, y = warp.pixel_centres(rows, columns)
        inverse = invert(matrix)
        u, v = (inverse[i, 0] * x + inverse[i, 1] * y + inverse[i, 2] for i in (0, 1))
        image = warp.nearest(sample["image"], (u, v), (height, width), 0)
        keep = Keep(0.0, 0.0)
        new_size = size if "size" in sample else None
        return move_sample(sample, matrix, keep, fill=self.fill, image=image, size=new_size, upright=True)


def _quarter_turns(turns: Array, height: Array, width: Array) -> Matrix:
    """Counter-clockwise as seen, as `numpy.rot90`."""
    zero, one = jnp.float32(0.0), jnp.float32(1.0)
    last = (zero, zero, one)
    turned = (
        matrix_of((one, zero, zero), (zero, one, zero), last),
        matrix_of((zero, one, zero), (-one, zero, width), last),
        matrix_of((-one, zero, width), (zero, -one, height), last),
        matrix_of((zero, -one, height), (one, zero, zero), last),
    )
    return jnp.stack(turned)[turns]


def shear_ranges(shear: float | tuple[float, ...]) -> tuple[tuple[float, float], tuple[float, float]]:
    """Ranges along x and y of torchvision's `shear` argument."""
    if isinstance(shear, tuple) and len(shear) == 4:
        return _range("shear", shear[:2]), _range("shear", shear[2:])
    return _range("shear", shear), (0.0, 0.0)


def _range(name: str, value: Any) -> tuple[float, float]:
    low, high = value if isinstance(value, tuple) and len(value) == 2 else (None, None)
    if isinstance(value, (int, float)):
        low, high = -value, value
    if low is None or high is None or low > high:
        raise ValueError(f"{name} is {value}, expected a number >= 0 or (lowest, highest)")
    return low, high


def _uniform(key: PRNGKeyArray, *ranges: tuple[float, float]) -> tuple[Array, ...]:
    low, high = (np.asarray(ends, np.float32) for ends in zip(*ranges, strict=True))
    return tuple(low + (high - low) * jax.random.uniform(key, low.shape, jnp.float32))
