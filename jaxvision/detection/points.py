"""Points of pyramids: where anchor-free detectors look from."""

import dataclasses
from collections.abc import Mapping

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxvision.detection.anchors import in_picture
from jaxvision.ops import grid_points


@dataclasses.dataclass(frozen=True, kw_only=True)
class Points:
    """One point in every cell of each level.

    Attributes:
      offset: place in the cell: 0.5 is its middle, 0 its upper left corner (torchvision).
      whole: as torchvision has it: the distance between points is that of the canvas over that of the grid, rounded
        down.
    """

    offset: float = 0.5
    whole: bool = False

    def __call__(
        self, grids: Mapping[str, tuple[int, int]], strides: Mapping[str, int], canvas: tuple[int, int]
    ) -> tuple[Float[Array, "_ 3"], ...]:
        """x and y of each level's points in pixels, row by row, and the stride of the level.

        Args:
          grids: height and width of each level.
          strides: of each level.
          canvas: height and width of the image, in pixels.
        """
        found = []
        for level, grid in grids.items():
            stride = strides[level]
            step = (canvas[0] // grid[0], canvas[1] // grid[1]) if self.whole else (stride, stride)
            points = grid_points(grid, step, self.offset)
            found.append(jnp.concatenate([points, jnp.full((len(points), 1), stride, jnp.float32)], axis=1))
        return tuple(found)

    def in_picture(self, points: Float[Array, "n 3"], size: Float[Array, "b 2"]) -> Bool[Array, "b n"]:
        """Points whose cell lies in the picture, see `anchors.in_picture`."""
        return in_picture(jnp.tile(points[:, :2] - self.offset * points[:, 2:], (1, 2)), size)
