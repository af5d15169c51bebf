"""Copy-paste of objects between two pictures (Ghiasi et al. 2021, "Simple copy-paste", arXiv:2012.07177).

The paper first applies large-scale jitter and a mirror to both pictures (`large_scale_jitter`, `random_flip`), then
pastes a random subset of one's objects into the other where they lie; edges are not blended (its appendix finds no
gain). Here both neighbours of a pair get objects of the other, and no object is pasted for which there is no free row.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, PRNGKeyArray, UInt8

from jaxvision.augment import warp
from jaxvision.augment.geometry import as_float, instances_of, picture_size
from jaxvision.augment.instances import Keep, blank, move_instances, take_rows
from jaxvision.augment.pipeline import Sample, sample_at, stacked
from jaxvision.ops.masks import mask_areas, mask_boxes, pack_masks
from jaxvision.structures import Instances


@dataclasses.dataclass(frozen=True)
class CopyPaste:
    """Pastes objects of the neighbour with their masks, boxes, keypoints and semantic classes; see the top.

    Objects that are now hidden in part lose the pixels and get the tight box of the rest; hidden keypoints get
    visibility 1. Crowd regions are never pasted. Objects are pasted in the order of their rows while there are rows
    that are not valid.

    Attributes:
      probability: of each object of the neighbour to be pasted.
      min_area_ratio: objects of which a smaller share of the mask stays visible are dropped; so are pasted ones of
        which a smaller share of the box lies in the picture.
      min_size: so are those with a side shorter than this, in pixels.
    """

    probability: float = 0.5
    min_area_ratio: float = 0.1
    min_size: float = 1.0
    group = 2

    def __post_init__(self):
        if not 0 <= self.probability <= 1:
            raise ValueError(f"copy_paste: probability is {self.probability}, expected 0..1")
        Keep(self.min_area_ratio, self.min_size)

    def mix(self, samples: Sample, key: PRNGKeyArray) -> dict[str, Any]:
        if "panoptic" in samples:
            raise ValueError("copy_paste cannot merge panoptic maps, which these samples have")
        targets = instances_of(samples)
        if targets is None or targets.masks is None:
            raise ValueError("copy_paste needs samples with instance masks; read them with the data (masks=True)")
        first, second = (sample_at(samples, i) for i in (0, 1))
        keys = jax.random.split(key)
        return stacked([self._paste(first, second, keys[0]), self._paste(second, first, keys[1])])

    def _paste(self, own: Sample, other: Sample, key: PRNGKeyArray) -> dict[str, Any]:
        keep = Keep(self.min_area_ratio, self.min_size)
        size = picture_size(own)
        height, width = own["image"].shape[:2]
        frame = pack_masks(warp.inside(size, height, width))
        pasted = other["targets"]
        masks = pasted.masks & frame[None]
        pasted = move_instances(pasted, jnp.eye(3, dtype=jnp.float32), as_float(size), keep, masks, upright=True)
        chosen = jax.random.bernoulli(key, self.probability, pasted.valid.shape) & pasted.valid & ~pasted.crowd
        room = jnp.sum(~own["targets"].valid, dtype=jnp.int32)
        chosen &= jnp.cumsum(chosen, dtype=jnp.int32) <= room
        cover = warp.any_of(masks, chosen)
        hidden = jnp.unpackbits(cover, axis=-1)[:, :width] != 0
        result = {**own, "image": jnp.where(hidden[..., None], other["image"], own["image"])}
        if "semantic" in own:
            result["semantic"] = jnp.where(hidden, other["semantic"], own["semantic"])
        remaining = _occluded(own["targets"], cover, hidden, keep)
        both = jax.tree.map(
            lambda a, b: jnp.concatenate([a, b]), remaining, blank(dataclasses.replace(pasted, valid=chosen))
        )
        _, rows = jax.lax.top_k(both.valid.astype(jnp.int32), len(chosen))
        return {**result, "targets": take_rows(both, rows)}


def _occluded(
    targets: Instances, cover: UInt8[Array, "h packed_w"], hidden: Bool[Array, "h w"], keep: Keep
) -> Instances:
    """The objects without the pixels of `cover`."""
    whole: Any = targets.masks
    masks = whole & ~cover[None]
    before, after = mask_areas(whole), mask_areas(masks)
    touched = after < before
    share = jnp.where(touched, after / jnp.maximum(before, 1.0), 1.0)
    boxes = jnp.where(touched[:, None], mask_boxes(masks), targets.boxes)
    large = jnp.all(boxes[:, 2:] - boxes[:, :2] >= keep.min_size, axis=-1)
    stays = ~touched | ((share >= keep.min_area_ratio) & (after > 0) & large)
    left = dataclasses.replace(
        targets, boxes=boxes, masks=masks, area=targets.area * share, valid=targets.valid & stays
    )
    if targets.keypoints is not None:
        x, y, seen = (targets.keypoints[..., i] for i in range(3))
        row = jnp.clip(jnp.floor(y).astype(jnp.int32), 0, hidden.shape[0] - 1)
        column = jnp.clip(jnp.floor(x).astype(jnp.int32), 0, hidden.shape[1] - 1)
        seen = jnp.where(hidden[row, column], jnp.minimum(seen, np.float32(1)), seen)
        left = dataclasses.replace(left, keypoints=jnp.stack([x, y, seen], axis=-1))
    return blank(left)
