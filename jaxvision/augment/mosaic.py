"""Several pictures with their objects on one canvas: mosaic and the blend of two for detection.

Objects of all pictures share the rows of one sample. Where there are more than rows, the largest boxes stay, and
`dropped` (int32, per sample; summed over transforms) counts the others, which are then in the picture without
annotation: choose `max_instances` so that it stays 0.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxvision.augment import warp
from jaxvision.augment.geometry import (
    UNKNOWN,
    compose,
    from_float,
    instances_of,
    invert,
    moved_origin,
    picture_size,
    scale_matrix,
    shift_matrix,
)
from jaxvision.augment.instances import Keep, blank, largest, move_boxes, take_rows, with_masks
from jaxvision.augment.pipeline import Sample, sample_at
from jaxvision.ops.masks import pack_masks
from jaxvision.structures import Instances


@dataclasses.dataclass(frozen=True)
class Mosaic:
    """Four neighbours around a random point, for each of the four anew (Bochkovskiy et al. 2020, arXiv:2004.10934).

    Each picture touches the point with one of its corners, in random order; what lies beyond the canvas is lost. Then
    the canvas is zoomed about its middle, as YOLOX and YOLOv5 do after their mosaic: below 1 more of the pictures
    comes into sight. Enlarged or shrunk pixels are interpolated without smoothing. `size` becomes that of the canvas;
    `label`, `index`, `original_size` and `to_original` remain those of the sample's own picture.

    Attributes:
      center: range of the point, as a share of the canvas's sides (the paper's code: 0.2 to 0.8).
      scale: range of the zoom (YOLOv5: 0.5 to 1.5).
      probability: of each of the four results; the others stay as they were.
      fill: value of what no picture covers, in the units of the image.
      min_area_ratio: objects of which a smaller share of the box is left are dropped.
      min_size: so are those with a side shorter than this, in pixels.
    """

    center: tuple[float, float] = (0.2, 0.8)
    scale: tuple[float, float] = (0.5, 1.5)
    probability: float = 1.0
    fill: float = 0
    min_area_ratio: float = 0.1
    min_size: float = 1.0
    group = 4

    def __post_init__(self):
        if len(self.center) != 2 or not 0 <= self.center[0] <= self.center[1] <= 1:
            raise ValueError(f"mosaic: center is {self.center}, expected (lowest, highest) in 0..1")
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"mosaic: scale is {self.scale}, expected (lowest, highest) above 0")
        if not 0 <= self.probability <= 1:
            raise ValueError(f"mosaic: probability is {self.probability}, expected 0..1")
        Keep(self.min_area_ratio, self.min_size)

    def mix(self, samples: Sample, key: PRNGKeyArray) -> dict[str, Any]:
        _refuse("mosaic", samples, "panoptic", "proposals")
        if "targets" not in samples and "semantic" not in samples:
            raise ValueError("mosaic needs samples with targets or a semantic map; for image labels use cutmix")
        keys = jax.random.split(key, self.group)
        # Compiled once for the four, one after the other: side by side they would quadruple the memory.
        return jax.lax.map(lambda item: self._one(samples, *item), (jnp.arange(self.group, dtype=jnp.int32), keys))

    def _one(self, samples: Sample, own: Int[Array, ""], key: PRNGKeyArray) -> dict[str, Any]:
        height, width = samples["image"].shape[1:3]
        order_key, draw_key = jax.random.split(key)
        pictures = jax.random.permutation(order_key, self.group).astype(jnp.int32)
        draws = jax.random.uniform(draw_key, (4,), jnp.float32)
        canvas = np.asarray([width, height], np.float32)
        low, high = self.center
        centre = jnp.round((low + (high - low) * draws[:2]) * canvas)
        zoom = self.scale[0] + (self.scale[1] - self.scale[0]) * draws[2]
        sizes = jax.vmap(picture_size)({name: samples[name] for name in ("image", "size") if name in samples})
        starts = _starts(centre, sizes, pictures)
        middle = canvas / 2
        zoomed = compose(shift_matrix(*middle), compose(scale_matrix(zoom, zoom), shift_matrix(*(-middle).tolist())))
        matrices = jax.vmap(lambda start: compose(zoomed, shift_matrix(start[0], start[1])))(starts)

        x, y = warp.pixel_centres(height, width)
        x, y = (x - middle[0]) / zoom + middle[0], (y - middle[1]) / zoom + middle[1]
        quadrant = (x >= centre[0]).astype(jnp.int32) + 2 * (y >= centre[1]).astype(jnp.int32)
        at, which = (x - starts[quadrant, 0], y - starts[quadrant, 1]), pictures[quadrant]
        sample = sample_at(samples, own)
        result = dict(sample)
        image = warp.bilinear_of(samples["image"], at, sizes, which, self.fill)
        result["image"] = from_float(image, samples["image"].dtype)
        if "semantic" in samples:
            result["semantic"] = warp.nearest_of(samples["semantic"], at, sizes, which, UNKNOWN)
        if "size" in samples:
            result["size"] = jnp.asarray([height, width], jnp.float32)
        place = jnp.argmax(pictures == own)
        result |= moved_origin(sample, invert(matrices[place]))
        dropped = jnp.int32(0)
        targets = instances_of(samples)
        if targets is not None:
            result["targets"], dropped = self._instances(targets, matrices, pictures, (at, sizes, which, quadrant))
        used = jax.random.bernoulli(jax.random.fold_in(draw_key, 1), self.probability)
        result = jax.tree.map(lambda a, b: jnp.where(used, a, b), result, sample)
        return {**result, "dropped": sample.get("dropped", jnp.int32(0)) + jnp.where(used, dropped, 0)}

    def _instances(
        self, targets: Instances, matrices: Float[Array, "4 3 3"], pictures: Int[Array, " 4"], view: tuple[Any, ...]
    ) -> tuple[Instances, Int[Array, ""]]:
        at, sizes, which, quadrant = view
        keep = Keep(self.min_area_ratio, self.min_size)
        canvas = jnp.asarray(which.shape, jnp.float32)
        rows = targets.labels.shape[1]
        ordered = jax.tree.map(lambda x: x[pictures], dataclasses.replace(targets, masks=None))
        moved, cut = jax.vmap(lambda one, matrix: move_boxes(one, matrix, canvas, keep))(ordered, matrices)
        moved, cut = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), (moved, cut))
        chosen, dropped = largest(moved, rows)
        moved, cut = take_rows(moved, chosen), cut[chosen]
        if targets.masks is None:
            return blank(moved), dropped
        of_quadrant = pack_masks(quadrant[None] == np.arange(4, dtype=np.int32)[:, None, None])
        merged = warp.moved_masks(
            targets.masks, lambda word: warp.nearest_of(word, at, sizes, which, 0), which.shape[1]
        )
        masks = merged[chosen % rows] & of_quadrant[chosen // rows]
        return with_masks(moved, masks, cut, keep), dropped


@dataclasses.dataclass(frozen=True)
class DetectionMixup:
    """Blends two neighbouring pictures and gives both results the objects of both (YOLOX, Ge et al. 2021, sec. 2.1).

    The paper's code also scales and mirrors the partner first: put `large_scale_jitter` and `random_flip` before.
    `size` becomes the larger height and the larger width; `index` and `to_original` remain the sample's own.

    Attributes:
      share: of the sample's own picture (YOLOX: one half).
      probability: with which a pair is blended.
    """

    share: float = 0.5
    probability: float = 1.0
    group = 2

    def __post_init__(self):
        for name in ("share", "probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"detection_mixup: {name} is {getattr(self, name)}, expected 0..1")

    def mix(self, samples: Sample, key: PRNGKeyArray) -> dict[str, Any]:
        _refuse("detection_mixup", samples, "panoptic", "semantic", "proposals")
        targets = instances_of(samples)
        if targets is None:
            raise ValueError("detection_mixup needs samples with targets; for image labels use mixup")
        image = samples["image"]
        own, other = image.astype(jnp.float32), image[::-1].astype(jnp.float32)
        result = {**samples, "image": from_float(self.share * own + (1.0 - self.share) * other, image.dtype)}
        rows = targets.labels.shape[1]
        both = jax.tree.map(lambda x: jnp.concatenate([x, x[::-1]], axis=1), targets)
        chosen, dropped = jax.vmap(lambda one: largest(one, rows))(both)
        result["targets"] = jax.vmap(lambda one, at: blank(take_rows(one, at)))(both, chosen)
        if "size" in samples:
            size = samples["size"]
            result["size"] = jnp.maximum(size, size[::-1])
        used = jax.random.bernoulli(key, self.probability)
        result = jax.tree.map(lambda a, b: jnp.where(used, a, b), result, dict(samples))
        before = samples.get("dropped", jnp.zeros_like(dropped))
        return {**result, "dropped": before + jnp.where(used, dropped, 0)}


def _starts(
    centre: Float[Array, " 2"], sizes: tuple[Int[Array, " 4"], Int[Array, " 4"]], pictures: Int[Array, " 4"]
) -> Float[Array, "4 2"]:
    """x and y of the picture's corner in each quadrant: top left, top right, bottom left, bottom right."""
    heights, widths = (side[pictures].astype(jnp.float32) for side in sizes)
    left, top = np.asarray([1, 0, 1, 0], np.float32), np.asarray([1, 1, 0, 0], np.float32)
    return jnp.stack([centre[0] - left * widths, centre[1] - top * heights], axis=-1)


def _refuse(name: str, samples: Sample, *keys: str) -> None:
    for key in keys:
        if key in samples:
            what = key if key == "proposals" else f"{key} maps"
            raise ValueError(f"{name} cannot merge {what}, which these samples have: leave it out of data.augment")
