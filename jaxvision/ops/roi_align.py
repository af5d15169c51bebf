"""RoI align (He et al. 2017, arXiv:1703.06870, section 3) on one map or on the levels of a pyramid.

Values, borders and counts of samples are those of the compiled operator of torchvision (and of mmcv with mode "avg").
Two deviations, both where the reference has no answer: boxes get no gradient (there too) but also no error, and places
that are not finite give zeros.

Every box is computed once: maps of all levels and images lie behind each other in one table of pixels, and a box knows
where its own map starts. Cost: 4 rows of C numbers per sample, forward and backward (`ops.gather` has times).
"""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxvision.ops.gather import add_taps, clamped_taps, exact_quotient, sum_taps, weighted_gather

_BINS = 1600
"""Bins per turn of the loops of adaptive sampling: few enough to lie in the cache, enough to fill all cores."""
_SAMPLES = 4
"""Samples of each bin per turn."""


def roi_align(
    features: Float[Array, "b h w c"],
    boxes: Float[Array, "r 4"],
    batch_index: Int[Array, " r"],
    *,
    output_size: int | tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int = 2,
    aligned: bool = True,
    max_samples: int | None = None,
) -> Float[Array, "r h2 w2 c"]:
    """Means of bilinear samples in each of `output_size` bins of every box; float32 inside, the dtype of `features`.

    Samples more than one pixel outside of the map count as zeros, those nearer take the border pixel.

    Args:
      boxes: xyxy pixels of the canvas, float32.
      batch_index: int32, the image of each box; values outside of the batch take the nearest image.
      output_size: bins along (height, width), or one number for both.
      spatial_scale: pixels of the map per pixel of the canvas: 1 / stride.
      sampling_ratio: samples per bin along each axis; 0 (or less) is adaptive: ceil(side of the box on the map /
        bins), along each axis and for each box. A box without extent then gives zeros.
      aligned: the centre of the first pixel is at 0.5 (detectron2, mmdet); False is the legacy form (torchvision's
        models): it is at 0, and boxes are at least one pixel wide.
      max_samples: bound of adaptive samples along one axis; beyond it they are spread over the bin. None bounds by
        what a box of twice the map's longer side needs, so it is exact for all boxes that are clipped to the image.
        Memory does not depend on it, and time only on the samples that the boxes at hand need.

    Raises:
      ValueError: shapes that do not fit each other, or an output without bins.
    """
    return multilevel_roi_align(
        [features],
        boxes,
        batch_index,
        spatial_scales=(spatial_scale,),
        output_size=output_size,
        sampling_ratio=sampling_ratio,
        aligned=aligned,
        max_samples=max_samples,
        levels=jnp.zeros(boxes.shape[:1], jnp.int32),
    )


def multilevel_roi_align(
    features: Sequence[Float[Array, "b _h _w c"]] | Mapping[str, Float[Array, "b _h _w c"]],
    boxes: Float[Array, "r 4"],
    batch_index: Int[Array, " r"],
    *,
    spatial_scales: tuple[float, ...],
    output_size: int | tuple[int, int],
    sampling_ratio: int = 2,
    aligned: bool = True,
    max_samples: int | None = None,
    levels: Int[Array, " r"] | None = None,
) -> Float[Array, "r h2 w2 c"]:
    """`roi_align` of every box on the level that it belongs to.

    Args:
      features: the maps, the finest first; of a mapping its values in order.
      spatial_scales: of each map, as in `roi_align`.
      levels: int32, the index of each box's map; None takes `assign_levels` with its defaults, where the finest map has
        the number log2(1 / its scale).

    Raises:
      ValueError: also maps that differ in images or channels, or scales that are not one for each.
    """
    maps = list(features.values()) if isinstance(features, Mapping) else list(features)
    bins = _check(maps, boxes, batch_index, spatial_scales, output_size)
    if levels is None:
        levels = assign_levels(boxes, len(maps), first_level=round(-math.log2(spatial_scales[0])))
    if boxes.shape[0] == 0:
        return jnp.zeros((0, *bins, maps[0].shape[-1]), maps[0].dtype)
    places = _places(maps, boxes, batch_index, levels, spatial_scales, bins, sampling_ratio, aligned, max_samples)
    tables = [jnp.reshape(x, (-1, x.shape[-1])) for x in maps]
    table = tables[0] if len(tables) == 1 else jnp.concatenate(tables)
    if sampling_ratio <= 0:
        return _adaptive(bins, table, places).astype(table.dtype)
    index, weights = _taps(places, bins, 0, sampling_ratio**2)
    return weighted_gather(table, index, weights).reshape(boxes.shape[0], *bins, -1)


def assign_levels(
    boxes: Float[Array, "*r 4"],
    num_levels: int,
    *,
    canonical_scale: float = 224.0,
    canonical_level: int = 4,
    first_level: int = 2,
    finest_scale: float | None = None,
) -> Int[Array, "*r"]:
    """The pyramid level of each box by its size (Lin et al. 2017, arXiv:1612.03144, equation 1), 0 for the finest.

    With s = sqrt(area): floor(canonical_level + log2(s / canonical_scale) + 1e-6) - first_level, as in torchvision; or,
    where `finest_scale` is given (56 in all configs), floor(log2(s / finest_scale + 1e-6)), as in mmdet. Both are cut
    to the levels there are, and with the defaults differ by rounding only.

    Args:
      boxes: xyxy pixels of the canvas.
      canonical_scale: side of a box, in pixels, that belongs to `canonical_level`.
      first_level: number of the finest level, log2 of its stride.
    """
    sides = jax.lax.stop_gradient(boxes[..., 2:] - boxes[..., :2]).astype(jnp.float32)
    scale = jnp.sqrt(jnp.maximum(sides[..., 0] * sides[..., 1], 0.0))
    if finest_scale is None:
        level = jnp.floor(canonical_level + jnp.log2(scale / canonical_scale) + 1e-6) - first_level
    else:
        level = jnp.floor(jnp.log2(scale / finest_scale + 1e-6))
    return jnp.clip(level, 0, num_levels - 1).astype(jnp.int32)


class _Places(NamedTuple):
    """Where the bins of each box lie. All [r]."""

    start: Array
    """Row of the table of pixels at which the box's map starts."""
    size: tuple[Array, Array]
    """Height and width of this map, int32."""
    corner: tuple[Array, Array]
    """y and x of the box's corner, 0 being the centre of the first pixel."""
    bin: tuple[Array, Array]
    """Height and width of a bin in pixels of the map."""
    samples: tuple[Array, Array]
    """Samples per bin along y and x, int32."""


def _check(
    maps: list[Array],
    boxes: Array,
    batch_index: Array,
    spatial_scales: tuple[float, ...],
    output_size: int | tuple[int, int],
) -> tuple[int, int]:
    """Validates shapes -> bins along height and width."""
    if not maps or any(x.ndim != 4 or x.shape[0] != maps[0].shape[0] or x.shape[3] != maps[0].shape[3] for x in maps):
        raise ValueError(
            f"roi_align got maps of shapes {[x.shape for x in maps]}; it takes [B, H, W, C], B and C alike"
        )
    if any(side < 1 for x in maps for side in x.shape):
        raise ValueError(f"roi_align got maps of shapes {[x.shape for x in maps]}; none may be empty")
    if boxes.ndim != 2 or boxes.shape[1] != 4 or batch_index.shape != boxes.shape[:1]:
        raise ValueError(
            f"roi_align got boxes {boxes.shape} and batch_index {batch_index.shape}; it takes [R, 4] and [R], all "
            "images' boxes in one array"
        )
    if len(spatial_scales) != len(maps):
        raise ValueError(f"roi_align got {len(maps)} map(s) and {len(spatial_scales)} scale(s); give one for each")
    bins = (output_size, output_size) if isinstance(output_size, int) else output_size
    if min(bins) < 1:
        raise ValueError(f"roi_align got output_size={output_size}; it takes positive numbers of bins")
    return bins


def _places(
    maps: list[Array],
    boxes: Array,
    batch_index: Array,
    levels: Array,
    scales: tuple[float, ...],
    bins: tuple[int, int],
    sampling_ratio: int,
    aligned: bool,
    max_samples: int | None,
) -> _Places:
    heights, widths = (np.array([x.shape[axis] for x in maps], np.int32) for axis in (1, 2))
    starts = np.concatenate([[0], np.cumsum(heights * widths)[:-1]]).astype(np.int32)
    levels = jnp.clip(levels, 0, len(maps) - 1)
    height, width, first = (jnp.take(jnp.asarray(values), levels) for values in (heights, widths, starts))
    images = maps[0].shape[0]
    image = jnp.clip(batch_index.astype(jnp.int32), 0, images - 1)
    boxes = jax.lax.stop_gradient(boxes).astype(jnp.float32)
    scaled = boxes * jnp.take(jnp.asarray(np.array(scales, np.float32)), levels)[:, None]
    corners, sides = scaled - (0.5 if aligned else 0.0), scaled[:, 2:] - scaled[:, :2]
    if not aligned:
        sides = jnp.maximum(sides, 1.0)
    each = exact_quotient(sides[:, 1], bins[0]), exact_quotient(sides[:, 0], bins[1])
    if sampling_ratio > 0:
        samples = (jnp.full_like(levels, sampling_ratio),) * 2
    else:
        limit = max_samples or -(-2 * max(*heights.tolist(), *widths.tolist()) // min(bins))
        known = jnp.all(jnp.isfinite(scaled), axis=1)
        rows, columns = (jnp.clip(jnp.where(known, jnp.ceil(n), 0.0), 0, limit).astype(jnp.int32) for n in each)
        samples = rows, columns
    return _Places(
        first * images + image * height * width, (height, width), (corners[:, 1], corners[:, 0]), each, samples
    )


def _taps(places: _Places, bins: tuple[int, int], first: Array | int, count: int) -> tuple[Array, Array]:
    """Pixels and weights of the samples `first` up to `first + count` of every bin: [r * h * w, 4 * count]."""
    rows, columns = places.samples
    # Every box counts its own samples, row by row: a tall and a wide box need the same number of turns.
    sample = first + jnp.arange(count, dtype=jnp.int32)[None]
    number = rows * columns
    of_axes = sample // jnp.maximum(columns, 1)[:, None], sample % jnp.maximum(columns, 1)[:, None]
    axes = []
    for size, corner, side, samples, turn, n in zip(
        places.size, places.corner, places.bin, places.samples, of_axes, bins, strict=True
    ):
        within = (turn.astype(jnp.float32) + 0.5) / jnp.maximum(samples, 1).astype(jnp.float32)[:, None]
        steps = np.arange(n, dtype=np.float32)[None, :, None] + within[:, None, :]
        position = corner[:, None, None] + steps * side[:, None, None]
        inside = (position >= -1) & (position <= size.astype(jnp.float32)[:, None, None])
        pixels, weights = clamped_taps(position, size[:, None, None])
        axes.append((pixels, jnp.where(inside[..., None], weights, np.float32(0))))
    (y, of_y), (x, of_x) = axes
    counted = (sample < number[:, None]).astype(jnp.float32) / jnp.maximum(number, 1).astype(jnp.float32)[:, None]
    # [r, h, w, count, 2, 2]
    base = places.start[:, None, None, None] + y * places.size[1][:, None, None, None]
    index = base[:, :, None, :, :, None] + x[:, None, :, :, None, :]
    weights = (of_y * counted[:, None, :, None])[:, :, None, :, :, None] * of_x[:, None, :, :, None, :]
    return index.reshape(-1, 4 * count), weights.reshape(-1, 4 * count)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _adaptive(bins: tuple[int, int], table: Array, places: _Places) -> Float[Array, "r h w c"]:
    """Blocks of boxes of like cost, each with a loop over as many samples as its boxes need."""
    return _adaptive_forward(bins, table, places)[0]


def _adaptive_forward(bins: tuple[int, int], table: Array, places: _Places) -> tuple[Array, tuple[Array, _Places]]:
    order, blocks = _blocks(places, bins)

    def pooled(block: _Places) -> Array:
        def add(turn: Array, total: Array) -> Array:
            return total + sum_taps(table, *_taps(block, bins, turn * _SAMPLES, _SAMPLES))

        return jax.lax.fori_loop(1, _turns(block), add, sum_taps(table, *_taps(block, bins, 0, _SAMPLES)))

    number = places.start.shape[0]
    out = jax.lax.map(pooled, blocks).reshape(-1, *bins, table.shape[1])
    return jnp.zeros_like(out[:number]).at[order].set(out[:number], unique_indices=True), (table, places)


def _adaptive_backward(
    bins: tuple[int, int], saved: tuple[Array, _Places], gradient: Array
) -> tuple[Float[Array, "s c"], None]:
    table, places = saved
    order, blocks = _blocks(places, bins)
    count, boxes = blocks.start.shape
    gradient = jnp.pad(gradient[order], ((0, count * boxes - len(order)), (0, 0), (0, 0), (0, 0)))

    def add_block(total: Array, block: tuple[_Places, Array]) -> tuple[Array, None]:
        def add(turn: Array, total: Array) -> Array:
            return add_taps(total, *_taps(block[0], bins, turn * _SAMPLES, _SAMPLES), block[1])

        return jax.lax.fori_loop(0, _turns(block[0]), add, total), None

    gradients = gradient.astype(jnp.float32).reshape(count, -1, table.shape[1])
    total = jax.lax.scan(add_block, jnp.zeros_like(table, jnp.float32), (blocks, gradients))[0]
    return total.astype(table.dtype), None


_adaptive.defvjp(_adaptive_forward, _adaptive_backward)


def _blocks(places: _Places, bins: tuple[int, int]) -> tuple[Int[Array, " r"], _Places]:
    """Boxes by falling number of samples, and their places as [blocks, boxes of one block]; the last one repeats."""
    number = places.start.shape[0]
    boxes = max(1, _BINS // (bins[0] * bins[1]))
    boxes = boxes if jax.export.is_symbolic_dim(number) else min(number, boxes)
    count = -(-number // boxes)
    order = jnp.argsort(places.samples[0] * places.samples[1], descending=True).astype(jnp.int32)
    padded = order[jnp.minimum(jnp.arange(count * boxes, dtype=jnp.int32), number - 1)]
    return order, jax.tree.map(lambda values: values[padded].reshape(count, boxes), places)


def _turns(block: _Places) -> Int[Array, ""]:
    return -(-jnp.max(block.samples[0] * block.samples[1]) // _SAMPLES)
