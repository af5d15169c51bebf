"""Values of an image at computed places, with the rules of torch.nn.functional.grid_sample, NHWC."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxvision.ops.gather import corner_taps, weighted_gather

METHODS = ("bilinear", "nearest")
PADDINGS = ("zeros", "border")


def grid_sample(
    x: Float[Array, "b h w c"],
    grid: Float[Array, "b h2 w2 2"],
    *,
    method: str = "bilinear",
    padding: str = "zeros",
    align_corners: bool = False,
) -> Float[Array, "b h2 w2 c"]:
    """`x` at the places of `grid`; float32 inside, the dtype of `x`. Places that are NaN give zeros with both paddings.

    Args:
      grid: (x, y), -1 to 1 from one border of the image to the other. Has gradients with method "bilinear".
      method: "bilinear" | "nearest" (halves go to the even pixel).
      padding: what lies beyond the image: "zeros" | "border" (its nearest pixel).
      align_corners: -1 and 1 are the centres of the corner pixels, not their outer edges.

    Raises:
      ValueError: shapes that do not fit each other, an image without pixels, an unknown method or padding.
    """
    if x.ndim != 4 or grid.ndim != 4 or grid.shape[3] != 2 or grid.shape[0] != x.shape[0] or min(x.shape[1:3]) < 1:
        raise ValueError(f"grid_sample got {x.shape} and a grid {grid.shape}; it takes [B, H, W, C] and [B, H2, W2, 2]")
    if method not in METHODS or padding not in PADDINGS:
        raise ValueError(
            f"grid_sample got method={method!r}, padding={padding!r}; it knows {', '.join(METHODS)} and "
            f"{', '.join(PADDINGS)}"
        )
    batch, height, width, channels = x.shape
    places = grid.astype(jnp.float32) + 1
    if align_corners:
        columns, rows = places[..., 0] / 2 * (width - 1), places[..., 1] / 2 * (height - 1)
    else:
        columns, rows = (places[..., 0] * width - 1) / 2, (places[..., 1] * height - 1) / 2
    known = jnp.isfinite(columns) & jnp.isfinite(rows)
    if method == "nearest":
        rows, columns = (jax.lax.stop_gradient(jnp.round(a)) for a in (rows, columns))
    index, weights = corner_taps(rows, columns, (height, width), clamped=padding == "border")
    weights = jnp.where(known[..., None], weights, np.float32(0))
    if method == "nearest":  # a whole number: the other three weigh nothing
        index, weights = index[..., :1], weights[..., :1]
    index = index + np.arange(batch, dtype=np.int32)[:, None, None, None] * (height * width)
    taps = index.shape[-1]
    table = jnp.reshape(x, (-1, channels))
    out = weighted_gather(table, index.reshape(-1, taps), weights.reshape(-1, taps))
    return out.reshape(*grid.shape[:3], channels)
