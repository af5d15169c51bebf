"""Arrays seen through a map of coordinates: one gather per tap, and bit fields in which all masks move as one image.

Coordinates are continuous pixels: the left edge of the first column is 0 and its centre 0.5. What lies outside the
picture (`size` in the top left corner of the canvas) is `fill`, also as a neighbour in bilinear interpolation, as
`scipy.ndimage` has it with mode="grid-constant" and torchvision without a fill value (with one, its border pixels fade
twice). There is no smoothing when a picture shrinks, except in `resize_window`.

Cost of `bilinear` for an image of P pixels and C channels: 4 P C gathered values, about 8 P C + 40 P operations, and
one read of the image and one write of the result as memory traffic (6.7 MFLOP and 1.1 MB for 224 x 224 x 3 uint8 as
XLA counts them). One CPU core turns 1,750 of these images per second in batches of 64, and 98,000 of 32 x 32; a
sample of 320 x 320 pixels with 100 masks takes it 16 ms.
"""

import functools
import operator
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped, UInt8, UInt32

Coordinates = tuple[Float[Array, "h w"], Float[Array, "h w"]]
"""x and y."""
Size = tuple[Array, Array]
"""Height and width in whole pixels, int32 scalars."""
FAR = 1e6
"""Pixels; coordinates beyond are cut to this, so that they fit an int32."""


def pixel_centres(height: int, width: int) -> Coordinates:
    """x and y of every pixel's centre."""
    y, x = jnp.meshgrid(*(jnp.arange(n, dtype=jnp.float32) + 0.5 for n in (height, width)), indexing="ij")
    return x, y


def inside(size: Size, height: int, width: int) -> Bool[Array, "h w"]:
    """Which pixels of a canvas belong to a picture of `size` in its top left corner."""
    rows, columns = (jnp.arange(n, dtype=jnp.int32) for n in (height, width))
    return (rows < size[0])[:, None] & (columns < size[1])[None, :]


def bilinear(image: Shaped[Array, "h w c"], at: Coordinates, size: Size, fill: float) -> Float[Array, "h2 w2 c"]:
    """The picture interpolated at the given places, float32 in the units of the image."""
    return bilinear_of(image[None], at, (size[0][None], size[1][None]), None, fill)


def bilinear_of(
    images: Shaped[Array, "g h w c"],
    at: Coordinates,
    sizes: tuple[Int[Array, " g"], Int[Array, " g"]],
    which: Int[Array, "h2 w2"] | None,
    fill: float,
) -> Float[Array, "h2 w2 c"]:
    """The same from several pictures: place p is read from picture `which[p]`; None reads the first."""
    _groups, height, width, channels = images.shape
    flat = images.reshape(-1, channels)
    x, y = (jnp.clip(v, -FAR, FAR) - 0.5 for v in at)
    left, top = jnp.floor(x), jnp.floor(y)
    right_share, bottom_share = x - left, y - top
    column, row = left.astype(jnp.int32), top.astype(jnp.int32)
    base, rows, columns = _picture(which, sizes, height, width)
    total, covered = jnp.zeros((*x.shape, channels), jnp.float32), jnp.zeros_like(x)
    for down in (0, 1):
        for along in (0, 1):
            place = base + jnp.clip(row + down, 0, height - 1) * width + jnp.clip(column + along, 0, width - 1)
            known = _within(row + down, rows) & _within(column + along, columns)
            share = (right_share if along else 1.0 - right_share) * (bottom_share if down else 1.0 - bottom_share)
            share = jnp.where(known, share, 0.0)
            total += share[..., None] * flat[place].astype(jnp.float32)
            covered += share
    return total + (1.0 - covered)[..., None] * fill if fill else total


def nearest_of(
    maps: Shaped[Array, "g h w *c"],
    at: Coordinates,
    sizes: tuple[Int[Array, " g"], Int[Array, " g"]],
    which: Int[Array, "h2 w2"] | None,
    fill: float,
) -> Shaped[Array, "h2 w2 *c"]:
    """The value of the pixel in which each place lies; arguments as in `bilinear_of`."""
    height, width = maps.shape[1:3]
    flat = maps.reshape(-1, *maps.shape[3:])
    column, row = (jnp.floor(jnp.clip(v, -FAR, FAR)).astype(jnp.int32) for v in at)
    base, rows, columns = _picture(which, sizes, height, width)
    place = base + jnp.clip(row, 0, height - 1) * width + jnp.clip(column, 0, width - 1)
    known = _within(row, rows) & _within(column, columns)
    known = known.reshape(*known.shape, *[1] * (maps.ndim - 3))
    return jnp.where(known, flat[place], np.asarray(fill).astype(maps.dtype))


def nearest(maps: Shaped[Array, "h w *c"], at: Coordinates, size: Size, fill: float) -> Shaped[Array, "h2 w2 *c"]:
    """`nearest_of` one map."""
    return nearest_of(maps[None], at, (size[0][None], size[1][None]), None, fill)


def resize_window(
    image: Shaped[Array, "h w c"],
    scale: Float[Array, ""],
    offset: Float[Array, " 2"],
    size: Size,
) -> Float[Array, "h w c"]:
    """The picture scaled and shifted on its canvas, smoothed when it shrinks (a triangle as wide as an output pixel).

    Output place p shows input place `(p + offset) / scale`, offset as (y, x). Beyond the picture the border repeats.
    A product with one matrix per axis: 2 c h w (h + w) FLOPs, which accelerators do fastest.
    """
    height, width, _ = image.shape
    down, along = (
        _triangle_weights(n, limit, scale, start)
        for n, limit, start in ((height, size[0], offset[0]), (width, size[1], offset[1]))
    )
    pixels = image.astype(jnp.float32)
    highest = jax.lax.Precision.HIGHEST
    return jnp.einsum("yh,hwc,xw->yxc", down, pixels, along, precision=highest)


def moved_masks(
    masks: UInt8[Array, "*g n h packed_w"],
    move: Callable[[UInt32[Array, "*g h w"]], UInt32[Array, "h2 w2"]],
    width: int,
) -> UInt8[Array, "n h2 packed_w2"]:
    """Masks after `move`, which gathers maps of `width` columns; of one picture, or of several merged into one."""
    fields = pixel_words if masks.ndim == 3 else jax.vmap(pixel_words, out_axes=1)
    words = fields(masks)[..., :width]
    # A loop is a boundary to the compiler, which otherwise computes fields, gathers and masks anew for every use; loops
    # of one turn are no loops to it.
    if words.shape[0] == 1:
        words = jnp.concatenate([words, jnp.zeros_like(words)])
    packed = jax.lax.map(_unpacked_word, jax.lax.map(move, words))
    return packed.reshape(-1, *packed.shape[2:])[: masks.shape[-3]]


def pixel_words(masks: UInt8[Array, "n h packed_w"]) -> UInt32[Array, "words h padded_w"]:
    """Bit-packed masks as one field per pixel: bit i % 32 of word i // 32 says whether it belongs to instance i.

    A warp then gathers one word for 32 instances.
    """
    count, height, packed = masks.shape
    words = -(-count // 32)
    masks = jnp.pad(masks, ((0, words * 32 - count), (0, 0), (0, 0))).astype(jnp.uint32)
    bits = masks.reshape(words, 32, height, packed)
    columns = []
    for k in range(8):
        placed = ((bits >> np.uint32(7 - k)) & np.uint32(1)) << np.arange(32, dtype=np.uint32)[None, :, None, None]
        columns.append(jnp.sum(placed, axis=1, dtype=jnp.uint32))
    return jnp.stack(columns, axis=-1).reshape(words, height, packed * 8)


def any_of(masks: UInt8[Array, "n h packed_w"], chosen: Bool[Array, " n"]) -> UInt8[Array, "h packed_w"]:
    """The union of the chosen masks."""
    picked = jnp.where(chosen[:, None, None], masks, np.uint8(0))
    return jax.lax.reduce(picked, np.uint8(0), jax.lax.bitwise_or, (0,))


def mirror(values: Shaped[Array, "..."], axis: int, length: Array, bits: bool = False) -> Shaped[Array, "..."]:
    """The first `length` entries of an axis in reverse order, the others where they are.

    With `bits` the entries are the bits of bytes, the most significant first; those beyond `length` become 0.
    """
    turned = jnp.flip(_reversed_bits(values) if bits else values, axis)
    count = values.shape[axis]
    surplus = count * (8 if bits else 1) - length
    if bits:
        # The picture now ends at the last bit: move it to the first, whole bytes by slicing and the rest by shifting.
        doubled = _shifted(turned, axis, surplus // 8, count + 1).astype(jnp.uint16)
        high, low = (jax.lax.slice_in_dim(doubled, i, count + i, axis=axis) for i in (0, 1))
        rest = (surplus % 8).astype(jnp.uint16)
        return (((high << np.uint16(8)) | low) >> (np.uint16(8) - rest)).astype(jnp.uint8)
    place = jnp.arange(count, dtype=jnp.int32).reshape([-1 if i == axis else 1 for i in range(values.ndim)])
    return jnp.where(place < length, _shifted(turned, axis, surplus, count), values)


def _shifted(values: Array, axis: int, amount: Array, count: int) -> Array:
    """`count` entries from `amount` on, zeros beyond the end."""
    room: Sequence[tuple[int, int]] = [(0, count if i == axis else 0) for i in range(values.ndim)]
    return jax.lax.dynamic_slice_in_dim(jnp.pad(values, room), amount, count, axis)


def _reversed_bits(values: UInt8[Array, "..."]) -> UInt8[Array, "..."]:
    for mask, by in ((0x55, 1), (0x33, 2), (0x0F, 4)):
        low, high = values & np.uint8(mask), (values >> np.uint8(by)) & np.uint8(mask)
        values = (low << np.uint8(by)) | high
    return values


def _unpacked_word(word: UInt32[Array, "h w"]) -> UInt8[Array, "32 h packed_w"]:
    """The bit-packed masks of one field of 32 instances."""
    word = jnp.pad(word, ((0, 0), (0, -word.shape[1] % 8)))[None]
    instances = np.arange(32, dtype=np.uint32)[:, None, None]
    one = np.uint32(1)
    bits = [((word[:, :, k::8] >> instances) & one) << np.uint32(7 - k) for k in range(8)]
    return functools.reduce(operator.or_, bits).astype(jnp.uint8)


def _picture(
    which: Array | None, sizes: tuple[Array, Array], height: int, width: int
) -> tuple[Array | int, Array, Array]:
    """Start in the flattened pictures, and number of rows and columns, of the picture of each place."""
    if which is None:
        return 0, sizes[0][0], sizes[1][0]
    return which * (height * width), sizes[0][which], sizes[1][which]


def _within(index: Array, count: Array) -> Array:
    return (index >= 0) & (index < count)


def _triangle_weights(
    length: int, limit: Int[Array, ""], scale: Float[Array, ""], offset: Float[Array, ""]
) -> Float[Array, "out in"]:
    """The matrix that resamples one axis; rows sum to one."""
    out = jnp.arange(length, dtype=jnp.float32)[:, None] + 0.5
    pixel = jnp.arange(length, dtype=jnp.float32)[None, :] + 0.5
    end = limit.astype(jnp.float32)
    centre = jnp.clip((out + offset) / scale, 0.5, jnp.maximum(end - 0.5, 0.5))
    reach = jnp.maximum(1.0 / scale, 1.0)
    weights = jnp.maximum(1.0 - jnp.abs(pixel - centre) / reach, 0.0)
    weights = jnp.where(pixel < jnp.maximum(end, 1.0), weights, 0.0)
    return weights / jnp.sum(weights, axis=1, keepdims=True)
