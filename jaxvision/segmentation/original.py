"""Label maps at the original size of images, from logits on a canvas: what published scores are counted on.

OpenMMLab enlarges the logits to the size of what the network saw, cuts the padding off, resizes the rest bilinearly to
the size of the file, and takes the best class there. So does this file, with static shapes: an image covers a part of
the canvas, its original a part of another one, and both sizes are arrays. Where a pixel is taken from follows from them
as in `torch.nn.functional.interpolate`.

Logits at the original size would be gigabytes (150 classes of 2112 x 2112 pixels: 2.7 GB an image), so they are made in
strips of rows, one after the other, and only labels stay. A strip holds B * ROWS * OW * C floats of 4 bytes, a few
times over. For an image [H, W, C] whose original lies on [OH, OW] this takes about OH * (3 * W + 4 * OW) * C FLOPs and
reads 8 * OH * (W + OW) * C bytes, many of them from caches, as neighbouring rows and pixels share them (ADE20K, 150
classes, both 512 x 688: 0.4 GFLOP and 0.8 GB).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped, UInt8

from jaxvision.segmentation.segmentor import labels_of

ROWS = 16
"""Of a strip."""


def labels_at_original(
    logits: Float[Array, "b h w c"],
    size: Shaped[Array, "b 2"],
    original_size: Int[Array, "b 2"],
    canvas: tuple[int, int],
    *,
    align_corners: bool = False,
) -> UInt8[Array, "b h2 w2"]:
    """The best class of every pixel of the originals, which lie in the upper left corner of their canvas.

    Args:
      logits: of the canvas that the network saw; or scores.
      size: height and width of each image there, in whole pixels from the upper left corner.
      original_size: of each image.
      canvas: height and width of the result; where an original is smaller, labels beside it have no meaning.
      align_corners: of the interpolation, see `ops.interpolate`.
    """
    height, width = canvas
    strips = -(-height // ROWS)
    columns = jnp.arange(width, dtype=jnp.int32)

    def strip(rows: Int[Array, " r"]) -> UInt8[Array, "b r w2"]:
        return labels_of(logits_at_original(logits, size, original_size, rows, columns, align_corners=align_corners))

    found = jax.lax.map(strip, jnp.arange(strips * ROWS, dtype=jnp.int32).reshape(strips, ROWS))
    return jnp.moveaxis(found, 0, 1).reshape(logits.shape[0], strips * ROWS, width)[:, :height]


def logits_at_original(
    logits: Float[Array, "b h w c"],
    size: Shaped[Array, "b 2"],
    original_size: Int[Array, "b 2"],
    rows: Int[Array, " r"],
    columns: Int[Array, " k"],
    *,
    align_corners: bool = False,
) -> Float[Array, "b r k c"]:
    """Logits of some rows and columns of the originals, float32; other arguments are those of `labels_at_original`."""

    def of_image(
        logits: Float[Array, "h w c"], size: Shaped[Array, "2"], original: Int[Array, "2"]
    ) -> Float[Array, "r k c"]:
        for axis, pixels in ((0, rows), (1, columns)):
            low, high, share = _between(size[axis], original[axis], pixels, align_corners)
            share = share[:, None, None] if axis == 0 else share[None, :, None]
            first, second = (jnp.take(logits, at, axis=axis, mode="clip") for at in (low, high))
            logits = (1 - share) * first + share * second
        return logits

    return jax.vmap(of_image)(logits.astype(jnp.float32), size, original_size)


def _between(
    size: Shaped[Array, ""], original: Int[Array, ""], pixels: Int[Array, " n"], align_corners: bool
) -> tuple[Int[Array, " n"], Int[Array, " n"], Float[Array, " n"]]:
    """The two pixels of the canvas that each pixel of the original lies between, and the share of the second.

    In float32, as torch computes it; pixels beyond the original have the values of its edge.
    """
    shown, whole, at = (jnp.asarray(x, jnp.float32) for x in (size, original, pixels))
    last = jnp.maximum(shown - 1, 0)
    if align_corners:
        source = at * (last / jnp.maximum(whole - 1, 1))
    else:
        source = (at + 0.5) * (shown / jnp.maximum(whole, 1)) - 0.5
    source = jnp.clip(source, 0, last)
    low = jnp.floor(source)
    return low.astype(jnp.int32), jnp.minimum(low + 1, last).astype(jnp.int32), source - low
