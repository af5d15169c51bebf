"""Logits of large images from overlapping windows, as OpenMMLab's mode "slide" takes them.

Windows stand at multiples of the stride; those that would pass the border are moved back to it. Logits of a pixel are
the mean over the windows that see it. All windows have one size, so that there is one compiled program.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

Size = tuple[int, int]


def window_corners(canvas: Size, window: Size, stride: Size) -> Int[np.ndarray, "n 2"]:
    """Top and left of every window, row by row; a window must fit into the canvas."""
    places = []
    for side, own, step in zip(canvas, window, stride, strict=True):
        count = max(side - own + step - 1, 0) // step + 1
        places.append(np.minimum(np.arange(count) * step, side - own))
    rows, columns = np.meshgrid(*places, indexing="ij")
    return np.stack([rows.ravel(), columns.ravel()], axis=1).astype(np.int32)


def slide(
    logits_of: Callable[[Float[Array, "n h w c"]], Float[Array, "n h w classes"]],
    images: Float[Array, "b h2 w2 c"],
    window: Size,
    stride: Size,
    *,
    at_once: int = 1,
) -> Float[Array, "b h2 w2 classes"]:
    """Mean logits of all windows, float32.

    Args:
      logits_of: what the network says of each pixel of windows.
      images: a batch.
      window: height and width; sides that are larger than the images are cut to theirs.
      stride: of the windows.
      at_once: windows of each image that make a batch of the network, times the images.
    """
    canvas = (images.shape[1], images.shape[2])
    window = (min(window[0], canvas[0]), min(window[1], canvas[1]))
    corners = window_corners(canvas, window, stride)
    seen = np.zeros(canvas, np.float32)
    for top, left in corners:
        seen[top : top + window[0], left : left + window[1]] += 1
    at_once = min(at_once, len(corners))
    rest = -len(corners) % at_once
    real = np.arange(len(corners) + rest) < len(corners)  # the last group is filled up with its last window
    groups = np.concatenate([corners, np.repeat(corners[-1:], rest, axis=0)]).reshape(-1, at_once, 2)
    shape = jax.eval_shape(logits_of, jax.ShapeDtypeStruct((1, *window, images.shape[3]), images.dtype))
    sums = jnp.zeros((images.shape[0], *canvas, shape.shape[-1]), jnp.float32)

    def add(sums: Array, one: tuple[Array, Array, Array]) -> tuple[Array, None]:
        corner, weight, logits = one
        start = (0, corner[0], corner[1], 0)
        old = jax.lax.dynamic_slice(sums, start, logits.shape)
        return jax.lax.dynamic_update_slice(sums, old + logits * weight, start), None

    def group(sums: Array, of: tuple[Array, Array]) -> tuple[Array, None]:
        places, weights = of
        size = (images.shape[0], *window, images.shape[3])
        parts = jax.vmap(lambda place: jax.lax.dynamic_slice(images, (0, place[0], place[1], 0), size))(places)
        logits = logits_of(parts.reshape(-1, *size[1:])).astype(jnp.float32)
        each = logits.reshape(at_once, images.shape[0], *logits.shape[1:])
        return jax.lax.scan(add, sums, (places, weights, each))

    weights = jnp.asarray(real.reshape(-1, at_once), jnp.float32)
    sums, _ = jax.lax.scan(group, sums, (jnp.asarray(groups), weights))
    return sums / jnp.asarray(seen)[None, :, :, None]
