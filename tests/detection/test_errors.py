"""Errors of detectors: each cause on boxes made for it, costs against the authors' tool, confusion, quality."""

import numpy as np
import pytest

from jaxvision.detection.analysis import overlaps, shares
from jaxvision.detection.errors import (
    CAUSES,
    MOST,
    Overlaps,
    average_precision,
    breakdown,
    confusion,
    judged,
    matches,
    quality,
)
from jaxvision.structures import Detections

SQUARE = (0.0, 0.0, 10.0, 10.0)


def image(found, truth, crowd=()):
    """Detections (label, score, box) and objects (label, box) of an image."""
    found = sorted(found, key=lambda row: -row[1])
    boxes = np.array([box for *_, box in found], np.float64).reshape(-1, 4)
    rows = [*truth, *crowd]
    theirs = np.array([box for _, box in rows], np.float64).reshape(-1, 4)
    is_crowd = np.arange(len(rows)) >= len(truth)
    shared = shares(list(to_xywh(boxes)), list(to_xywh(theirs)), is_crowd)
    labels = np.array([label for label, _ in rows], int)
    return Overlaps(
        np.array([score for _, score, _ in found]),
        np.array([label for label, *_ in found], int),
        labels[~is_crowd],
        shared[:, ~is_crowd],
        labels[is_crowd],
        shared[:, is_crowd],
    )


def to_xywh(boxes):
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


@pytest.mark.parametrize(
    ("cause", "found", "truth"),
    [
        ("classification", [(1, 0.9, (0, 0, 10, 9))], [(0, SQUARE)]),
        ("localisation", [(0, 0.9, (0, 0, 10, 3))], [(0, SQUARE)]),
        ("both", [(1, 0.9, (0, 0, 10, 3))], [(0, SQUARE)]),
        ("duplicate", [(0, 0.9, SQUARE), (0, 0.8, (0, 0, 10, 9))], [(0, SQUARE)]),
        ("background", [(0, 0.9, (50, 50, 60, 60))], [(0, SQUARE)]),
        ("background", [(0, 0.9, (50, 50, 60, 60))], []),
        ("missed", [], [(0, SQUARE)]),
    ],
)
def test_each_cause_is_told_from_the_others(cause, found, truth):
    counts = breakdown(
        [image(found, truth), image([(0, 0.9, SQUARE), (1, 0.9, SQUARE)], [(0, SQUARE), (1, SQUARE)])], 2
    )
    left = {name: count for name, count in counts.counts.items() if count}
    missed = {"missed": 1} if cause in ("both", "background") and truth else {}
    assert left == {cause: 1, **missed}


def test_a_detection_in_a_crowd_of_its_class_is_no_error():
    crowd = [(0, (0, 0, 100, 100))]
    assert not any(breakdown([image([(0, 0.9, SQUARE)], [], crowd)], 2).counts.values())
    assert breakdown([image([(1, 0.9, SQUARE)], [], crowd)], 2).counts["background"] == 1


def test_mending_one_error_gains_what_it_costs():
    # Two objects; one is found, before it a detection of the wrong class lies on the other one.
    only = image([(1, 0.9, (50, 50, 60, 60)), (0, 0.8, SQUARE)], [(0, SQUARE), (0, (50, 50, 60, 60))])
    found = breakdown([only], 2)
    assert found.ap == pytest.approx(51 / 101)  # all recalls up to one half, without a false one of its class
    assert found.costs["classification"] == pytest.approx(50 / 101)
    assert found.costs["missed"] == 0 and found.counts["missed"] == 0  # mending the class would find it
    assert found.costs["false negatives"] == pytest.approx(50 / 101)
    np.testing.assert_array_equal(found.per_class[CAUSES.index("classification")], [0, 1])


def test_of_two_errors_at_one_object_the_better_one_mends_it():
    verdicts, lost, missed = judged(
        image([(1, 0.9, SQUARE), (0, 0.8, (0, 0, 10, 4)), (1, 0.7, SQUARE)], [(0, SQUARE)]), 0.5
    )
    assert [(CAUSES[v.cause], v.mends) for v in verdicts] == [
        ("classification", True), ("localisation", False), ("classification", False),
    ]  # fmt: skip
    assert lost.all() and not missed.any()


def random_images(seed, count=40, classes=4):
    """Objects, each with up to three detections that are moved and sometimes of another class, and some of nothing."""
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(count):
        objects = rng.integers(0, 6)
        corners = rng.uniform(0, 80, (objects, 2))
        truth = np.concatenate([corners, rng.uniform(8, 40, (objects, 2))], 1)
        labels = rng.integers(0, classes, objects)
        boxes, own = [], []
        for box, label in zip(truth, labels, strict=True):
            for _ in range(rng.integers(0, 4)):
                boxes.append(box + rng.normal(0, rng.choice([1, 5, 12]), 4))
                own.append(label if rng.random() < 0.7 else rng.integers(0, classes))
        for _ in range(rng.integers(0, 3)):
            boxes.append(np.concatenate([rng.uniform(0, 80, 2), rng.uniform(8, 40, 2)]))
            own.append(rng.integers(0, classes))
        boxes = np.array(boxes).reshape(-1, 4)
        boxes[:, 2:] = np.maximum(boxes[:, 2:], 2)
        scores = rng.permutation(len(boxes)) / max(1, len(boxes)) * 0.9 + rng.random(len(boxes)) * 0.01
        order = np.argsort(-scores, kind="stable")
        iou = shares(list(boxes[order]), list(truth), np.zeros(len(truth), bool))
        none = np.zeros((len(order), 0))
        images.append(Overlaps(scores[order], np.array(own, int)[order], labels, iou, np.zeros(0, int), none))
    return images


@pytest.mark.parametrize(
    ("seed", "ap", "costs", "counts"),
    [
        (
            0, 19.764598, (8.528906, 12.637062, 2.846720, 0.388622, 4.057852, 8.406382, 27.265105, 20.383852),
            (23, 38, 20, 13, 57, 35),
        ),
        (
            3, 9.667330, (6.077662, 19.369675, 1.020410, 0.456302, 2.459768, 6.032242, 22.758413, 15.964880),
            (16, 40, 15, 6, 37, 38),
        ),
    ],
)  # fmt: skip
def test_costs_are_those_of_the_authors_tool(seed, ap, costs, counts):
    """Figures: tidecv 1.0.1 (github.com/dbolya/tide) on the same boxes."""
    found = breakdown(random_images(seed), 4)
    assert 100 * found.ap == pytest.approx(ap, abs=1e-6)
    np.testing.assert_allclose([100 * cost for cost in found.costs.values()], costs, atol=1e-6)
    assert tuple(found.counts.values()) == counts
    np.testing.assert_array_equal(found.per_class.sum(axis=1), counts)


def test_average_precision_is_the_mean_over_recalls():
    assert average_precision(np.array([0.9, 0.8]), np.array([True, True]), 2) == 1
    assert average_precision(np.array([0.9, 0.8]), np.array([False, True]), 1) == pytest.approx(0.5)
    assert average_precision(np.zeros(0), np.zeros(0, bool), 3) == 0
    assert average_precision(np.zeros(0), np.zeros(0, bool), 0) == 1


def test_confusion_has_a_row_and_a_column_for_the_background():
    far = (50.0, 50.0, 60.0, 60.0)
    one = image([(1, 0.9, SQUARE), (2, 0.8, far), (0, 0.2, far)], [(0, SQUARE), (1, (80, 80, 90, 90))])
    np.testing.assert_array_equal(
        confusion([one], 3, 0.5, 0.3), [[0, 1, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0], [0, 0, 1, 0]]
    )
    # The pair that agrees best comes first, whatever the scores and classes.
    two = image([(1, 0.9, (0, 0, 10, 9)), (0, 0.5, SQUARE)], [(0, SQUARE)])
    np.testing.assert_array_equal(confusion([two], 2, 0.5, 0.3), [[1, 0, 0], [0, 0, 0], [0, 1, 0]])
    empty = image([], [])
    assert not confusion([empty], 2, 0.5, 0.3).any()
    crowded = image([(0, 0.9, SQUARE)], [], [(0, (0, 0, 100, 100))])
    assert not confusion([crowded], 1, 0.5, 0.3).any()


def test_the_quality_of_an_image_falls_with_misses_and_false_detections():
    right = [(0, 0.9, (0, 0, 10, 8))]
    assert quality(image(right, [(0, SQUARE)]), 0.5, 0.3) == pytest.approx(0.8)
    assert quality(image([*right, (0, 0.8, (50, 50, 60, 60))], [(0, SQUARE)]), 0.5, 0.3) == pytest.approx(0.8 / 1.5)
    assert quality(image([*right, (0, 0.1, (50, 50, 60, 60))], [(0, SQUARE)]), 0.5, 0.3) == pytest.approx(0.8)
    assert quality(image(right, [(0, SQUARE), (1, SQUARE)]), 0.5, 0.3) == pytest.approx(0.8 / 1.5)
    assert quality(image([], []), 0.5, 0.3) == 1 and quality(image([], [(0, SQUARE)]), 0.5, 0.3) == 0


def test_overlaps_are_of_boxes_and_of_masks():
    masks = np.ones((3, 4, 4), np.float32)
    masks[1, :, 2:] = 0  # the right half of the second detection is empty
    prediction = Detections(
        boxes=np.array([[0, 0, 8, 8], [8, 8, 16, 16], [0, 0, 0, 0]], np.float32),
        scores=np.array([0.5, 0.9, 0.0], np.float32),
        labels=np.array([1, 0, 0]),
        valid=np.array([True, True, False]),
        masks=masks,
    )
    truth = np.zeros((2, 16, 16), bool)
    truth[0, :8, :8] = truth[1, 8:, 8:] = True
    sample = {
        "image": np.zeros((16, 16, 3), np.uint8),
        "boxes": np.array([[0, 0, 8, 8], [8, 8, 16, 16.0]]),
        "labels": np.array([1, 0]),
        "masks": truth,
    }
    kept = overlaps(sample, prediction)
    np.testing.assert_array_equal(kept["boxes"].labels, [0, 1])  # the best first
    np.testing.assert_allclose(kept["boxes"].iou, [[0, 1], [1, 0]])
    assert kept["masks"].iou[1, 0] == 1 and 0.4 < kept["masks"].iou[0, 1] < 0.7
    np.testing.assert_array_equal(matches(kept["boxes"], 0.5), [1, 0])
    with pytest.raises(ValueError, match="no boxes with labels"):
        overlaps({"image": sample["image"]}, prediction)
    assert MOST == 100


def test_a_threshold_below_the_background_is_refused():
    with pytest.raises(ValueError, match=r"iou=0\.05"):
        breakdown([], 2, 0.05)
