"""What a detector's task tells: tables, JSON and pictures of classes, curves, confusion and errors."""

import numpy as np
import pytest

from jaxvision.detection.task import DetectionTask
from jaxvision.engine.analysis import Settings
from jaxvision.structures import Detections
from tests.detection.made import tiny

SETTINGS = Settings(score=0.3)


@pytest.fixture(scope="module")
def task():
    return DetectionTask(tiny(), class_names=("cat", "dog", "cow"))


def sample():
    boxes = np.array([[0, 0, 10, 10], [20, 20, 40, 40]], np.float32)
    return {"image": np.zeros((48, 48, 3), np.uint8), "boxes": boxes, "labels": np.array([0, 1])}


def prediction(labels=(0, 2)):
    boxes = np.concatenate([sample()["boxes"], np.zeros((1, 4), np.float32)])
    scores, valid = np.array([0.9, 0.8, 0.0], np.float32), np.array([True, True, False])
    return Detections(boxes, scores, np.array([*labels, 0]), valid)


def test_errors_and_confusion_are_told_of_what_was_kept(task):
    views = task.analyses(SETTINGS)
    kept = [views["errors"].look(sample(), prediction()), views["errors"].look(sample(), prediction((0, 1)))]
    errors = views["errors"].conclude({}, kept)
    assert errors.json["boxes"]["counts"] == {
        "classification": 1, "localisation": 0, "both": 0, "duplicate": 0, "background": 0, "missed": 0,
    }  # fmt: skip
    assert errors.json["boxes"]["ap"] == pytest.approx((1 + 51 / 101) / 2)
    assert errors.json["boxes"]["costs"]["classification"] == pytest.approx((50 / 101) / 2)
    assert errors.json["boxes"]["per_class"]["cow"]["classification"] == 1 and list(errors.pictures) == ["errors.png"]
    confusion = views["confusion"].conclude({}, kept)
    np.testing.assert_array_equal(
        confusion.json["boxes"]["matrix"], [[2, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    )
    assert "3 right, 1 of a wrong class, 0 missed, 0 on background" in confusion.lines[0]


def test_classes_and_curves_come_from_the_metrics(task):
    views = task.analyses(SETTINGS)
    results = {
        "ap_per_class": np.array([0.5, np.nan, 0.2]),
        "ap50_per_class": np.array([0.7, np.nan, 0.4]),
        "precision_curves": np.stack([np.full(101, 0.7), np.full(101, np.nan), np.full(101, 0.4)]),
    }
    classes = views["classes"].conclude(results, [])
    assert [row["AP50"] for row in classes.json["classes"]] == pytest.approx([0.7, np.nan, 0.4], nan_ok=True)
    assert classes.lines[2].split() == ["dog", "-", "-"]
    curves = views["precision_recall"].conclude(results, [])
    assert set(curves.json["precision"]["boxes"]) == {"cat", "dog", "cow"} and "precision_recall.png" in curves.pictures
    with pytest.raises(ValueError, match="add 'coco'"):
        views["precision_recall"].conclude({}, [])
    with pytest.raises(ValueError, match="no scores of single classes"):
        views["classes"].conclude({}, [])


def test_images_are_ranked_by_the_quality_of_their_boxes(task):
    assert task.image_score.of(sample(), prediction((0, 1))) == 1
    assert task.image_score.of(sample(), prediction()) == pytest.approx(1 / 2)
    assert "scores above 0.3" in task.image_score.name


def test_proposals_have_no_classes_to_be_told_of():
    proposals = DetectionTask(tiny(), protocols=("proposals",))
    assert not proposals.analyses(SETTINGS) and proposals.image_score is None
