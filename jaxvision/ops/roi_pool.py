"""RoI max pooling (Girshick 2015, arXiv:1504.08083, section 2.1) with torchvision's rounding.

mmcv's operator of this name differs: its boxes are not rounded, so that its bins begin and end elsewhere.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxvision.ops.gather import exact_quotient

_BINS = 1600
"""Bins per turn of the outer loop, as in `ops.roi_align`."""


def roi_pool(
    features: Float[Array, "b h w c"],
    boxes: Float[Array, "r 4"],
    batch_index: Int[Array, " r"],
    *,
    output_size: int | tuple[int, int],
    spatial_scale: float,
) -> Float[Array, "r h2 w2 c"]:
    """The largest value in each of `output_size` bins of every box; 0 where a bin lies outside of the map.

    Corners are rounded to pixels of the map (halves away from zero), both of them inside the box; neighbouring bins
    share pixels where the box does not divide. The gradient goes to the first of equal values, row by row; boxes get
    none. The time grows with the largest bin, the memory does not.

    Args:
      boxes: xyxy pixels of the canvas, float32.
      batch_index: int32, the image of each box; values outside of the batch take the nearest image.
      output_size: bins along (height, width), or one number for both.
      spatial_scale: pixels of the map per pixel of the canvas: 1 / stride.

    Raises:
      ValueError: shapes that do not fit each other, or an output without bins.
    """
    bins = (output_size, output_size) if isinstance(output_size, int) else output_size
    if features.ndim != 4 or boxes.shape[1:] != (4,) or batch_index.shape != boxes.shape[:1] or min(bins) < 1:
        raise ValueError(
            f"roi_pool got features {features.shape}, boxes {boxes.shape}, batch_index {batch_index.shape} and "
            f"output_size={output_size}; it takes [B, H, W, C], [R, 4], [R] and positive numbers of bins"
        )
    channels = features.shape[-1]
    if len(boxes) == 0:
        return jnp.zeros((0, *bins, channels), features.dtype)
    bounds = _bounds(features.shape, jax.lax.stop_gradient(boxes), batch_index, bins, spatial_scale)
    return _pool(features.shape[2], jnp.reshape(features, (-1, channels)), bounds).reshape(-1, *bins, channels)


class _Bounds(NamedTuple):
    """The pixels of the bins of each box, int32."""

    start: Int[Array, "r 1"]
    """Row of the table of pixels at which the box's image starts."""
    first: tuple[Int[Array, "r h"], Int[Array, "r w"]]
    counts: tuple[Int[Array, "r h"], Int[Array, "r w"]]


def _bounds(
    shape: tuple[int, ...], boxes: Array, batch_index: Array, bins: tuple[int, int], spatial_scale: float
) -> _Bounds:
    batch, height, width, _ = shape
    scaled = boxes.astype(jnp.float32) * spatial_scale
    reach = 2.0**24  # beyond every map, and an int32
    corners = jnp.clip(jnp.sign(scaled) * jnp.floor(jnp.abs(scaled) + 0.5), -reach, reach)
    first, count = [], []
    for size, n, low, high in zip((height, width), bins, (1, 0), (3, 2), strict=True):
        side = exact_quotient(jnp.maximum(corners[:, high] - corners[:, low] + 1, 1), n)
        steps = np.arange(n + 1, dtype=np.float32)[None]
        start, end = jnp.floor(steps[:, :-1] * side[:, None]), jnp.ceil(steps[:, 1:] * side[:, None])
        start, end = (jnp.clip(edge + corners[:, low, None], 0, size) for edge in (start, end))
        known = jnp.isfinite(start) & jnp.isfinite(end)
        first.append(jnp.where(known, start, 0).astype(jnp.int32))
        count.append(jnp.where(known, jnp.maximum(end - start, 0), 0).astype(jnp.int32))
    image = jnp.clip(batch_index.astype(jnp.int32), 0, batch - 1)
    return _Bounds((image * (height * width))[:, None], (first[0], first[1]), (count[0], count[1]))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _pool(width: int, table: Array, bounds: _Bounds) -> Float[Array, "r hw c"]:
    return _forward(width, table, bounds)[0]


def _forward(width: int, table: Array, bounds: _Bounds) -> tuple[Array, tuple[Array, Array, Array, _Bounds]]:
    order, blocks = _blocks(bounds)

    def largest(block: _Bounds) -> tuple[Array, Array]:
        def seen(turn: Array | int) -> tuple[Array, Array]:
            pixel, inside = _pixel(block, turn, width)
            value = table.at[pixel].get(mode="promise_in_bounds")
            value = jnp.where(inside[:, None], value, jnp.array(-np.inf, value.dtype))
            return value, jnp.broadcast_to(jnp.where(inside, pixel, -1)[:, None], value.shape)

        def compare(turn: Array, best: tuple[Array, Array]) -> tuple[Array, Array]:
            new = seen(turn)
            better = new[0] > best[0]
            return jnp.where(better, new[0], best[0]), jnp.where(better, new[1], best[1])

        return jax.lax.fori_loop(1, _turns(block), compare, seen(0))

    value, place = jax.lax.map(largest, blocks)
    value = jnp.where(place < 0, jnp.array(0, value.dtype), value)
    number, channels = len(order), table.shape[1]
    value = value.reshape(-1, bounds.first[0].shape[1] * bounds.first[1].shape[1], channels)[:number]
    return jnp.zeros_like(value).at[order].set(value, unique_indices=True), (table, place, order, blocks)


def _backward(
    width: int, saved: tuple[Array, Array, Array, _Bounds], gradient: Array
) -> tuple[Float[Array, "s c"], None]:
    table, place, order, blocks = saved
    count, boxes = blocks.start.shape[:2]
    gradient = jnp.pad(gradient[order].astype(jnp.float32), ((0, count * boxes - len(order)), (0, 0), (0, 0)))

    def add_block(total: Array, block: tuple[_Bounds, Array, Array]) -> tuple[Array, None]:
        bounds, place, gradient = block

        def add(turn: Array, total: Array) -> Array:
            pixel, inside = _pixel(bounds, turn, width)
            hit = inside[:, None] & (place == pixel[:, None])
            return total.at[pixel].add(jnp.where(hit, gradient, np.float32(0)), mode="promise_in_bounds")

        return jax.lax.fori_loop(0, _turns(bounds), add, total), None

    parts = blocks, place, gradient.reshape(place.shape)
    total = jax.lax.scan(add_block, jnp.zeros_like(table, jnp.float32), parts)[0]
    return total.astype(table.dtype), None


_pool.defvjp(_forward, _backward)


def _pixel(block: _Bounds, turn: Array | int, width: int) -> tuple[Int[Array, " n"], Array]:
    """Pixel number `turn` of every bin, row by row, and whether the bin has so many."""
    rows, columns = block.counts[0][:, :, None], block.counts[1][:, None, :]
    row, column = turn // jnp.maximum(columns, 1), turn % jnp.maximum(columns, 1)
    inside = turn < rows * columns
    pixel = (block.first[0][:, :, None] + row) * width + block.first[1][:, None, :] + column
    pixel = jnp.where(inside, block.start[:, :, None] + pixel, 0)
    return pixel.reshape(-1), inside.reshape(-1)


def _turns(block: _Bounds) -> Int[Array, ""]:
    return jnp.max(_largest(block))


def _largest(bounds: _Bounds) -> Int[Array, " r"]:
    return jnp.max(bounds.counts[0], axis=-1) * jnp.max(bounds.counts[1], axis=-1)


def _blocks(bounds: _Bounds) -> tuple[Int[Array, " r"], _Bounds]:
    """Boxes by falling size, and their pixels as [blocks, boxes of one block, ...]; the last box repeats."""
    number = bounds.start.shape[0]
    boxes = min(number, max(1, _BINS // (bounds.first[0].shape[1] * bounds.first[1].shape[1])))
    order = jnp.argsort(_largest(bounds), descending=True).astype(jnp.int32)
    padded = jnp.pad(order, (0, -number % boxes), mode="edge")
    return order, jax.tree.map(lambda values: values[padded].reshape(-1, boxes, values.shape[1]), bounds)
