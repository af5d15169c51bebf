"""Average precision by the protocols of COCO (pycocotools) and of PASCAL VOC, from gathered detections.

All work in pixels of the original images. Crowds (COCO) and difficult objects (VOC) are neither hit nor miss.
"""

import contextlib
import dataclasses
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Array, Float

from jaxvision.detection.geometry import to_original
from jaxvision.structures import Detections

Batch = Mapping[str, Any]
Rows = Mapping[str, np.ndarray]
AREAS = ("all", "small", "medium", "large")
PER_IMAGE = (1, 10, 100)
PROPOSALS = (100, 300, 1000)


def gathered(predictions: Detections, batch: Batch) -> dict[str, Array]:
    """Detections and truth of each image in pixels of the original, for `HostMetric.select`."""
    targets = batch["targets"]
    return {
        **{name: getattr(predictions, name) for name in ("boxes", "scores", "labels", "valid")},
        "truth_boxes": to_original(targets.boxes, batch),
        "truth_labels": targets.labels,
        "truth_valid": targets.valid,
        "truth_crowd": targets.crowd,
        "truth_area": targets.area,
    }


@dataclasses.dataclass(frozen=True)
class CocoAP:
    """Average precision of boxes as pycocotools computes it.

    `ap` (mean over classes and IoU 0.50:0.95), `ap50`, `ap75`, `ap_small`, `ap_medium`, `ap_large`, `ar1`, `ar10`,
    `ar100`, `ar_small`, `ar_medium`, `ar_large`, and of each class `ap_per_class`, `ap50_per_class` and
    `precision_curves` [classes, 101], the precision at IoU 0.50 and recall 0, 0.01, ..., 1 (nan for those without an
    object). What no object allows to compute (objects of a size that there are none of) is left out.

    Attributes:
      num_classes: of the model.
    """

    num_classes: int

    def select(self, predictions: Detections, batch: Batch) -> dict[str, Array]:
        return gathered(predictions, batch)

    def compute_all(self, rows: Rows) -> dict[str, Any]:
        return coco_results(coco_truth(rows, self.num_classes), _coco_boxes(rows), "bbox", self.num_classes)


def coco_results(truth: Any, found: Any, kind: str, num_classes: int) -> dict[str, Any]:
    """What pycocotools says of detections, named as in `CocoAP`.

    Args:
      truth: of `coco_truth`; for masks with the `segmentation` of each annotation and the size of each image.
      found: what `COCO.loadRes` takes: rows of boxes, or a list of records.
      kind: "bbox" or "segm".
    """
    evaluation = _evaluated(truth, found, kind, maxDets=list(PER_IMAGE))
    precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]
    results: dict[str, Any] = {}
    for name, values in _summaries(precision, recall).items():
        if (known := values[values > -1]).size:
            results[name] = float(known.mean())
    results.setdefault("ap", float("nan"))
    per_class = {"ap_per_class": precision[:, :, :, 0, -1], "ap50_per_class": precision[:1, :, :, 0, -1]}
    for name, values in per_class.items():
        by_class = np.moveaxis(values, 2, 0).reshape(num_classes, -1)
        seen = (by_class > -1).all(axis=1)
        results[name] = np.where(seen, by_class.mean(axis=1), np.nan)
    curves = precision[0, :, :, 0, -1].T
    results["precision_curves"] = np.where(curves > -1, curves, np.nan)
    return results


def _evaluated(truth: Any, found: Any, kind: str, **params: Any) -> Any:
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        evaluation = COCOeval(truth, truth.loadRes(found) if len(found) else _nothing(truth), kind)
        for name, value in params.items():
            setattr(evaluation.params, name, value)
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


@dataclasses.dataclass(frozen=True)
class ProposalRecall:
    """Average recall of class-agnostic proposals as pycocotools computes it, over IoU 0.50:0.95.

    `proposal_ar100`, `proposal_ar300`, `proposal_ar1000` (with so many proposals of each image) and, with 1000 of them,
    `proposal_ar_small`, `proposal_ar_medium`, `proposal_ar_large`, and the recall at an IoU of 0.5,
    `proposal_recall50`. What no object allows to compute is left out.
    """

    def select(self, predictions: Detections, batch: Batch) -> dict[str, Array]:
        return gathered(predictions, batch)

    def compute_all(self, rows: Rows) -> dict[str, Any]:
        one_class = {**rows, **{name: np.zeros_like(rows[name]) for name in ("labels", "truth_labels")}}
        truth = coco_truth(one_class, 1)
        evaluation = _evaluated(truth, _coco_boxes(one_class), "bbox", maxDets=list(PROPOSALS), useCats=0)
        recall = evaluation.eval["recall"]
        values = {f"proposal_ar{count}": recall[:, :, 0, i] for i, count in enumerate(PROPOSALS)}
        values |= {f"proposal_ar_{area}": recall[:, :, i, -1] for i, area in enumerate(AREAS) if i}
        values["proposal_recall50"] = recall[0, :, 0, -1]
        results = {name: float(each[each > -1].mean()) for name, each in values.items() if (each > -1).any()}
        results.setdefault(f"proposal_ar{PROPOSALS[-1]}", float("nan"))
        return results


def _summaries(precision: np.ndarray, recall: np.ndarray) -> dict[str, np.ndarray]:
    """Values to average: precision is [iou, recall, class, area, detections], recall the same without `recall`."""
    values = {"ap": precision[:, :, :, 0, -1], "ap50": precision[0, :, :, 0, -1], "ap75": precision[5, :, :, 0, -1]}
    values |= {f"ap_{area}": precision[:, :, :, i, -1] for i, area in enumerate(AREAS) if i}
    values |= {f"ar{count}": recall[:, :, 0, i] for i, count in enumerate(PER_IMAGE)}
    return values | {f"ar_{area}": recall[:, :, i, -1] for i, area in enumerate(AREAS) if i}


def coco_truth(rows: Rows, num_classes: int) -> Any:
    """Truth as pycocotools' object; annotations in the order of the valid rows."""
    from pycocotools.coco import COCO

    images = len(rows["valid"])
    image, place = np.nonzero(rows["truth_valid"])
    boxes = _xywh(rows["truth_boxes"][image, place])
    annotations = [
        {
            "id": number + 1,
            "image_id": int(i),
            "category_id": int(rows["truth_labels"][i, j]) + 1,
            "bbox": box.tolist(),
            "area": float(rows["truth_area"][i, j]),
            "iscrowd": int(rows["truth_crowd"][i, j]),
        }
        for number, (i, j, box) in enumerate(zip(image, place, boxes, strict=True))
    ]
    truth = COCO()
    truth.dataset = {
        "info": {},
        "images": [{"id": i} for i in range(images)],
        "categories": [{"id": i + 1} for i in range(num_classes)],
        "annotations": annotations,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
    return truth


def _coco_boxes(rows: Rows) -> Float[np.ndarray, "n 7"]:
    """Detections: image, x, y, width, height, score, category."""
    image, place = np.nonzero(rows["valid"])
    scores, labels = rows["scores"][image, place], rows["labels"][image, place] + 1
    columns = image[:, None], _xywh(rows["boxes"][image, place]), scores[:, None], labels[:, None]
    return np.concatenate([column.astype(np.float64) for column in columns], axis=1)


def _nothing(truth: Any) -> Any:
    """A result without detections, which pycocotools cannot load."""
    from pycocotools.coco import COCO

    empty = COCO()
    empty.dataset = {**truth.dataset, "annotations": []}
    empty.createIndex()
    return empty


@dataclasses.dataclass(frozen=True)
class VocAP:
    """Mean average precision at one IoU, as the PASCAL VOC development kits have it.

    `voc_ap` and `voc_ap_per_class`, or with `points` `voc07_ap` and `voc07_ap_per_class` (nan for classes without an
    object).

    Attributes:
      num_classes: of the model.
      points: mean of the precision at the 11 recalls 0, 0.1, ..., 1 (VOC 2007), not the area under the curve (2010 on).
      iou_threshold: from which on a detection finds an object.
    """

    num_classes: int
    points: bool = False
    iou_threshold: float = 0.5

    def select(self, predictions: Detections, batch: Batch) -> dict[str, Array]:
        return gathered(predictions, batch)

    def compute_all(self, rows: Rows) -> dict[str, Any]:
        per_class = np.array([self._class_precision(rows, label) for label in range(self.num_classes)])
        known = per_class[~np.isnan(per_class)]
        name = "voc07_ap" if self.points else "voc_ap"
        return {name: float(known.mean()) if known.size else float("nan"), f"{name}_per_class": per_class}

    def _class_precision(self, rows: Rows, label: int) -> float:
        truth = rows["truth_valid"] & (rows["truth_labels"] == label)
        total = int((truth & ~rows["truth_crowd"]).sum())
        if not total:
            return float("nan")
        image, place = np.nonzero(rows["valid"] & (rows["labels"] == label))
        order = np.argsort(-rows["scores"][image, place], kind="stable")
        image, place = image[order], place[order]
        taken = np.zeros_like(truth)
        hit, miss = np.zeros(len(image)), np.zeros(len(image))
        for number, (i, j) in enumerate(zip(image, place, strict=True)):
            own = np.flatnonzero(truth[i])
            overlap = _overlaps(rows["boxes"][i, j], rows["truth_boxes"][i, own])
            best = int(own[overlap.argmax()]) if len(own) else -1
            if best < 0 or overlap.max() < self.iou_threshold:
                miss[number] = 1
            elif not rows["truth_crowd"][i, best]:
                hit[number], miss[number] = not taken[i, best], taken[i, best]
                taken[i, best] = True
        recall = np.cumsum(hit) / total
        precision = np.cumsum(hit) / np.maximum(np.cumsum(hit) + np.cumsum(miss), 1e-12)
        if self.points:
            best_beyond = [precision[recall >= point].max(initial=0.0) for point in np.arange(11) / 10]
            return float(np.mean(best_beyond))
        steps = np.concatenate([[0.0], recall, [1.0]])
        ceiling = np.concatenate([[0.0], precision, [0.0]])
        ceiling = np.maximum.accumulate(ceiling[::-1])[::-1]
        return float(np.sum(np.diff(steps) * ceiling[1:]))


def _xywh(boxes: Float[np.ndarray, "n 4"]) -> Float[np.ndarray, "n 4"]:
    boxes = np.asarray(boxes, np.float64)
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def _overlaps(box: Float[np.ndarray, " 4"], others: Float[np.ndarray, "n 4"]) -> Float[np.ndarray, " n"]:
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    common = np.prod(np.maximum(high - low, 0), axis=1)
    whole = np.prod(box[2:] - box[:2]) + np.prod(others[:, 2:] - others[:, :2], axis=1) - common
    return common / np.maximum(whole, 1e-12)
