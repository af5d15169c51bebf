"""One set of detections from those of several views of an image: test-time augmentation."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxvision.ops import nms, weighted_boxes_fusion
from jaxvision.registry import hint
from jaxvision.structures import Detections

MERGES = ("nms", "wbf")


def merge_detections(parts: Sequence[Mapping[str, Array]], merge: str, iou_threshold: float) -> Detections:
    """The best detections of all views, as many of an image as its first view has.

    Args:
      parts: the fields of each view's `Detections`, of a batch, with boxes in the same coordinates.
      merge: "nms": of boxes of one class that overlap more than `iou_threshold` the best one stays, as it is, with its
        mask (OpenMMLab's test-time augmentation); "wbf": they become one box, see `ops.weighted_boxes_fusion`.

    Raises:
      ValueError: an unknown `merge`; masks, which lie in boxes of their own, and "wbf".
    """
    if merge not in MERGES:
        raise ValueError(f"tta: merge={merge!r} merges arrays, not boxes: {hint(merge, MERGES)}")
    if merge == "wbf" and "masks" in parts[0]:
        raise ValueError('tta: merge="wbf" has no masks for the boxes that it makes: take "nms"')
    count = parts[0]["boxes"].shape[1]
    every = {name: jnp.concatenate([part[name] for part in parts], axis=1) for name in parts[0]}

    def fused(found: Mapping[str, Array]) -> Detections:
        boxes, scores, labels, valid = weighted_boxes_fusion(
            found["boxes"],
            found["scores"],
            sources=len(parts),
            iou_threshold=iou_threshold,
            max_outputs=count,
            labels=found["labels"],
            valid=found["valid"],
        )
        return Detections(boxes, scores, labels, valid)

    def suppressed(found: Mapping[str, Array]) -> Detections:
        rows, valid = nms(
            found["boxes"],
            found["scores"],
            iou_threshold=iou_threshold,
            max_outputs=count,
            labels=found["labels"],
            valid=found["valid"],
        )

        def kept(values: Array) -> Array:
            taken = values[rows]
            return jnp.where(valid.reshape(-1, *[1] * (taken.ndim - 1)), taken, jnp.zeros_like(taken))

        fields = {name: kept(values) for name, values in found.items() if name != "valid"}
        return Detections(**fields, valid=valid)

    return jax.vmap(fused if merge == "wbf" else suppressed)(every)
