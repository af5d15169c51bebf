"""COCO's precision of masks: perfect, shifted and missing ones, crowds, and sizes of canvas and original."""

import dataclasses

import numpy as np
import pytest

from jaxvision.detection.mask_metrics import CocoMaskAP
from jaxvision.detection.task import DetectionTask
from jaxvision.engine.evaluation import Evaluator
from jaxvision.engine.parallel import make_parallel
from jaxvision.ops import pack_masks, to_size
from jaxvision.structures import Detections
from tests.detection.made import batch_of, tiny

CANVAS, SLOTS = (40, 48), 3
SCALE = 2.0
"""Originals are twice as large as their canvas."""


def rows_of(truth, found):
    """Rows of a batch from lists per image: (box, label, crowd) and (box, label, score, mask), in pixels of the canvas.

    Objects fill their boxes.
    """
    images = len(truth)
    rows = {
        **{f"{part}boxes": np.zeros((images, SLOTS, 4), np.float32) for part in ("", "truth_")},
        **{f"{part}labels": np.zeros((images, SLOTS), np.int32) for part in ("", "truth_")},
        **{f"{part}valid": np.zeros((images, SLOTS), bool) for part in ("", "truth_")},
        "truth_crowd": np.zeros((images, SLOTS), bool),
        "scores": np.zeros((images, SLOTS), np.float32),
        "masks": np.zeros((images, SLOTS, 8, 8), np.float32),
        "canvas_width": np.full(images, CANVAS[1], np.int32),
        "to_original": np.tile(np.diag([SCALE, SCALE, 1]).astype(np.float32), (images, 1, 1)),
        "original_size": np.tile((np.array(CANVAS) * SCALE).astype(np.int32), (images, 1)),
    }
    drawn = np.zeros((images, SLOTS, *CANVAS), bool)
    for i, objects in enumerate(truth):
        for j, (box, label, crowd) in enumerate(objects):
            rows["truth_boxes"][i, j], rows["truth_labels"][i, j] = SCALE * np.array(box), label
            rows["truth_valid"][i, j], rows["truth_crowd"][i, j] = True, crowd
            left, top, right, bottom = box
            drawn[i, j, top:bottom, left:right] = True
    for i, detections in enumerate(found):
        for j, (box, label, score, mask) in enumerate(detections):
            rows["boxes"][i, j], rows["labels"][i, j] = SCALE * np.array(box), label
            rows["scores"][i, j], rows["masks"][i, j], rows["valid"][i, j] = score, mask, True
    sides = rows["truth_boxes"][..., 2:] - rows["truth_boxes"][..., :2]
    return rows | {"truth_masks": pack_masks(drawn), "truth_area": sides.prod(-1)}


def score(truth, found, classes=2):
    metric = CocoMaskAP(classes)
    return metric.compute_all(metric.condense(rows_of(truth, found)))


A, B = (0, 0, 20, 20), (24, 8, 44, 32)
FULL, PART = np.ones((8, 8)), np.array([[1] * 5 + [0] * 3] * 8)


def test_masks_that_fill_their_objects_reach_one():
    results = score([[(A, 0, False), (B, 1, False)], []], [[(B, 1, 0.9, FULL), (A, 0, 0.8, FULL)], []])
    assert [results[f"mask_{name}"] for name in ("ap", "ap50", "ap75", "ar100")] == pytest.approx([1.0] * 4)
    np.testing.assert_allclose(results["mask_ap_per_class"], [1, 1])


def test_a_mask_of_a_part_of_the_object_is_found_at_low_overlaps_only():
    """The box is right; the mask covers five eighths of it: an IoU of more than 0.5, 0.55 and 0.6."""
    results = score([[(A, 0, False)]], [[(A, 0, 0.9, PART)]])
    assert results["mask_ap50"] == pytest.approx(1.0) and results["mask_ap75"] == 0.0
    assert results["mask_ap"] == pytest.approx(0.3)


def test_missing_wrong_and_crowded_masks():
    assert score([[(A, 0, False)]], [[]])["mask_ap"] == 0.0
    assert score([[(A, 0, False)]], [[(A, 1, 0.9, FULL)]])["mask_ap"] == 0.0
    assert score([[(A, 0, False)]], [[(A, 0, 0.9, 0 * FULL)]])["mask_ap"] == 0.0
    crowd = score([[(A, 0, False), (B, 0, True)]], [[(B, 0, 0.9, FULL), (A, 0, 0.8, FULL)]])
    assert crowd["mask_ap"] == pytest.approx(1.0)
    assert np.isnan(score([[]], [[(A, 0, 0.9, FULL)]])["mask_ap"])


def test_masks_come_back_to_the_size_of_the_original():
    mask = np.zeros((1, 4, 6), bool)
    mask[0, 1:3, 2:5] = True
    matrix = np.array([[2, 0, -2], [0, 3, 0], [0, 0, 1]], np.float32)  # one column of padding on the left
    back = to_size(mask, matrix, (12, 10))
    expected = np.repeat(np.repeat(mask[:, :, 1:], 3, axis=1), 2, axis=2)
    np.testing.assert_array_equal(back, expected)
    with pytest.raises(ValueError, match="was turned"):
        to_size(mask, np.array([[0, 1, 0], [-1, 0, 4], [0, 0, 1.0]]), (4, 4))


@dataclasses.dataclass(frozen=True)
class Oracle(DetectionTask):
    """Says the truth, whose objects fill their boxes."""

    def predict(self, variables, batch, ctx, carry=None):
        targets = batch["targets"]
        masks = np.ones((*targets.labels.shape, 8, 8), np.float32)
        return Detections(2 * targets.boxes, 0.9 * targets.valid, targets.labels, targets.valid, masks), carry


def batch_with_masks(counts):
    batch = batch_of(counts, (32, 48))
    targets = batch["targets"]
    boxes = np.round(targets.boxes)
    left, top, right, bottom = np.moveaxis(boxes, -1, 0)[..., None, None]
    x, y = np.arange(48) + 0.5, np.arange(32)[:, None] + 0.5
    masks = (x > left) & (x < right) & (y > top) & (y < bottom)
    return batch | {"targets": targets.replace(boxes=boxes, masks=pack_masks(masks))}


def test_an_evaluation_of_the_truth_reaches_one_batch_by_batch_and_pictures_show_masks():
    task = Oracle(tiny(), protocols=("coco", "coco_masks"))
    batch = batch_with_masks([2, 0, 1, 3])
    parallel = make_parallel("jit", 1)
    evaluator = Evaluator(task, parallel, examples=1)
    results = evaluator({"params": {}}, [parallel.place(batch), parallel.place(batch)])
    assert results["ap"] == pytest.approx(1.0) and results["mask_ap"] > 0.9 and results["mask_ap50"] == 1.0
    assert task.summary(results)[0].startswith("AP 1.000")
    ((_, example),) = evaluator.examples
    image = np.full((64, 96, 3), 90, np.uint8)
    picture = task.draw({"image": image}, example)
    bare = task.draw({"image": image}, dataclasses.replace(example, masks=None))
    assert picture.shape == bare.shape and (picture != bare).any()
    told = task.to_json({"original_size": np.array([64, 96])}, example)["detections"]
    assert len(told) == 2 and all(one["segmentation"]["size"] == [64, 96] for one in told)
    assert "segmentation" not in task.to_json({}, example)["detections"][0]


def test_predictions_or_truth_without_masks_are_told():
    batch = batch_of([1])
    found = Detections(*(np.zeros((1, 2, *rest)) for rest in ((4,), (), ())), np.zeros((1, 2), bool))
    with pytest.raises(ValueError, match="the predictions have no masks"):
        CocoMaskAP(2).select(found, batch)
    with pytest.raises(ValueError, match="the targets have no masks"):
        CocoMaskAP(2).select(dataclasses.replace(found, masks=np.zeros((1, 2, 4, 4))), batch)
