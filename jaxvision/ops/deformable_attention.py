"""Multi-scale deformable attention (Zhu et al. 2021, arXiv:2010.04159, section 4.1)."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxvision.ops.gather import corner_taps, weighted_gather


def deformable_attention(
    values: Float[Array, "b s heads d"],
    shapes: tuple[tuple[int, int], ...],
    locations: Float[Array, "b q heads levels points 2"],
    weights: Float[Array, "b q heads levels points"],
) -> Float[Array, "b q heads*d"]:
    """Weighted sums of bilinear samples of all levels; float32 inside, the dtype of `values`. Zeros lie outside.

    Equals the grid_sample formulation (align_corners=False) of the reference and of transformers. All arrays have
    gradients (reverse mode). One gather of 4 * levels * points rows per query and head.

    Args:
      values: projected values of all levels, flattened and behind each other.
      shapes: (height, width) of each level.
      locations: (x, y) in [0, 1] of each level's map, from border to border.
      weights: attention, usually a softmax over levels and points together.

    Raises:
      ValueError: shapes that do not fit each other.
    """
    batch, pixels, heads, size = values.shape
    starts = np.concatenate([[0], np.cumsum([h * w for h, w in shapes])]).astype(int).tolist()
    if locations.shape != (*weights.shape, 2) or weights.ndim != 5 or starts[-1] != pixels:
        raise ValueError(
            f"deformable_attention got values {values.shape} of levels {shapes}, locations {locations.shape} and "
            f"weights {weights.shape}; values have {starts[-1]} places, locations are [B, Q, heads, levels, points, 2]"
        )
    if (batch, heads, len(shapes)) != (weights.shape[0], *weights.shape[2:4]):
        raise ValueError(
            f"deformable_attention got values {values.shape}, {len(shapes)} levels and weights {weights.shape}; batch, "
            "heads and levels differ"
        )
    queries, taps = weights.shape[1], 4 * len(shapes) * weights.shape[4]
    image = jnp.arange(batch, dtype=jnp.int32)[:, None, None, None, None] * pixels
    head = np.arange(heads, dtype=np.int32)[None, None, :, None, None]
    indices, factors = [], []
    for level, (height, width) in enumerate(shapes):
        place = locations[:, :, :, level].astype(jnp.float32)
        index, corners = corner_taps(place[..., 1] * height - 0.5, place[..., 0] * width - 0.5, (height, width))
        indices.append((index + (image + starts[level])) * heads + head)
        factors.append(corners * weights[:, :, :, level, :, None].astype(jnp.float32))
    index, factor = (jnp.stack(a, axis=3).reshape(batch * queries * heads, taps) for a in (indices, factors))
    return weighted_gather(jnp.reshape(values, (-1, size)), index, factor).reshape(batch, queries, heads * size)
