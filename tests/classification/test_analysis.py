"""What is told of classifiers, against counts by hand."""

from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import precision_recall_curve

from jaxvision.classification.analysis import analyses, image_score
from jaxvision.classification.metrics import ConfusionMatrix
from jaxvision.classification.multi_task import Head, MultiHeadClassifier, MultiTaskClassification
from jaxvision.engine.analysis import Settings

NAMES = ("cat", "dog", "cow")
SCORES = np.array(
    [[0.9, 0.1, 0.0], [0.2, 0.7, 0.1], [0.6, 0.3, 0.1], [0.3, 0.6, 0.1], [0.0, 0.05, 0.95], [0.5, 0.1, 0.4]], np.float32
)
TRUTH = np.array([0, 1, 1, 1, 2, 2])


def task(multi_label=False):
    return SimpleNamespace(num_classes=3, multi_label=multi_label, name_of=lambda label: NAMES[label])


def concluded(view, truths=TRUTH, results=None, settings=None, **fields):
    analysis = analyses(task(**fields), settings or Settings())[view]
    kept = (
        [analysis.look({"label": t}, {"scores": s}) for t, s in zip(truths, SCORES, strict=True)]
        if analysis.look
        else []
    )
    return analysis.conclude(results or {}, kept)


def test_errors_are_the_confused_pairs_and_the_place_of_the_truth():
    found = concluded("errors")
    assert found.json["wrong"] == 2 and found.json["images"] == 6 and found.json["second_guess_right"] == 2
    assert found.json["pairs"] == [
        {"truth": "dog", "taken_for": "cat", "count": 1, "share": 1 / 3},
        {"truth": "cow", "taken_for": "cat", "count": 1, "share": 1 / 2},
    ]
    assert sum(part["images"] for part in found.json["scores"]) == 6
    assert {part["range"]: part["right"] for part in found.json["scores"]}["0.5 to 0.7"] == pytest.approx(1 / 3)
    assert found.pictures["errors.png"].ndim == 3


def test_classes_and_confusion_come_from_the_matrix():
    matrix = np.array([[1, 0, 0], [1, 2, 0], [1, 0, 1]])
    results = ConfusionMatrix(3).compute(matrix)
    table = concluded("classes", results=results)
    assert [row["images"] for row in table.json["classes"]] == [1, 3, 2]
    assert [row["recall"] for row in table.json["classes"]] == [1, 2 / 3, 1 / 2]
    assert table.lines[0].split() == ["class", "F1", "precision", "recall", "images"]
    confusion = concluded("confusion", results=results)
    assert confusion.lines[0] == "4 of 6 images are right" and "confusion_matrix.png" in confusion.pictures
    with pytest.raises(ValueError, match="too large"):
        concluded("confusion")


def test_curves_are_those_of_sklearn():
    found = concluded("precision_recall")
    for label, name in enumerate(NAMES):
        precision, recall, _ = precision_recall_curve(label == TRUTH, SCORES[:, label])
        expected = [precision[recall >= level / 100 - 1e-9].max() for level in range(101)]
        np.testing.assert_allclose(found.json["precision"][name], expected)


def test_several_labels_are_missed_or_false():
    truths = np.eye(3)[TRUTH] + np.array([0, 0, 0.0])
    truths[0, 2] = 1
    found = concluded("errors", truths, multi_label=True)
    told = {row["class"]: (row["missed"], row["false"]) for row in found.json["classes"]}
    assert told == {"cat": (0, 1), "dog": (1, 0), "cow": (2, 0)}
    assert "confusion" not in analyses(task(multi_label=True), Settings())
    strict = concluded("errors", truths, multi_label=True, settings=Settings(score=0.95))
    assert strict.json["classes"][0]["class"] == "dog" and strict.json["score"] == 0.95


def test_images_are_ranked_by_the_score_of_what_is_true():
    ranked = image_score(task())
    assert ranked.of({"label": 1}, {"scores": SCORES[2]}) == pytest.approx(0.3)
    assert np.isnan(ranked.of({"label": 7}, {"scores": SCORES[2]}))
    several = image_score(task(multi_label=True))
    assert several.of({"label": np.array([1, 0, 0])}, {"scores": SCORES[0]}) == pytest.approx((0.9 + 0.9 + 1) / 3)
    with pytest.raises(ValueError, match="no label"):
        ranked.of({}, {"scores": SCORES[0]})


def test_heads_are_told_one_by_one_over_the_labels_that_are_known():
    model = MultiHeadClassifier(None, (Head(name="kind", num_classes=3), Head(name="side", num_classes=2)))
    names = ("kind/cat", "kind/dog", "kind/cow", "side/left", "side/right")
    view = MultiTaskClassification(model, class_names=names).analyses(Settings())["errors"]
    kept = [
        view.look({"label": np.array([truth, side])}, {"kind": {"scores": scores}, "side": {"scores": scores[:2]}})
        for truth, side, scores in zip(TRUTH, (0, -1, -1, 1, -1, 1), SCORES, strict=True)
    ]
    found = view.conclude({}, kept)
    assert found.json["kind"]["images"] == 6 and found.json["kind"]["wrong"] == 2
    assert found.json["side"]["images"] == 3 and found.json["side"]["pairs"][0]["taken_for"] == "left"
    assert {"kind_errors.png", "side_errors.png"} == set(found.pictures)
