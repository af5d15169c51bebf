"""Average precision of instance masks by the protocol of COCO, in pixels of the original images.

Masks of a whole data set are too large for a table: each batch's are put into run lengths as it comes.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Array, Bool

from jaxvision.detection.metrics import Batch, Rows, coco_results, coco_truth, gathered
from jaxvision.ops import paste_masks_on_host, to_size, unpack_masks
from jaxvision.structures import Detections


@dataclasses.dataclass(frozen=True)
class CocoMaskAP:
    """Average precision of masks as pycocotools computes it: `mask_ap`, `mask_ap50`, ..., named as those of `CocoAP`.

    Truth is what the canvas shows of an object, enlarged or shrunk to the original image.

    Attributes:
      num_classes: of the model.
      threshold: probability from which on a pixel belongs to a mask.
    """

    num_classes: int
    threshold: float = 0.5

    def select(self, predictions: Detections, batch: Batch) -> dict[str, Array]:
        if predictions.masks is None or batch["targets"].masks is None:
            whose = "predictions" if predictions.masks is None else "targets"
            raise ValueError(f"the {whose} have no masks: take 'coco_masks' out of task.protocols, or add masks")
        return {
            **gathered(predictions, batch),
            "masks": predictions.masks,
            "truth_masks": batch["targets"].masks,
            "canvas_width": np.full(batch["image"].shape[0], batch["image"].shape[2], np.int32),
            "to_original": batch["to_original"],
            "original_size": batch["original_size"],
        }

    def condense(self, rows: Rows) -> dict[str, np.ndarray]:
        """Rows of a batch with masks as run lengths, a list for each image."""
        kept = {name: value for name, value in rows.items() if name not in ("masks", "truth_masks", "to_original")}
        found, truth = (np.empty(len(rows["valid"]), object) for _ in range(2))
        for i, size in enumerate(rows["original_size"]):
            own = rows["valid"][i]
            pasted = paste_masks_on_host(
                rows["masks"][i, own], rows["boxes"][i, own], tuple(size), threshold=self.threshold
            )
            real = rows["truth_valid"][i]
            masks = unpack_masks(rows["truth_masks"][i, real], int(rows["canvas_width"][i]))
            found[i], truth[i] = encoded(pasted), encoded(to_size(masks, rows["to_original"][i], tuple(size)))
        return {**kept, "found_runs": found, "truth_runs": truth}

    def compute_all(self, rows: Rows) -> dict[str, Any]:
        truth = coco_truth(rows, self.num_classes)
        every = [runs for own in rows["truth_runs"] for runs in own]
        for annotation, runs in zip(truth.dataset["annotations"], every, strict=True):
            annotation["segmentation"] = runs
        for image, (height, width) in zip(truth.dataset["images"], rows["original_size"], strict=True):
            image["height"], image["width"] = int(height), int(width)
        found = [
            {
                "image_id": i,
                "category_id": int(rows["labels"][i, j]) + 1,
                "score": float(rows["scores"][i, j]),
                "segmentation": runs,
            }
            for i in range(len(rows["valid"]))
            for runs, j in zip(rows["found_runs"][i], np.flatnonzero(rows["valid"][i]), strict=True)
        ]
        results = coco_results(truth, found, "segm", self.num_classes)
        return {f"mask_{name}": value for name, value in results.items()}


def encoded(masks: Bool[np.ndarray, "n h w"]) -> list[Mapping[str, Any]]:
    """Run lengths of each mask."""
    from pycocotools import mask as coco

    return [coco.encode(np.asfortranarray(mask, np.uint8)) for mask in masks]
