"""Why a detector loses average precision: each false detection and missed object gets one cause, each cause its cost.

D. Bolya, S. Foley, J. Hays, J. Hoffman: "TIDE: A General Toolbox for Identifying Object Detection Errors", ECCV 2020,
arXiv:2008.08115, section 2. With t_f = 0.5 and t_b = 0.1 a detection that finds no object is, by the first that holds,

| cause | |
|---|---|
| localisation | t_b <= IoU < t_f with an object of its class |
| classification | IoU >= t_f with an object of another class |
| duplicate | IoU >= t_f with an object of its class that a better detection has found |
| background | IoU < t_b with every object |
| both | otherwise: localised badly, and the class is wrong |

and an object is `missed` if no detection found it and no error of class or place would find it when mended. What a
cause costs is how much the AP at t_f rises when all errors of that cause are mended, and nothing else: a classification
error gets the class, a localisation error the place of its object, if that is free and no better one gets it; others
are taken away; missed objects no longer count. Costs do not add up to what is missing.

As in the authors' tool (tidecv 1.0.1), but: detections that a crowd explains are no errors; classes without an object
have no part in the mean, as in COCO; a class that has nothing left to find has an AP of 1.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxvision.engine.analysis import precision_at_recalls

BACKGROUND_IOU = 0.1
MOST = 100
"""Best detections of an image that count, as in COCO."""
CAUSES = ("classification", "localisation", "both", "duplicate", "background", "missed")
SIDES = ("false positives", "false negatives")
"""Beside the causes: the AP if no detection were wrong, and if no object were missed."""
_REMOVED = -1


@dataclasses.dataclass(frozen=True)
class Overlaps:
    """Detections of an image against its objects, the best detection first.

    Attributes:
      scores, labels: of the detections.
      truth: labels of the objects.
      iou: of each pair.
      crowd: labels of the crowds.
      inside: share of each detection that lies in each crowd.
    """

    scores: Float[np.ndarray, " d"]
    labels: Int[np.ndarray, " d"]
    truth: Int[np.ndarray, " g"]
    iou: Float[np.ndarray, "d g"]
    crowd: Int[np.ndarray, " k"]
    inside: Float[np.ndarray, "d k"]


@dataclasses.dataclass(frozen=True)
class Breakdown:
    """What errors there are, and what they cost.

    Attributes:
      ap: mean average precision over the classes at the IoU `t_f`, 0..1.
      counts: errors of each of `CAUSES`.
      costs: AP that mending all of them gains, of `CAUSES` and `SIDES`.
      per_class: errors of each cause [causes, classes], by the class of the detection, or of the missed object.
    """

    ap: float
    counts: dict[str, int]
    costs: dict[str, float]
    per_class: Int[np.ndarray, "causes c"]


class Verdict(NamedTuple):
    """What is said of a detection.

    Attributes:
      detection: its place.
      cause: place in `CAUSES`; -1: it is right.
      object: which it finds, or should have found; -1: none.
      mends: whether it would find that object, were its error mended.
    """

    detection: int
    cause: int
    object: int
    mends: bool


@dataclasses.dataclass
class _Detections:
    """All detections that count, of all images, and what mending makes of them."""

    score: list[float] = dataclasses.field(default_factory=list)
    label: list[int] = dataclasses.field(default_factory=list)
    right: list[bool] = dataclasses.field(default_factory=list)
    cause: list[int] = dataclasses.field(default_factory=list)
    mended: list[int] = dataclasses.field(default_factory=list)


def breakdown(images: Sequence[Overlaps], num_classes: int, iou: float = 0.5) -> Breakdown:
    """See the top of this file.

    Args:
      images: one for each image.
      num_classes: of the detector.
      iou: t_f.

    Raises:
      ValueError: t_f that is not above t_b.
    """
    if not BACKGROUND_IOU < iou <= 1:
        raise ValueError(f"iou={iou}: expected more than {BACKGROUND_IOU}, below which detections are background")
    found, objects = _Detections(), np.zeros(num_classes, np.int64)
    lost, missed = np.zeros(num_classes, np.int64), np.zeros(num_classes, np.int64)
    for image in images:
        own_lost, own_missed = _add(found, image, iou)
        objects += np.bincount(image.truth, minlength=num_classes)
        lost += np.bincount(image.truth[own_lost], minlength=num_classes)
        missed += np.bincount(image.truth[own_missed], minlength=num_classes)
    score, label = np.asarray(found.score, np.float64), np.asarray(found.label, np.int64)
    right, cause = np.asarray(found.right, bool), np.asarray(found.cause, np.int64)
    mended = np.asarray(found.mended, np.int64)
    seen = objects > 0

    def mean(score: np.ndarray, label: np.ndarray, right: np.ndarray, objects: np.ndarray) -> float:
        values = [
            average_precision(score[label == c], right[label == c], int(objects[c])) for c in np.flatnonzero(seen)
        ]
        return float(np.mean(values)) if values else float("nan")

    ap = mean(score, label, right, objects)
    costs, per_class = {}, []
    for number, name in enumerate(CAUSES[:-1]):
        own = cause == number
        per_class.append(np.bincount(label[own], minlength=num_classes))
        new = np.where(own, mended, label)
        kept = new != _REMOVED
        costs[name] = max(0.0, mean(score[kept], new[kept], (right | own)[kept], objects) - ap)
    per_class.append(missed)
    costs[CAUSES[-1]] = max(0.0, mean(score, label, right, objects - missed) - ap)
    costs[SIDES[0]] = mean(np.where(right, 1.0, 0.0), label, right, objects) - ap
    costs[SIDES[1]] = mean(score, label, right, objects - lost) - ap
    counts = np.stack(per_class)
    told = {name: int(own.sum()) for name, own in zip(CAUSES, counts, strict=True)}
    return Breakdown(ap, told, costs, counts)


def average_precision(score: Float[np.ndarray, " n"], right: Bool[np.ndarray, " n"], objects: int) -> float:
    """Mean of `precision_at_recalls`; 1 where there is nothing to find."""
    return float(precision_at_recalls(score, right, objects).mean()) if objects > 0 else 1.0


def matches(image: Overlaps, iou: float) -> Int[np.ndarray, " d"]:
    """The object of its class that each detection finds, -1 for none; the better detection comes first."""
    free = image.iou * (image.labels[:, None] == image.truth[None])
    found = np.full(len(image.labels), -1, np.int64)
    if not len(image.truth):
        return found
    for number in range(len(found)):
        best = int(free[number].argmax())
        if free[number, best] >= iou:
            found[number] = best
            free[:, best] = 0
    return found


def confusion(images: Sequence[Overlaps], num_classes: int, iou: float, score: float) -> Int[np.ndarray, "c1 c1"]:
    """Objects of each class (rows) that were taken for each class (columns); the last of both is the background.

    Of the detections above `score` and the objects of an image, whatever their classes, the pair that agrees best is
    matched first, each once, down to `iou`; of equal ones the better detection. An unmatched object is in the last
    column (missed), an unmatched detection in the last row (nothing is there), unless a crowd explains it.
    """
    counts = np.zeros((num_classes + 1, num_classes + 1), np.int64)
    for image in images:
        rows = np.flatnonzero(image.scores > score)
        overlap = image.iou[rows]
        order = np.argsort(-overlap, axis=None, kind="stable")
        free_rows, free_truth = np.ones(len(rows), bool), np.ones(len(image.truth), bool)
        for place in order[: int((overlap >= iou).sum())]:
            i, j = divmod(int(place), len(image.truth))
            if free_rows[i] and free_truth[j]:
                free_rows[i] = free_truth[j] = False
                counts[image.truth[j], image.labels[rows[i]]] += 1
        explained = (image.inside[rows] >= iou).any(axis=1)
        counts[-1] += np.bincount(image.labels[rows[free_rows & ~explained]], minlength=num_classes + 1)
        counts[:, -1] += np.bincount(image.truth[free_truth], minlength=num_classes + 1)
    return counts


def quality(image: Overlaps, iou: float, score: float) -> float:
    """The IoU of right detections, summed, over their number and half that of false ones and of missed objects.

    That is the panoptic quality (Kirillov et al. 2019) of all objects together; 1 where there is nothing to find and
    nothing was found.
    """
    rows = (image.scores > score) & ~_explained(image, iou)
    found = matches(dataclasses.replace(image, iou=np.where(rows[:, None], image.iou, 0.0)), iou)
    hit = np.flatnonzero(found >= 0)
    false, missed = int(rows.sum()) - len(hit), len(image.truth) - len(hit)
    if not len(hit) + false + missed:
        return 1.0
    return float(image.iou[hit, found[hit]].sum() / (len(hit) + (false + missed) / 2))


def judged(image: Overlaps, iou: float) -> tuple[list[Verdict], Bool[np.ndarray, " g"], Bool[np.ndarray, " g"]]:
    """What is said of each detection that no crowd explains; which objects were not found, which of them are missed."""
    matched = matches(image, iou)
    explained = _explained(image, iou) & (matched < 0)
    lost = np.ones(len(image.truth), bool)
    lost[matched[matched >= 0]] = False
    claimed = np.zeros(len(image.truth), bool)
    same = image.labels[:, None] == image.truth[None]
    verdicts = []
    for i in np.flatnonzero(~explained):
        cause, at, mends = -1, int(matched[i]), False
        if at < 0:
            cause, at = _cause(image.iou[i], same[i], iou)
            mends = at >= 0 and bool(lost[at]) and not claimed[at]
            if mends:
                claimed[at] = True
        verdicts.append(Verdict(int(i), cause, at, mends))
    return verdicts, lost, lost & ~claimed


def _add(found: _Detections, image: Overlaps, iou: float) -> tuple[np.ndarray, np.ndarray]:
    """Adds the detections of an image; returns which objects were not found, and which of them are missed."""
    verdicts, lost, missed = judged(image, iou)
    for own in verdicts:
        label = int(image.labels[own.detection])
        found.score.append(float(image.scores[own.detection]))
        found.label.append(label)
        found.right.append(own.cause < 0)
        found.cause.append(own.cause)
        found.mended.append(int(image.truth[own.object]) if own.mends else label if own.cause < 0 else _REMOVED)
    return lost, missed


def _cause(overlap: Float[np.ndarray, " g"], same: Bool[np.ndarray, " g"], iou: float) -> tuple[int, int]:
    """The cause of a false detection, and the object that it should have found (-1 for none)."""
    if not len(overlap):
        return CAUSES.index("background"), -1
    own, other = np.where(same, overlap, 0.0), np.where(same, 0.0, overlap)
    if BACKGROUND_IOU <= own.max() < iou:
        return CAUSES.index("localisation"), int(own.argmax())
    if other.max() >= iou:
        return CAUSES.index("classification"), int(other.argmax())
    if own.max() >= iou:
        return CAUSES.index("duplicate"), -1
    return CAUSES.index("background" if overlap.max() < BACKGROUND_IOU else "both"), -1


def _explained(image: Overlaps, iou: float) -> Bool[np.ndarray, " d"]:
    """Which detections lie in a crowd of their class."""
    return ((image.inside >= iou) & (image.labels[:, None] == image.crowd[None])).any(axis=1)
