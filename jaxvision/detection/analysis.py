"""What is told of a detector: scores and errors of its classes, of boxes and, where it has them, of masks."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from jaxtyping import Bool, Float

from jaxvision.data.run_lengths import encode_masks
from jaxvision.detection import errors
from jaxvision.detection.errors import MOST, Overlaps
from jaxvision.engine.analysis import (
    Analysis,
    Findings,
    ImageScore,
    Sample,
    Settings,
    class_table,
    confused_lines,
    table,
)
from jaxvision.ops import paste_masks_on_host
from jaxvision.structures import Detections

KINDS = {"": "boxes", "mask_": "masks"}
"""Start of the names of results -> what they are of."""
SCORES = {"ap": "AP", "ap50": "AP50"}
Kept = Mapping[str, Overlaps]
"""Of an image: "boxes", and perhaps "masks" -> detections against objects."""


class Detector(Protocol):
    """What is asked of `DetectionTask`."""

    @property
    def num_classes(self) -> int: ...

    @property
    def show_above(self) -> float: ...

    def name_of(self, label: int) -> str: ...


def analyses(task: Detector, settings: Settings) -> dict[str, Analysis]:
    """The views of detections; see `Task.analyses`."""
    return {
        "classes": Analysis(lambda results, kept: tell_classes(task, results)),
        "precision_recall": Analysis(lambda results, kept: tell_curves(task, results)),
        "confusion": Analysis(lambda results, kept: tell_confusion(task, kept, settings), overlaps),
        "errors": Analysis(lambda results, kept: tell_errors(task, kept, settings), overlaps),
    }


def image_score(task: Detector, iou: float = 0.5) -> ImageScore:
    """The quality of the boxes of an image, see `errors.quality`."""

    def of(sample: Sample, prediction: Detections) -> float:
        return errors.quality(overlaps(sample, prediction)["boxes"], iou, task.show_above)

    return ImageScore(f"quality of its boxes at IoU {iou:g} and scores above {task.show_above:g}", of)


def overlaps(sample: Sample, prediction: Detections) -> Kept:
    """The best `MOST` detections of an image against its objects, by boxes and, where both have them, by masks.

    Args:
      sample: `boxes`, `labels` and perhaps `crowd` and `masks`, in pixels of the image.
      prediction: in the same pixels.
    """
    if "boxes" not in sample or "labels" not in sample:
        raise ValueError("the sample has no boxes with labels, against which detections could be held")
    order = np.argsort(-np.where(prediction.valid, prediction.scores, -1.0), kind="stable")
    order = order[: min(MOST, int(np.sum(prediction.valid)))]
    labels = np.asarray(sample["labels"])
    crowd = np.asarray(sample.get("crowd", np.zeros(len(labels), bool)), bool)
    boxes = np.asarray(prediction.boxes, np.float64)[order]
    found, truth = _xywh(boxes), _xywh(np.asarray(sample["boxes"], np.float64))
    pairs = {"boxes": (list(found), list(truth))}
    if prediction.masks is not None and "masks" in sample:
        height, width = np.shape(sample["image"])[:2]
        pasted = paste_masks_on_host(np.asarray(prediction.masks)[order], boxes, (height, width))
        pairs["masks"] = (encode_masks(list(pasted)), encode_masks(list(np.asarray(sample["masks"], bool))))
    kept = {}
    for kind, (mine, theirs) in pairs.items():
        shared = shares(mine, theirs, crowd)
        given = (np.asarray(prediction.scores)[order], np.asarray(prediction.labels)[order], labels[~crowd])
        kept[kind] = Overlaps(*given, shared[:, ~crowd], labels[crowd], shared[:, crowd])
    return kept


def shares(found: list[Any], truth: list[Any], crowd: Bool[np.ndarray, " t"]) -> Float[np.ndarray, "d t"]:
    """IoU of each pair of boxes (left, top, width, height) or run lengths; with a crowd the share of the detection."""
    from pycocotools import mask as coco

    if not found or not truth:
        return np.zeros((len(found), len(truth)))
    as_is = [np.asarray(x, np.float64).tolist() if isinstance(x, np.ndarray) else x for x in found]
    other = [np.asarray(x, np.float64).tolist() if isinstance(x, np.ndarray) else x for x in truth]
    return np.asarray(coco.iou(as_is, other, crowd.astype(np.uint8).tolist()), np.float64)


def tell_classes(task: Detector, results: Mapping[str, Any]) -> Findings:
    """Average precision of each class."""
    from jaxvision.visualization.bars import dots_figure
    from jaxvision.visualization.canvas import render

    columns = {
        f"{'mask ' if start else ''}{text}": np.asarray(results[f"{start}{name}_per_class"])
        for start in KINDS
        for name, text in SCORES.items()
        if f"{start}{name}_per_class" in results
    }
    for name, text in (("voc_ap", "VOC AP"), ("voc07_ap", "VOC07 AP")):
        if f"{name}_per_class" in results:
            columns[text] = np.asarray(results[f"{name}_per_class"])
    names = names_of(task, len(next(iter(columns.values()), ())))
    lines, told = class_table(names, columns)
    return Findings(lines, told, {"classes.png": render(dots_figure(names, columns, "Scores of each class"))})


def tell_curves(task: Detector, results: Mapping[str, Any]) -> Findings:
    """Precision over recall at an IoU of 0.5."""
    from jaxvision.visualization.canvas import render
    from jaxvision.visualization.precision import precision_recall_figure

    lines, told, pictures = [], {}, {}
    for start, what in KINDS.items():
        if f"{start}precision_curves" not in results:
            continue
        precision = np.asarray(results[f"{start}precision_curves"])
        names = names_of(task, len(precision))
        figure = precision_recall_figure(precision, names, f"{what.capitalize()} of IoU 0.5")
        pictures[f"{start}precision_recall.png"] = render(figure)
        told[what] = dict(zip(names, precision, strict=True))
        rows = [[name, *row[[10, 30, 50, 70, 90]], row.mean()] for name, row in zip(names, precision, strict=True)]
        lines.append(f"{what}: precision at recalls, at an IoU of 0.5")
        lines += table(["class", "0.1", "0.3", "0.5", "0.7", "0.9", "AP50"], rows)
    if not pictures:
        raise ValueError("the metrics of this task have no precision over recall: add 'coco' to task.protocols")
    return Findings(lines, {"recall": np.linspace(0, 1, 101), "precision": told}, pictures)


def tell_confusion(task: Detector, kept: Sequence[Kept], settings: Settings) -> Findings:
    """Which class was taken for which, with a row and a column for the background."""
    from jaxvision.visualization.canvas import render
    from jaxvision.visualization.confusion import confusion_figure

    score = task.show_above if settings.score is None else settings.score
    lines, told, pictures = [], {}, {}
    for kind in _kinds(kept):
        images = [own[kind] for own in kept]
        matrix = errors.confusion(images, task.num_classes, settings.iou, score)
        names = [*names_of(task, task.num_classes), "background"]
        what = f"{kind.capitalize()} at IoU {settings.iou:g} and scores above {score:g}"
        found, right = int(matrix[:-1, :-1].sum()), int(np.trace(matrix[:-1, :-1]))
        counted = f"{right:,} right, {found - right:,} of a wrong class, "
        counted += f"{int(matrix[:-1, -1].sum()):,} missed, {int(matrix[-1].sum()):,} on background"
        lines += [f"{what}: {counted}", *confused_lines(matrix, names)]
        told[kind] = {"classes": names, "matrix": matrix, "iou": settings.iou, "score": score}
        file = "confusion_matrix.png" if kind == "boxes" else f"{kind}_confusion_matrix.png"
        pictures[file] = render(confusion_figure(matrix, names, f"{what}\n{counted}"))
    return Findings(lines, told, pictures)


def tell_errors(task: Detector, kept: Sequence[Kept], settings: Settings) -> Findings:
    """The breakdown of `errors`."""
    from jaxvision.visualization.bars import bars_figure
    from jaxvision.visualization.canvas import render

    lines, told, pictures = [], {}, {}
    for kind in _kinds(kept):
        found = errors.breakdown([own[kind] for own in kept], task.num_classes, settings.iou)
        what = f"{kind}: AP {100 * found.ap:.2f} at an IoU of {settings.iou:g}"
        rows: list[list[Any]] = [[name, found.counts[name], 100 * found.costs[name]] for name in errors.CAUSES]
        rows += [[f"all {name}", "", 100 * found.costs[name]] for name in errors.SIDES]
        lines += [what, *table(["cause", "errors", "AP it costs"], rows, digits=2)]
        lines += _classes_of(task, found)
        names = names_of(task, task.num_classes)
        told[kind] = {
            "iou": settings.iou,
            **{field: getattr(found, field) for field in ("ap", "counts", "costs")},
            "per_class": {
                name: dict(zip(errors.CAUSES, own, strict=True))
                for name, own in zip(names, found.per_class.T.tolist(), strict=True)
            },
        }
        texts = [f"{row[2]:.2f}" + (f"  ({row[1]:,})" if row[1] != "" else "") for row in rows]
        title = f"What errors of {kind} cost\nAP {100 * found.ap:.2f} at IoU {settings.iou:g}; in brackets: errors"
        figure = bars_figure([row[0] for row in rows], np.array([row[2] for row in rows]), title, "points of AP", texts)
        pictures["errors.png" if kind == "boxes" else f"{kind}_errors.png"] = render(figure)
    return Findings(lines, told, pictures)


def names_of(task: Any, count: int) -> list[str]:
    """Names of the first `count` classes."""
    return [task.name_of(i) for i in range(count)]


def _classes_of(task: Detector, found: errors.Breakdown, most: int = 10) -> list[str]:
    """The classes with most errors."""
    totals = found.per_class.sum(axis=0)
    order = [int(i) for i in np.argsort(-totals, kind="stable")[:most] if totals[i]]
    rows = [[task.name_of(i), *found.per_class[:, i].tolist()] for i in order]
    return table(["class", *errors.CAUSES], rows) if rows else []


def _kinds(kept: Sequence[Kept]) -> list[str]:
    return [kind for kind in KINDS.values() if kept and all(kind in own for own in kept)]


def _xywh(boxes: Float[np.ndarray, "n 4"]) -> Float[np.ndarray, "n 4"]:
    boxes = boxes.reshape(-1, 4)
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
