"""Deformable attention as a layer (Zhu et al. 2021, arXiv:2010.04159, section 4.1)."""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from jaxvision.layers.conv import Dense
from jaxvision.layers.cross_attention import xavier_uniform
from jaxvision.ops import deformable_attention


class DeformableAttention(nn.Module):
    """Each query looks at a few places of every level, which it chooses beside a place of its own.

    Linear layers: `sampling_offsets`, `attention_weights` (of the query), `value_proj`, `output_proj`. In the beginning
    the heads look into `heads` directions, at distances of 1, 2, ... pixels, whatever the query is.

    Attributes:
      heads: the channels are split into this many independent attentions.
      points: places of each level.
    """

    heads: int = 8
    points: int = 4

    @nn.compact
    def __call__(
        self,
        query: Float[Array, "b q c"],
        places: Float[Array, "b q levels d"],
        values: Float[Array, "b s c"],
        shapes: tuple[tuple[int, int], ...],
        real: Bool[Array, "b s"] | None = None,
    ) -> Float[Array, "b q c"]:
        """What the queries find.

        Args:
          places: of each query on each level, as shares of its map: a point x, y, beside which offsets count pixels, or
            a box cx, cy, w, h, whose half sides they count.
          values: of all levels, flattened and behind each other.
          shapes: (height, width) of each level.
          real: which values there are; the others are padding, and zero. None: all.

        Raises:
          ValueError: `heads` does not divide the channels.
        """
        batch, queries, channels = query.shape
        levels, heads = len(shapes), self.heads
        if channels % heads:
            raise ValueError(f"DeformableAttention {self.name!r} got heads={heads} for {channels} channels")
        zeros = nn.initializers.zeros
        linear: dict[str, Any] = {"kernel_init": xavier_uniform, "bias_init": zeros}
        projected = Dense(channels, name="value_proj", **linear)(values)
        if real is not None:
            projected = jnp.where(real[..., None], projected, jnp.zeros_like(projected))
        shape = (batch, queries, heads, levels, self.points)
        offsets = Dense(
            math.prod(shape[2:]) * 2, kernel_init=zeros, bias_init=ring(heads, levels), name="sampling_offsets"
        )(query)
        offsets = offsets.astype(jnp.float32).reshape(*shape, 2)
        if places.shape[-1] == 2:
            unit = jnp.asarray(1 / np.array(shapes, np.float32)[:, ::-1])[None, None, None, :, None]
        else:
            unit = 0.5 / self.points * places[:, :, None, :, None, 2:]
        locations = places[:, :, None, :, None, :2] + offsets * unit
        weights = Dense(math.prod(shape[2:]), kernel_init=zeros, bias_init=zeros, name="attention_weights")(query)
        weights = jax.nn.softmax(weights.astype(jnp.float32).reshape(batch, queries, heads, -1)).reshape(shape)
        split = projected.reshape(batch, -1, heads, channels // heads)
        found = deformable_attention(split, shapes, locations, weights)
        return Dense(channels, name="output_proj", **linear)(found)


def ring(heads: int, levels: int) -> Any:
    """An initializer of offsets: each head has a direction of its own, its points lie 1, 2, ... pixels away."""

    def init(key: PRNGKeyArray, shape: Sequence[int], dtype: Any = None, out_sharding: Any = None) -> Array:
        angles = 2 * np.pi * np.arange(heads) / heads
        directions = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
        directions /= np.abs(directions).max(axis=-1, keepdims=True)
        distances = np.arange(1, math.prod(shape) // (heads * levels * 2) + 1)
        offsets = directions[:, None, None] * distances[None, None, :, None]
        return jnp.asarray(np.broadcast_to(offsets, (heads, levels, *offsets.shape[2:])).reshape(-1), jnp.float32)

    return init
