"""Sines and cosines of a place in the picture (Carion et al. 2020, arXiv:2005.12872, appendix A.4)."""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

EPS = 1e-6
"""Of the authors' code: keeps the quotient finite where nothing is real."""


def sine_position_embedding(
    real: Bool[Array, "b h w"], channels: int, *, offset: float = 0.0, temperature: float = 10000.0
) -> Float[Array, "b h w channels"]:
    """Half of the channels tell the row, the other half the column, each as pairs of sine and cosine; float32.

    Rows and columns are counted among the real cells, the first one is 1, as shares of their number times 2 pi.

    Args:
      real: which cells belong to the picture; the others are padding.
      channels: a multiple of 4.
      offset: added to the numbers of rows and columns; -0.5 makes them those of the centres (Deformable DETR).
      temperature: the longest wave is almost this many times as long as the shortest.

    Raises:
      ValueError: channels that 4 does not divide.
    """
    if channels % 4:
        raise ValueError(f"sine_position_embedding got channels={channels}: expected a multiple of 4")
    halves = []
    for axis in (1, 2):
        number = jnp.cumsum(real.astype(jnp.float32), axis=axis)
        last = number[:, -1:] if axis == 1 else number[:, :, -1:]
        halves.append(waves((number + offset) / (last + EPS) * (2 * math.pi), channels // 2, temperature))
    return jnp.concatenate(halves, axis=-1)


def waves(angles: Float[Array, "*b"], channels: int, temperature: float = 10000.0) -> Float[Array, "*b channels"]:
    """Sine, cosine, sine, ... of angles that are divided by powers of the temperature, pair by pair."""
    periods = temperature ** (2 * np.arange(channels // 2) / channels)
    scaled = angles[..., None] * (1 / periods).astype(np.float32).reshape((1,) * angles.ndim + (-1,))
    return jnp.stack([jnp.sin(scaled), jnp.cos(scaled)], axis=-1).reshape(*angles.shape, channels)
