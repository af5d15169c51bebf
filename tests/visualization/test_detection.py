"""Pictures of detections: boxes where they are, in the colour of their class, beside the truth."""

import numpy as np

from jaxvision.visualization.detection import draw_detections
from jaxvision.visualization.marks import color_of
from jaxvision.visualization.samples import draw_sample

IMAGE = np.full((400, 400, 3), 120, np.uint8)


def found(labels, scores):
    boxes = np.array([[20, 40, 120, 200], [200, 220, 380, 390]], np.float32)[: len(labels)]
    return {"boxes": boxes, "labels": np.array(labels), "scores": np.array(scores)}


def has(picture, color):
    return (np.abs(picture.astype(int) - color).max(axis=-1) <= 6).sum() > 100


def test_boxes_have_the_colour_of_their_class():
    picture = draw_detections({"image": IMAGE}, found([3, 3], [0.9, 0.8]), "abcde")
    assert has(picture, color_of(3)) and not has(picture, color_of(0)) and not has(picture, color_of(1))
    by_object = draw_sample({"image": IMAGE, **found([3, 3], [0.9, 0.8])}, "abcde")
    assert has(by_object, color_of(0)) and has(by_object, color_of(1)) and not has(by_object, color_of(3))


def test_the_score_stands_in_the_name():
    one, other = (draw_detections({"image": IMAGE}, found([1], [score]), "abcde") for score in (0.91, 0.27))
    changed = (one != other).any(axis=-1)
    assert changed.any() and np.flatnonzero(changed.any(axis=1)).max() < 60  # above the box, which begins at 40


def test_detections_and_truth_stand_side_by_side():
    objects = {"boxes": np.array([[30, 50, 100, 180.0]]), "labels": np.array([2]), "crowd": np.array([True])}
    truth = {"image": IMAGE, **objects}
    picture = draw_detections(truth, found([1], [0.9]))
    middle = picture.shape[1] // 2
    left, right = picture[:, :middle], picture[:, middle:]
    assert has(left, color_of(1)) and has(right, color_of(2))
    assert not has(left, color_of(2)) and not has(right, color_of(1))
    nothing = {"boxes": np.zeros((0, 4)), "labels": np.zeros(0, int), "crowd": np.zeros(0, bool)}
    assert draw_detections({**truth, **nothing}, found([], [])).shape == picture.shape
