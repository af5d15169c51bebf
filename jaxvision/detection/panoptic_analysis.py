"""What is told of panoptic predictions: the quality of their classes, and what each kind of error costs of it.

Segments are judged as detections are in `errors`, by the IoU of their pixels where there is a truth, at 0.5. What an
error costs is the rise of PQ when all of its kind are mended: a segment of a wrong class gets that of its object, one
that is localised badly the mean IoU of the right ones, others are taken away; missed objects no longer count. Right
segments whose outlines are `imprecise` cost what PQ lacks of RQ.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxvision.detection import errors
from jaxvision.detection.analysis import Detector, names_of, tell_curves
from jaxvision.detection.errors import CAUSES, Overlaps
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
from jaxvision.ops import to_size
from jaxvision.structures import PanopticSegments

IOU = float(np.nextafter(0.5, 1))
"""From which on segments match: above 0.5 (Kirillov et al. 2019), so that no two can match one."""
IMPRECISE = "imprecise"
ANY_SCORE = -1.0


def analyses(task: Detector, settings: Settings) -> dict[str, Analysis]:
    """The views; see `Task.analyses`."""
    return {
        "classes": Analysis(lambda results, kept: tell_classes(task, results)),
        "precision_recall": Analysis(lambda results, kept: tell_curves(task, results)),
        "confusion": Analysis(lambda results, kept: tell_confusion(task, kept), segments),
        "errors": Analysis(lambda results, kept: tell_errors(task, kept), segments),
    }


def image_score() -> ImageScore:
    """The panoptic quality of an image, of all its segments together."""
    return ImageScore(
        "panoptic quality of its segments",
        lambda sample, found: errors.quality(segments(sample, found), IOU, ANY_SCORE),
    )


def segments(sample: Sample, prediction: PanopticSegments) -> Overlaps:
    """Predicted segments against true ones, all of them of score 1.

    Args:
      sample: `panoptic`, `segment_labels` and perhaps `segment_crowd`, in pixels of the image.
      prediction: of the task.
    """
    if "panoptic" not in sample:
        raise ValueError("the sample has no panoptic map, against which the prediction could be held")
    assert prediction.to_original is not None
    truth = np.asarray(sample["panoptic"], np.int64)
    height, width = truth.shape
    moved = to_size(np.asarray(prediction.panoptic), np.asarray(prediction.to_original), (height, width))
    found = np.asarray(moved, np.int64)
    labels = np.asarray(sample["segment_labels"], np.int64)
    crowd = np.asarray(sample.get("segment_crowd", np.zeros(len(labels), bool)), bool)
    numbers = np.unique(found[found > 0])
    columns = len(prediction.labels) + 1
    common = np.bincount((truth * columns + found).ravel(), minlength=(len(labels) + 1) * columns)
    common = common.reshape(-1, columns)[: len(labels) + 1]
    area, true_area = common.sum(axis=0)[numbers], common.sum(axis=1)[1:]
    shared = common[1:, numbers].T.astype(np.float64)
    union = area[:, None] + true_area[None] - shared - common[0, numbers][:, None]
    iou = shared / np.maximum(union, 1)
    inside = (shared + common[0, numbers][:, None]) / np.maximum(area, 1)[:, None]
    own = np.asarray(prediction.labels, np.int64)[numbers - 1]
    return Overlaps(np.ones(len(own)), own, labels[~crowd], iou[:, ~crowd], labels[crowd], inside[:, crowd])


def tell_classes(task: Detector, results: Mapping[str, Any]) -> Findings:
    """PQ, SQ and RQ of each class, and the average precision of things."""
    from jaxvision.visualization.bars import dots_figure
    from jaxvision.visualization.canvas import render

    named = {"pq": "PQ", "sq": "SQ", "rq": "RQ", "ap": "AP", "mask_ap": "mask AP"}
    columns = {}
    for name, text in named.items():
        if f"{name}_per_class" in results:
            values = np.asarray(results[f"{name}_per_class"], np.float64)
            columns[text] = np.append(values, np.full(task.num_classes - len(values), np.nan))
    names = names_of(task, task.num_classes)
    lines, told = class_table(names, columns)
    shown = {name: column for name, column in columns.items() if name in ("PQ", "SQ", "RQ")} or columns
    return Findings(lines, told, {"classes.png": render(dots_figure(names, shown, "Scores of each class"))})


def tell_confusion(task: Detector, kept: Sequence[Overlaps]) -> Findings:
    """Which class of segments was taken for which."""
    from jaxvision.visualization.canvas import render
    from jaxvision.visualization.confusion import confusion_figure

    matrix = errors.confusion(kept, task.num_classes, IOU, ANY_SCORE)
    names = [*names_of(task, task.num_classes), "no segment"]
    right, found = int(np.trace(matrix[:-1, :-1])), int(matrix[:-1, :-1].sum())
    counted = f"{right:,} right, {found - right:,} of a wrong class, "
    counted += f"{int(matrix[:-1, -1].sum()):,} missed, {int(matrix[-1].sum()):,} false"
    told = {"classes": names, "matrix": matrix, "iou": IOU}
    picture = render(confusion_figure(matrix, names, f"Segments at IoU {IOU:g}\n{counted}"))
    lines = [f"segments at IoU {IOU:g}: {counted}", *confused_lines(matrix, names)]
    return Findings(lines, told, {"confusion_matrix.png": picture})


def tell_errors(task: Detector, kept: Sequence[Overlaps]) -> Findings:
    """What each kind of error costs of PQ."""
    from jaxvision.visualization.bars import bars_figure
    from jaxvision.visualization.canvas import render

    quality, counts, costs = breakdown(kept, task.num_classes)
    rows: list[list[Any]] = [[name, counts[name], 100 * cost] for name, cost in costs.items()]
    lines = [f"PQ {100 * quality:.2f}", *table(["cause", "segments", "PQ it costs"], rows, digits=2)]
    texts = [f"{cost:.2f}  ({count:,})" for _, count, cost in rows]
    title = f"What errors of segments cost\nPQ {100 * quality:.2f}; in brackets: segments"
    figure = bars_figure([row[0] for row in rows], np.array([row[2] for row in rows]), title, "points of PQ", texts)
    return Findings(lines, {"pq": quality, "counts": counts, "costs": costs}, {"errors.png": render(figure)})


def breakdown(images: Sequence[Overlaps], num_classes: int) -> tuple[float, dict[str, int], dict[str, float]]:
    """PQ (0..1, mean over the classes that occur), the errors of each cause, and what they cost; see above."""
    sums = {name: np.zeros(num_classes) for name in ("iou", "matched", "false", "missed")}
    changes = {cause: {name: np.zeros(num_classes) for name in sums} for cause in CAUSES}
    counts = {IMPRECISE: 0, **dict.fromkeys(CAUSES, 0)}
    for image in images:
        verdicts, lost, missed = errors.judged(image, IOU)
        np.add.at(sums["missed"], image.truth[lost], 1)
        np.add.at(changes["missed"]["missed"], image.truth[missed], -1)
        counts["missed"] += int(missed.sum())
        for own in verdicts:
            label = image.labels[own.detection]
            if own.cause < 0:
                iou = image.iou[own.detection, own.object]
                sums["iou"][label] += iou
                sums["matched"][label] += 1
                counts[IMPRECISE] += iou < 1
                continue
            cause = CAUSES[own.cause]
            counts[cause] += 1
            sums["false"][label] += 1
            changes[cause]["false"][label] -= 1
            if own.mends:
                true, iou = image.truth[own.object], image.iou[own.detection, own.object]
                changes[cause]["missed"][true] -= 1
                changes[cause]["matched"][true] += 1
                changes[cause]["iou"][true] += iou if cause == "classification" else np.nan
    mean = sums["iou"].sum() / max(1.0, sums["matched"].sum())
    seen = sums["matched"] + sums["false"] + sums["missed"] > 0

    def quality(found: Mapping[str, np.ndarray]) -> float:
        counted = found["matched"] + (found["false"] + found["missed"]) / 2
        values = np.where(counted > 0, found["iou"] / np.maximum(counted, 0.5), 1.0)
        return float(values[seen].mean()) if seen.any() else float("nan")

    now = quality(sums)
    costs = {IMPRECISE: quality({**sums, "iou": sums["matched"]}) - now}
    for cause, change in changes.items():
        gained = np.where(np.isnan(change["iou"]), mean * change["matched"], change["iou"])
        costs[cause] = max(0.0, quality({**{n: sums[n] + change[n] for n in sums}, "iou": sums["iou"] + gained}) - now)
    return now, {name: int(count) for name, count in counts.items()}, costs
