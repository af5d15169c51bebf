"""Boxes from pixels of the canvas to pixels of the original image."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

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
