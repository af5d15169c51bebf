"""What is told of segmenters, against counts by hand."""

from types import SimpleNamespace

import numpy as np
import pytest

from jaxvision.engine.analysis import Settings
from jaxvision.segmentation.analysis import BANDS, analyses, counted, distance_to_boundary, image_score, look
from jaxvision.segmentation.metrics import scores_of

NAMES = ("sky", "road", "car")


def task():
    return SimpleNamespace(num_classes=3, name_of=lambda label: NAMES[label])


def halves():
    """Sky on the left, road on the right, a column that has no class, and a prediction that is one column off."""
    truth = np.zeros((12, 40), np.uint8)
    truth[:, 20:] = 1
    truth[:, -1] = 255
    found = np.zeros((12, 40), np.uint8)
    found[:, 21:] = 1
    return {"semantic": truth}, {"original_labels": found, "original_size": np.array([12, 40])}


def test_distances_are_to_the_nearest_pixel_of_another_class():
    sample, _ = halves()
    truth = sample["semantic"].astype(int)
    distance = distance_to_boundary(truth, truth != 255)
    np.testing.assert_array_equal(distance[3, :20], np.arange(20, 0, -1))
    np.testing.assert_array_equal(distance[3, 20:39], np.arange(1, 20))
    assert np.isinf(distance[:, -1]).all()  # no class: no boundary either
    assert np.isinf(distance_to_boundary(np.zeros((3, 3), int), np.ones((3, 3), bool))).all()


def test_errors_are_counted_by_class_and_by_distance():
    sample, prediction = halves()
    kept = look(sample, prediction, 3)
    np.testing.assert_array_equal(kept.matrix, [[240, 0, 0], [12, 216, 0], [0, 0, 0]])
    np.testing.assert_array_equal(kept.pixels, [48, 48, 96, 192, 84, 0])  # up to 2, 4, 8, 16, 32 pixels away
    np.testing.assert_array_equal(kept.wrong, [12, 0, 0, 0, 0, 0])
    found = analyses(task(), Settings())["errors"].conclude({}, [kept, kept])
    assert found.json["wrong"] == 24 and found.json["pixels"] == 2 * 468
    first = found.json["boundary"][0]
    assert first["pixels_away"] == BANDS[0] and first["wrong"] == 0.25 and first["share_of_errors"] == 1
    assert found.json["classes"][0]["class"] == "road" and found.json["classes"][0]["missed"] == 24
    assert {"errors_at_boundaries.png", "errors_of_classes.png"} == set(found.pictures)


def test_classes_and_confusion_come_from_the_metrics():
    matrix = counted(*(np.array(x) for x in ([[0, 0, 1]], [[0, 1, 1]])), 3)
    results = scores_of(matrix)
    classes = analyses(task(), Settings())["classes"].conclude(results, [])
    assert [row["pixels"] for row in classes.json["classes"]] == [2, 1, 0]
    assert classes.json["classes"][0]["IoU"] == 0.5 and classes.lines[3].split()[1] == "-"  # no car anywhere
    confusion = analyses(task(), Settings())["confusion"].conclude(results, [])
    assert confusion.lines[0] == "66.67% of 3 pixels are right" and confusion.lines[2].split()[:2] == ["sky", "road"]


def test_images_are_ranked_by_their_mean_iou():
    sample, prediction = halves()
    assert image_score(task()).of(sample, prediction) == pytest.approx((240 / 252 + 216 / 228) / 2)
    with pytest.raises(ValueError, match="no semantic map"):
        image_score(task()).of({}, prediction)
    assert np.isnan(image_score(task()).of({"semantic": np.full((12, 40), 255)}, prediction))
