"""What is told of a classifier: scores of its classes, what it takes for what, how sure it is when it is wrong."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from jaxtyping import Float

from jaxvision.engine.analysis import (
    Analysis,
    Findings,
    ImageScore,
    Sample,
    Settings,
    class_table,
    confused,
    confused_lines,
    precision_at_recalls,
    table,
)

BINS = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
"""Ends of the ranges of scores of which the share that is right is told."""
PAIRS = 20
"""Most confused pairs in the picture at most."""


class Classifier(Protocol):
    """What is asked of `ClassificationTask`."""

    @property
    def num_classes(self) -> int: ...

    @property
    def multi_label(self) -> bool: ...

    def name_of(self, label: int) -> str: ...


class Kept(NamedTuple):
    """Of one sample: its truth (a label, or a row of zeros and ones) and the scores of the classes."""

    truth: np.ndarray
    scores: Float[np.ndarray, " c"]


def analyses(task: Classifier, settings: Settings) -> dict[str, Analysis]:
    """The views; see `Task.analyses`."""
    views = {
        "classes": Analysis(lambda results, kept: tell_classes(task, results)),
        "precision_recall": Analysis(lambda results, kept: tell_curves(task, kept), look),
    }
    if task.multi_label:
        return views | {"errors": Analysis(lambda results, kept: tell_label_errors(task, kept, settings), look)}
    return views | {
        "confusion": Analysis(lambda results, kept: tell_confusion(task, results)),
        "errors": Analysis(lambda results, kept: tell_errors(task, kept), look),
    }


def image_score(task: Classifier) -> ImageScore:
    """The score of the true class; with several labels the mean share that is given to what is true of each class."""

    def of(sample: Sample, prediction: Mapping[str, Any]) -> float:
        truth, scores = look(sample, prediction)
        if task.multi_label:
            return float(np.mean(np.where(truth > 0.5, scores, 1 - scores)))
        return float(scores[int(truth)]) if 0 <= int(truth) < len(scores) else float("nan")

    return ImageScore("score of what is true", of)


def look(sample: Sample, prediction: Mapping[str, Any]) -> Kept:
    """Raises ValueError for a sample without a label."""
    if "label" not in sample:
        raise ValueError("the sample has no label, against which the prediction could be held")
    return Kept(np.asarray(sample["label"]), np.asarray(prediction["scores"], np.float32))


def tell_classes(task: Classifier, results: Mapping[str, Any]) -> Findings:
    """Precision, recall and F1 of each class; with several labels also the average precision."""
    from jaxvision.visualization.bars import dots_figure
    from jaxvision.visualization.canvas import render

    named = {"f1": "F1", "precision": "precision", "recall": "recall", "average_precision": "AP"}
    columns = {
        text: np.asarray(results[f"{name}_per_class"]) for name, text in named.items() if f"{name}_per_class" in results
    }
    more = {}
    if "confusion_matrix" in results:
        more["images"] = np.asarray(results["confusion_matrix"]).sum(axis=1)
    names = names_of(task)
    lines, told = class_table(names, columns, more)
    return Findings(lines, told, {"classes.png": render(dots_figure(names, columns, "Scores of each class"))})


def tell_confusion(task: Classifier, results: Mapping[str, Any]) -> Findings:
    """The confusion matrix."""
    from jaxvision.visualization.canvas import render
    from jaxvision.visualization.confusion import confusion_figure

    if "confusion_matrix" not in results:
        raise ValueError(f"the confusion matrix of {task.num_classes} classes is too large: take the view 'errors'")
    matrix, names = np.asarray(results["confusion_matrix"]), names_of(task)
    right = f"{np.trace(matrix):,} of {matrix.sum():,} images are right"
    told = {"classes": names, "matrix": matrix}
    picture = render(confusion_figure(matrix, names))
    return Findings([right, *confused_lines(matrix, names)], told, {"confusion_matrix.png": picture})


def tell_errors(task: Classifier, kept: Sequence[Kept]) -> Findings:
    """The most confused pairs, the place of the true class, and how often sure predictions are right."""
    from jaxvision.visualization.bars import bars_figure
    from jaxvision.visualization.canvas import render

    names, scores = names_of(task), np.stack([own.scores for own in kept])
    truth = np.asarray([int(own.truth) for own in kept])
    known = (truth >= 0) & (truth < task.num_classes)
    scores, truth = scores[known], truth[known]
    taken, rows = scores.argmax(axis=1), np.arange(len(truth))
    place = (scores > scores[rows, truth][:, None]).sum(axis=1)
    wrong = taken != truth
    matrix = np.zeros((task.num_classes, task.num_classes), np.int64)
    np.add.at(matrix, (truth, taken), 1)
    second = int((wrong & (place == 1)).sum())
    lines = [
        f"{int(wrong.sum()):,} of {len(truth):,} images are wrong; of {second:,} of them the second guess is right",
        *confused_lines(matrix, names, PAIRS),
    ]
    best = scores[rows, taken]
    calibration = []
    for low, high in itertools.pairwise(BINS):
        own = (best >= low) & ((best < high) | (high == 1.0))
        if own.any():
            calibration.append((f"{low:g} to {high:g}", int(own.sum()), float((~wrong[own]).mean())))
    lines += table(["score of the best class", "images", "right"], calibration)
    found = confused(matrix, PAIRS)
    title = f"Most confused pairs\n{int(wrong.sum()):,} of {len(truth):,} images are wrong; in brackets: of the class"
    pictures = {}
    if found:
        told = [f"{names[i]} taken for {names[j]}" for i, j, *_ in found]
        texts = [f"{count:,}  ({share:.0%})" for *_, count, share in found]
        counts = np.array([count for _, _, count, _ in found])
        pictures["errors.png"] = render(bars_figure(told, counts, title, "images", texts))
    json = {
        "images": len(truth),
        "wrong": int(wrong.sum()),
        "second_guess_right": second,
        "pairs": [{"truth": names[i], "taken_for": names[j], "count": n, "share": s} for i, j, n, s in found],
        "scores": [{"range": text, "images": count, "right": right} for text, count, right in calibration],
    }
    return Findings(lines, json, pictures)


def tell_label_errors(task: Classifier, kept: Sequence[Kept], settings: Settings) -> Findings:
    """With several labels: how often each class is missed, and seen where it is not."""
    from jaxvision.visualization.bars import bars_figure
    from jaxvision.visualization.canvas import render

    threshold = 0.5 if settings.score is None else settings.score
    truth, scores = np.stack([own.truth > 0.5 for own in kept]), np.stack([own.scores for own in kept])
    seen = scores > threshold
    columns = {
        "images": truth.sum(axis=0),
        "missed": (truth & ~seen).sum(axis=0),
        "false": (~truth & seen).sum(axis=0),
    }
    total = columns["missed"] + columns["false"]
    names, order = names_of(task), np.argsort(-total, kind="stable")
    rows = [[names[i], *(int(column[i]) for column in columns.values())] for i in order]
    shown = order[:PAIRS]
    texts = [f"{columns['missed'][i]:,} missed, {columns['false'][i]:,} false" for i in shown]
    title = f"Wrong decisions at a score of {threshold:g}"
    figure = bars_figure([names[i] for i in shown], total[shown], title, "images", texts)
    told = [{"class": row[0], **dict(zip(columns, row[1:], strict=True))} for row in rows]
    return Findings(
        table(["class", *columns], rows), {"score": threshold, "classes": told}, {"errors.png": render(figure)}
    )


def tell_curves(task: Classifier, kept: Sequence[Kept]) -> Findings:
    """Precision over recall of each class against all others, by its score."""
    from jaxvision.visualization.canvas import render
    from jaxvision.visualization.precision import precision_recall_figure

    scores = np.stack([own.scores for own in kept])
    truth = np.stack([own.truth for own in kept])
    true = truth > 0.5 if task.multi_label else truth[:, None] == np.arange(task.num_classes)
    curves = np.full((task.num_classes, 101), np.nan)
    for label in np.flatnonzero(true.any(axis=0)):
        curves[label] = precision_at_recalls(scores[:, label], true[:, label], int(true[:, label].sum()))
    names = names_of(task)
    rows = [[name, *row[[10, 30, 50, 70, 90]], row.mean()] for name, row in zip(names, curves, strict=True)]
    lines = ["precision at recalls", *table(["class", "0.1", "0.3", "0.5", "0.7", "0.9", "AP"], rows)]
    told = {"recall": np.linspace(0, 1, 101), "precision": dict(zip(names, curves, strict=True))}
    figure = precision_recall_figure(curves, names, "Each class against all others")
    return Findings(lines, told, {"precision_recall.png": render(figure)})


def names_of(task: Classifier) -> list[str]:
    """Names of all classes."""
    return [task.name_of(i) for i in range(task.num_classes)]
