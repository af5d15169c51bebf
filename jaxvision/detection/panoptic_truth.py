"""What a panoptic model learns from and is scored by, made of the panoptic map: things with masks, and classes."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxvision.ops import mask_areas, mask_boxes, pack_masks
from jaxvision.structures import Instances

UNLABELLED = 255
"""Value of a semantic map where no class is given."""


def truth_of(batch: Mapping[str, Any], num_things: int, max_instances: int) -> dict[str, Any]:
    """`targets`, `Instances` with masks, and `semantic` uint8 [B, H, W] of a batch with `panoptic` maps.

    Boxes are tight, crowds are marked, `area` is in pixels of the original. Things of which nothing is to be seen are
    no instances. What has no segment is 255 in `semantic`; crowds have their class.

    Args:
      batch: `panoptic`, `segment_labels`, `segment_crowd`, `segment_valid` and `to_original` of `data.collate`.
      num_things: classes below are things.
      max_instances: rows of `targets` at most; things of an image beyond are left out.

    Raises:
      ValueError: a batch without panoptic maps.
    """
    if "panoptic" not in batch:
        raise ValueError(
            "the data have no panoptic maps: take a source that has them, such as 'coco_panoptic' or "
            "dict(name='digit_scenes', annotations=('panoptic',))"
        )

    def one(panoptic: Array, labels: Array, crowd: Array, valid: Array, area: Array) -> tuple[Instances, Array]:
        thing = valid & (labels < num_things)
        rows = jnp.argsort(~thing, stable=True)[:max_instances].astype(jnp.int32)
        numbers = jnp.where(thing[rows], rows + 1, -1)
        masks = jax.lax.map(lambda number: pack_masks(panoptic == number), numbers)
        pixels = mask_areas(masks)
        real = pixels > 0
        targets = Instances(
            boxes=mask_boxes(masks),
            labels=jnp.where(real, labels[rows], 0),
            valid=real,
            crowd=real & crowd[rows],
            area=pixels * area,
            masks=masks,
        )
        classes = jnp.append(jnp.where(valid, labels, UNLABELLED), UNLABELLED).astype(jnp.uint8)
        known = (panoptic > 0) & (panoptic <= labels.shape[0])
        return targets, classes[jnp.where(known, panoptic - 1, labels.shape[0])]

    names = ("panoptic", "segment_labels", "segment_crowd", "segment_valid")
    columns = [*(jnp.asarray(batch[name]) for name in names), pixel_areas(batch["to_original"])]
    targets, semantic = jax.vmap(one)(*columns)
    return {"targets": targets, "semantic": semantic}


def pixel_areas(to_original: Float[Array, "b 3 3"]) -> Float[Array, " b"]:
    """Pixels of the original image in one of the canvas."""
    a, b, c, d = (to_original[:, i, j].astype(jnp.float32) for i in (0, 1) for j in (0, 1))
    return jnp.abs(a * d - b * c)
