"""Anchor boxes of pyramids: the same shapes around every cell of a level, in units of its stride."""

import dataclasses
import math
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxvision.ops import base_anchors, grid_anchors


def octaves(scale: float, count: int) -> tuple[float, ...]:
    """`count` scales from `scale` to less than twice it, at even ratios: `octaves(4, 3)` are RetinaNet's."""
    return tuple(scale * 2 ** (i / count) for i in range(count))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Anchors:
    """Anchors of each level: for every ratio, every scale, around the upper left corner of every cell.

    Attributes:
      scales: side of the square anchor over the stride.
      ratios: height over width; the area stays.
      whole: as torchvision has it: sides of the square, corners and the distance between cells are whole pixels, the
        distance that of the canvas over that of the grid, rounded down.
    """

    scales: tuple[float, ...] = octaves(4.0, 3)
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    whole: bool = False

    def __post_init__(self) -> None:
        if not self.scales or not self.ratios or min(*self.scales, *self.ratios) <= 0:
            raise ValueError(f"anchors got scales={self.scales}, ratios={self.ratios}: expected positive numbers")

    @property
    def per_cell(self) -> int:
        """Anchors around one cell."""
        return len(self.scales) * len(self.ratios)

    def base(self, stride: int) -> Float[np.ndarray, "a 4"]:
        """The anchors around the origin, ratio by ratio."""
        sides = tuple(scale * stride for scale in self.scales)
        sides = tuple(math.floor(side + 1e-6) for side in sides) if self.whole else sides
        return base_anchors(sides, self.ratios, rounded=self.whole)

    def __call__(
        self, grids: Mapping[str, tuple[int, int]], strides: Mapping[str, int], canvas: tuple[int, int]
    ) -> tuple[Float[Array, "_ 4"], ...]:
        """Anchors xyxy of each level in pixels, row by row, `per_cell` of them for each cell.

        Args:
          grids: height and width of each level.
          strides: of each level.
          canvas: height and width of the image, in pixels.
        """
        found = []
        for level, grid in grids.items():
            stride = strides[level]
            step = (canvas[0] // grid[0], canvas[1] // grid[1]) if self.whole else (stride, stride)
            found.append(grid_anchors(grid, step, self.base(stride)))
        return tuple(found)


def in_picture(anchors: Float[Array, "n 4"], size: Float[Array, "b 2"], multiple: int = 32) -> Bool[Array, "b n"]:
    """Anchors whose cell lies in the picture, whose sides are rounded up to a multiple of some pixels.

    The cells beyond are padding of the canvas: OpenMMLab leaves them out of the loss.

    Args:
      size: height and width of each picture, which begins at the upper left corner of its canvas.
    """
    corner = 0.5 * (anchors[:, :2] + anchors[:, 2:])
    ends = jnp.ceil(size[:, ::-1] / float(multiple)) * float(multiple)
    # Cells are whole pixels; half a pixel is more than their rounding.
    return jnp.all(corner[None] < ends[:, None] - 0.5, axis=-1)


def inside_border(anchors: Float[Array, "n 4"], size: Float[Array, "b 2"], border: float) -> Bool[Array, "b n"]:
    """Anchors that reach no more than `border` pixels beyond the picture; all of them where it is negative.

    Ren et al. 2015 (arXiv:1506.01497), section 3.3, where it is 0, and OpenMMLab's `allowed_border`.
    """
    if border < 0:
        return jnp.ones((size.shape[0], anchors.shape[0]), bool)
    low = jnp.all(anchors[:, :2] >= -border, axis=-1)
    return low[None] & jnp.all(anchors[None, :, 2:] < size[:, None, ::-1] + border, axis=-1)


def prior_bias(probability: float) -> float:
    """The bias with which a sigmoid starts at this probability (RetinaNet, section 4.1)."""
    return -math.log((1 - probability) / probability)
