"""Boxes and maps from pixels of the canvas to pixels of the original image."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from jaxvision.augment.instances import move_points
from jaxvision.ops import clip_boxes


def to_original(boxes: Float[Array, "b n 4"], batch: Mapping[str, Any]) -> Float[Array, "b n 4"]:
    """Boxes xyxy in pixels of the original images, clipped to them, float32.

    Args:
      batch: `to_original` [B, 3, 3] and `original_size` [B, 2] of `data.collate`.
    """
    corners = boxes.astype(jnp.float32).reshape(*boxes.shape[:-1], 2, 2)
    moved = jax.vmap(move_points)(batch["to_original"], corners)
    ordered = jnp.concatenate([jnp.min(moved, axis=-2), jnp.max(moved, axis=-2)], axis=-1)
    return clip_boxes(ordered, batch["original_size"].astype(jnp.float32))


def to_size(
    maps: Shaped[np.ndarray, "*n h w"], to_original: Float[np.ndarray, "3 3"], size: tuple[int, int]
) -> Shaped[np.ndarray, "*n h2 w2"]:
    """Masks or maps of a canvas at the size of the original image: each pixel has the value at its centre, or 0.

    Args:
      to_original: from pixels of the canvas to those of the original, without a turn.
    """
    back = np.linalg.inv(np.asarray(to_original, np.float64))
    found = []
    for axis, other, length in ((1, 0, size[0]), (0, 1, size[1])):
        if abs(back[axis, other]) > 1e-6:
            raise ValueError("an image that was turned has no mask at its original size: leave turns out of evaluation")
        place = np.floor((np.arange(length) + 0.5) * back[axis, axis] + back[axis, 2])
        inside = (place >= 0) & (place < maps.shape[-1 - axis])
        found.append((np.where(inside, place, 0).astype(int), inside))
    (rows, real_rows), (columns, real_columns) = found
    return maps[..., rows[:, None], columns] * (real_rows[:, None] & real_columns)
