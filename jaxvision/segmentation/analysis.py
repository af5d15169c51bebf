"""What is told of a segmenter: scores of its classes, what it takes for what, and how far from boundaries it errs."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from jaxtyping import Bool, Float, Int

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

DISTANCES = (2, 4, 8, 16, 32)
"""Pixels from the nearest boundary that divide the bands."""
BANDS = ("up to 2", "2 to 4", "4 to 8", "8 to 16", "16 to 32", "beyond 32")


class Segmenter(Protocol):
    """What is asked of `SemanticSegmentationTask`."""

    @property
    def num_classes(self) -> int: ...

    def name_of(self, label: int) -> str: ...


class Kept(NamedTuple):
    """Of one image: pixels by true and by predicted class, and of each band all pixels and the wrong ones."""

    matrix: Int[np.ndarray, "c c"]
    pixels: Int[np.ndarray, " bands"]
    wrong: Int[np.ndarray, " bands"]


def analyses(task: Segmenter, settings: Settings) -> dict[str, Analysis]:
    """The views; see `Task.analyses`."""
    return {
        "classes": Analysis(lambda results, kept: tell_classes(task, results)),
        "confusion": Analysis(lambda results, kept: tell_confusion(task, results)),
        "errors": Analysis(lambda results, kept: tell_errors(task, kept), lambda s, p: look(s, p, task.num_classes)),
    }


def image_score(task: Segmenter) -> ImageScore:
    """The mean IoU over the classes that are there or were predicted."""

    def of(sample: Sample, prediction: Mapping[str, Any]) -> float:
        return mean_iou(counted(*maps_of(sample, prediction), task.num_classes))

    return ImageScore("mean IoU of its classes", of)


def mean_iou(matrix: Int[np.ndarray, "c c"]) -> float:
    """Of a confusion matrix; nan where no pixel has a class."""
    hits = np.diagonal(matrix)
    union = matrix.sum(axis=0) + matrix.sum(axis=1) - hits
    return float(np.mean(hits[union > 0] / union[union > 0])) if union.any() else float("nan")


def maps_of(sample: Sample, prediction: Mapping[str, Any]) -> tuple[Int[np.ndarray, "h w"], Int[np.ndarray, "h w"]]:
    """Truth and prediction in pixels of the original image; raises ValueError for a sample without a label map."""
    from jaxvision.segmentation.task import map_of

    if "semantic" not in sample:
        raise ValueError("the sample has no semantic map, against which the prediction could be held")
    return np.asarray(sample["semantic"]).astype(np.int64), np.asarray(map_of(prediction)).astype(np.int64)


def look(sample: Sample, prediction: Mapping[str, Any], classes: int) -> Kept:
    """Counts of one image."""
    truth, found = maps_of(sample, prediction)
    known = (truth >= 0) & (truth < classes)
    band = np.digitize(distance_to_boundary(truth, known), DISTANCES, right=True)
    pixels = np.bincount(band[known], minlength=len(BANDS))
    wrong = np.bincount(band[known & (truth != found)], minlength=len(BANDS))
    return Kept(counted(truth, found, classes), pixels, wrong)


def counted(truth: Int[np.ndarray, "h w"], found: Int[np.ndarray, "h w"], classes: int) -> Int[np.ndarray, "c c"]:
    """Pixels of each true class (rows) that were taken for each class (columns); others are not counted."""
    known = (truth >= 0) & (truth < classes) & (found >= 0) & (found < classes)
    cells = np.bincount(truth[known] * classes + found[known], minlength=classes * classes)
    return cells.reshape(classes, classes)


def distance_to_boundary(truth: Int[np.ndarray, "h w"], known: Bool[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    """Pixels from the centre of each pixel to the nearest centre of another class; infinite where there is none.

    Pixels without a class are no class of their own: towards them there is no boundary.
    """
    from scipy import ndimage

    distance = np.full(truth.shape, np.inf)
    for label in np.unique(truth[known]):
        own = known & (truth == label)
        other = known & ~own
        if other.any():
            distance[own] = ndimage.distance_transform_edt(~other)[own]
    return distance


def tell_classes(task: Segmenter, results: Mapping[str, Any]) -> Findings:
    """IoU, accuracy, Dice and precision of each class."""
    from jaxvision.visualization.bars import dots_figure
    from jaxvision.visualization.canvas import render

    named = {"iou": "IoU", "acc": "accuracy", "dice": "Dice", "precision": "precision"}
    columns = {text: np.asarray(results[f"{name}_per_class"]) for name, text in named.items()}
    true = np.asarray(results["confusion_matrix"]).sum(axis=1)
    names = names_of(task)
    lines, told = class_table(names, columns, {"pixels": true})
    shown = {name: columns[name] for name in ("IoU", "accuracy", "precision")}
    return Findings(lines, told, {"classes.png": render(dots_figure(names, shown, "Scores of each class"))})


def tell_confusion(task: Segmenter, results: Mapping[str, Any]) -> Findings:
    """The confusion matrix of pixels."""
    from jaxvision.visualization.canvas import render
    from jaxvision.visualization.confusion import confusion_figure

    matrix, names = np.asarray(results["confusion_matrix"]), names_of(task)
    right = f"{100 * np.trace(matrix) / max(1, matrix.sum()):.2f}% of {matrix.sum():,} pixels are right"
    told = {"classes": names, "matrix": matrix}
    picture = render(confusion_figure(matrix, names))
    return Findings([right, *confused_lines(matrix, names)], told, {"confusion_matrix.png": picture})


def tell_errors(task: Segmenter, kept: Sequence[Kept]) -> Findings:
    """Wrong pixels by class, and by their distance to the nearest boundary, both in pixels of the original images."""
    from jaxvision.visualization.bars import bars_figure
    from jaxvision.visualization.canvas import render

    matrix, pixels, wrong = (np.sum([own[i] for own in kept], axis=0) for i in range(3))
    hits, names, total = np.diagonal(matrix), names_of(task), max(1, int(wrong.sum()))
    missed, false = matrix.sum(axis=1) - hits, matrix.sum(axis=0) - hits
    columns = {
        "pixels": matrix.sum(axis=1),
        "missed": missed,
        "of its pixels": missed / np.maximum(1, matrix.sum(axis=1)),
        "false": false,
        "share of all errors": missed / total,
    }
    order = [int(i) for i in np.argsort(-missed, kind="stable")]
    rows = [[names[i], *(column[i] for column in columns.values())] for i in order]
    bands = [
        (name, int(n), float(w / n) if n else float("nan"), float(w / total))
        for name, n, w in zip(BANDS, pixels, wrong, strict=True)
    ]
    share = 100 * wrong.sum() / max(1, pixels.sum())
    lines = [
        f"{share:.2f}% of {int(pixels.sum()):,} pixels are wrong",
        *table(["class", *columns], rows),
        *table(["pixels from a boundary", "pixels", "wrong", "share of all errors"], bands),
        *confused_lines(matrix, names),
    ]
    rates = np.array([100 * rate for *_, rate, _ in bands])
    texts = [
        f"{rate:.1f}%  ({part:.0%})" if n else "no pixel" for (_, n, _, part), rate in zip(bands, rates, strict=True)
    ]
    title = "Wrong pixels by their distance to the nearest boundary\nin brackets: share of all errors"
    shown = order[:20]
    by_class = [f"{missed[i] / total:.1%}  ({missed[i] / max(1, matrix[i].sum()):.1%})" for i in shown]
    own = "Wrong pixels by their true class, of all errors\nin brackets: share of the class that is wrong"
    bars = bars_figure([f"{band} pixels" for band in BANDS], rates, title, "% of the pixels in the band", texts)
    of_classes = bars_figure([names[i] for i in shown], 100 * missed[shown] / total, own, "% of all errors", by_class)
    pictures = {"errors_at_boundaries.png": render(bars), "errors_of_classes.png": render(of_classes)}
    json = {
        "pixels": pixels.sum(),
        "wrong": wrong.sum(),
        "classes": [{"class": row[0], **dict(zip(columns, row[1:], strict=True))} for row in rows],
        "boundary": [{"pixels_away": a, "pixels": n, "wrong": w, "share_of_errors": e} for a, n, w, e in bands],
        "confusion": {"classes": names, "matrix": matrix},
    }
    return Findings(lines, json, pictures)


def names_of(task: Segmenter) -> list[str]:
    """Names of all classes."""
    return [task.name_of(i) for i in range(task.num_classes)]
