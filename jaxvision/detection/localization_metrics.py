"""Accuracy of localisation by the protocol of ImageNet: is one of the first guesses of an image right?"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxvision.detection.geometry import to_original
from jaxvision.ops import box_iou
from jaxvision.structures import Detections


@dataclasses.dataclass(frozen=True)
class LocalizationAccuracy:
    """Share of the images in which a guess has the class of an object and overlaps that object (Russakovsky et al.
    2015, arXiv:1409.0575, section 4.2: 1 - the localisation error).

    `localization_top1` and `localization_top5`: of the best one and of the best five detections. Images without an
    object that counts (crowds and difficult ones do not) are left out.

    Attributes:
      iou_threshold: a guess overlaps an object by more than this.
    """

    iou_threshold: float = 0.5

    def update(self, predictions: Detections, batch: Mapping[str, Any]) -> dict[str, Array]:
        targets = batch["targets"]
        truth = to_original(targets.boxes, batch)
        real = targets.valid & ~targets.crowd
        same = predictions.labels[:, :, None] == targets.labels[:, None, :]
        near = box_iou(predictions.boxes.astype(jnp.float32), truth) > self.iou_threshold
        hit = jnp.any(same & near & predictions.valid[:, :, None] & real[:, None, :], axis=-1)
        counted = batch["valid"] & jnp.any(real, axis=-1)

        def images(right: Array) -> Array:
            return jnp.sum(right & counted, dtype=jnp.float32)

        return {
            "top1": images(jnp.any(hit[:, :1], axis=-1)),
            "top5": images(jnp.any(hit[:, :5], axis=-1)),
            "count": images(counted),
        }

    def compute(self, state: Mapping[str, Any]) -> dict[str, Any]:
        count = float(state["count"])
        share = {name: float(np.asarray(state[name])) / count if count else float("nan") for name in ("top1", "top5")}
        return {f"localization_{name}": value for name, value in share.items()}
