"""Learned position embeddings of a grid of patches, for images of another size than they were learned at."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxvision.ops.interpolate import interpolate


def resample_position_embedding(
    embedding: Float[Array, "1 n c"],
    old: tuple[int, int],
    new: tuple[int, int],
    *,
    prefix: int = 0,
    antialias: bool = True,
    offset: float = 0.0,
) -> Float[Array, "1 m c"]:
    """Bicubic resampling from a grid of `old` (height, width) to one of `new`; the same grid is returned as it is.

    The defaults are timm's `resample_abs_pos_embed`. OpenMMLab and Hugging Face do without `antialias`; the original
    DINOv2 does, too, and adds `offset=0.1` to the new sizes before it divides them by the old ones.

    Args:
      embedding: first `prefix` entries that belong to no patch (class token, ...), then the grid row by row.
      antialias: widens the kernel when the grid shrinks.
      offset: patches added to `new` where the scale factors are computed.

    Raises:
      ValueError: `embedding` does not have prefix + height * width entries.
    """
    if embedding.ndim != 3 or embedding.shape[:2] != (1, prefix + old[0] * old[1]):
        raise ValueError(
            f"got a position embedding of shape {embedding.shape}; a grid of {old} with {prefix} entries in front "
            f"takes [1, {prefix + old[0] * old[1]}, C]"
        )
    if old == new:
        return embedding
    channels = embedding.shape[-1]
    grid = embedding[:, prefix:].reshape(1, *old, channels)
    if offset:
        scale = ((new[0] + offset) / old[0], (new[1] + offset) / old[1])
        grid = interpolate(grid, scale=scale, method="bicubic", antialias=antialias)
    else:
        grid = interpolate(grid, new, method="bicubic", antialias=antialias)
    return jnp.concatenate([embedding[:, :prefix], grid.reshape(1, -1, channels)], axis=1)
