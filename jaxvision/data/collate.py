"""From samples on a canvas to a batch: stacked, padded, with masks of what is real.

A batch holds, each with a leading axis of the batch,

- `image` uint8 `[H, W, C]`; `size` float32 `[2]`, height and width of the picture on the canvas, which lies in its top
  left corner; `original_size` int32 `[2]`; `to_original` float32 `[3, 3]`, from canvas to original pixels (x, y, 1);
- `label` int32, or float32 `[classes]`;
- `targets`: `structures.Instances`, `max_instances` rows;
- `proposals`: `structures.Proposals`, as many rows as the samples have;
- `semantic` uint8 `[H, W]`; `semantic_original` uint8 `[OH, OW]`, the same map as it was annotated, in the top left
  corner of a canvas of its own, 255 beside it (`data.original`);
- `panoptic` int32 `[H, W]` with `segment_labels` int32 and `segment_crowd`, `segment_valid`
  bool `[max_segments]`;

each where the samples have it. Canvas geometry is that of the sample: `size`, `original_size` and `to_original` are
among its keys; without them the picture is taken as it is.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxvision.data.samples import INSTANCE_KEYS, Sample
from jaxvision.ops.masks import pack_masks
from jaxvision.structures import Instances, Proposals

GEOMETRY = ("size", "original_size", "to_original")


def collate(samples: Sequence[Sample], *, max_instances: int = 100, max_segments: int = 200) -> dict[str, Any]:
    """A batch of samples whose images are of one size.

    Rows beyond `max_instances` are left out; `dropped_instances` counts them.
    """
    first = samples[0]
    batch: dict[str, Any] = {"image": np.stack([sample["image"] for sample in samples])}
    geometry = [_geometry(sample) for sample in samples]
    batch |= {key: np.stack([one[key] for one in geometry]) for key in GEOMETRY}
    if "label" in first:
        labels = [sample["label"] for sample in samples]
        batch["label"] = np.stack(labels) if np.ndim(labels[0]) else np.asarray(labels, np.int32)
    if "boxes" in first:
        batch["targets"] = _instances(samples, max_instances)
    if "proposals" in first:
        batch["proposals"] = _proposals(samples)
    for key in ("semantic", "semantic_original", "panoptic"):
        if key in first:
            batch[key] = np.stack([sample[key] for sample in samples])
    if "panoptic" in first:
        for key, dtype in (("segment_labels", np.int32), ("segment_crowd", bool)):
            batch[key] = np.stack([_padded(sample[key], max_segments, dtype) for sample in samples])
        batch["segment_valid"] = np.stack(
            [np.arange(max_segments) < len(sample["segment_labels"]) for sample in samples]
        )
    return batch


def dropped_instances(samples: Sequence[Sample], max_instances: int) -> int:
    """Objects that `collate` leaves out."""
    return sum(max(0, len(sample["labels"]) - max_instances) for sample in samples if "labels" in sample)


def _geometry(sample: Sample) -> dict[str, np.ndarray]:
    size = sample["image"].shape[:2]
    return {
        "size": np.asarray(sample.get("size", size), np.float32),
        "original_size": np.asarray(sample.get("original_size", size), np.int32),
        "to_original": np.asarray(sample.get("to_original", np.eye(3)), np.float32),
    }


def _instances(samples: Sequence[Sample], rows: int) -> Instances:
    def column(key: str, values: list[np.ndarray], dtype: Any) -> np.ndarray:
        return np.stack([_padded(value, rows, dtype) for value in values])

    columns: dict[str, Any] = {}
    for key in INSTANCE_KEYS:
        if key in samples[0] and key != "texts":
            values = [sample[key] for sample in samples]
            if key == "masks":
                values = [pack_masks(value) for value in values]
            dtype = {"labels": np.int32, "crowd": bool, "masks": np.uint8}.get(key, np.float32)
            columns[key] = column(key, values, dtype)
    boxes = columns["boxes"]
    counts = np.asarray([len(sample["labels"]) for sample in samples])
    columns["valid"] = np.arange(rows)[None] < counts[:, None]
    columns.setdefault("crowd", np.zeros(boxes.shape[:2], bool))
    sides = boxes[..., 2:] - boxes[..., :2]
    columns.setdefault("area", np.where(columns["valid"], sides[..., 0] * sides[..., 1], 0.0).astype(np.float32))
    return Instances(**columns)


def _proposals(samples: Sequence[Sample]) -> Proposals:
    boxes = np.stack([np.asarray(sample["proposals"], np.float32) for sample in samples])
    valid = np.all(boxes[..., 2:] > boxes[..., :2], axis=-1)
    return Proposals(np.where(valid[..., None], boxes, np.float32(0)), valid)


def _padded(values: np.ndarray, rows: int, dtype: Any) -> np.ndarray:
    values = np.asarray(values, dtype)
    padded = np.zeros((rows, *values.shape[1:]), dtype)
    padded[: min(rows, len(values))] = values[:rows]
    return padded
