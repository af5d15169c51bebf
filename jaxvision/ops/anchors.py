"""Reference boxes and points on the grid of a feature level, in pixels of the canvas.

The order everywhere is that of a head's output [H, W, A, ...] made flat: rows, then columns, then anchors of a place.
Base anchors are small numpy constants; grids are computed in the program, so that they do not swell an exported one.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

IntOrPair = int | tuple[int, int]


def base_anchors(
    sizes: tuple[float, ...],
    ratios: tuple[float, ...],
    *,
    center: float | tuple[float, float] = 0.0,
    rounded: bool = False,
    sizes_first: bool = False,
) -> Float[np.ndarray, "a 4"]:
    """One box for each ratio and size, of area size^2, around one point.

    The libraries differ in the arguments. torchvision's AnchorGenerator: `rounded=True`. mmdet's: sizes are its base
    size (by default the stride) times its scales, `center` its center_offset times the base size; `scale_major=False`
    there is `sizes_first` here.

    Args:
      sizes: in pixels.
      ratios: height over width.
      center: (x, y), or one number for both, in pixels from the corner of the first cell.
      rounded: corners are rounded to whole pixels (halves to even).
      sizes_first: all ratios of the first size come first, instead of all sizes of the first ratio.

    Returns:
      float32 xyxy boxes.
    """
    height = np.sqrt(np.asarray(ratios, np.float32))[:, None]
    size = np.asarray(sizes, np.float32)[None, :]
    sides = np.stack([1 / height * size, height * size], axis=-1)
    sides = sides.swapaxes(0, 1) if sizes_first else sides
    boxes = centered_boxes(sides.reshape(-1, 2), center=center)
    return np.round(boxes) if rounded else boxes


def centered_boxes(
    sides: tuple[tuple[float, float], ...] | Float[np.ndarray, "a 2"], *, center: float | tuple[float, float] = 0.0
) -> Float[np.ndarray, "a 4"]:
    """float32 xyxy boxes of the given (width, height) in pixels around one point: for SSD's and YOLO's lists of sizes.

    `center` as in `base_anchors`; the middle of the first cell is half the stride.
    """
    half = np.asarray(sides, np.float32).reshape(-1, 2) / 2
    middle = np.broadcast_to(np.asarray(center, np.float32), 2)
    return np.concatenate([middle - half, middle + half], axis=1)


def grid_points(size: tuple[int, int], stride: IntOrPair, offset: float = 0.5) -> Float[Array, "h*w 2"]:
    """(x, y) of each cell of a level: (column + offset, row + offset) times the stride.

    Args:
      size: height and width of the level, in cells.
      stride: pixels of the canvas per cell, or a (height, width) pair.
      offset: 0.5 is the middle of a cell (FCOS, YOLOX, mmdet's MlvlPointGenerator), 0 its corner.
    """
    height, width = size
    down, right = (stride, stride) if isinstance(stride, int) else stride
    y = (jnp.arange(height, dtype=jnp.float32) + offset) * down
    x = (jnp.arange(width, dtype=jnp.float32) + offset) * right
    x, y = jnp.broadcast_to(x[None, :], (height, width)), jnp.broadcast_to(y[:, None], (height, width))
    return jnp.stack([x, y], axis=-1).reshape(-1, 2)


def grid_anchors(
    size: tuple[int, int], stride: IntOrPair, base: Float[np.ndarray, "a 4"] | Float[Array, "a 4"]
) -> Float[Array, "h*w*a 4"]:
    """The base anchors at each cell of a level; `size` and `stride` as in `grid_points`.

    torchvision takes as stride the image's size divided by the level's and rounded down, in each direction.
    """
    if base.ndim != 2 or base.shape[1] != 4:
        raise ValueError(f"grid_anchors takes base anchors [A, 4] (see base_anchors), and got {base.shape}")
    corners = jnp.tile(grid_points(size, stride, offset=0.0), 2)
    return (corners[:, None, :] + jnp.asarray(base, jnp.float32)[None]).reshape(-1, 4)
