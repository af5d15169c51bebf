"""COCO and VOC average precision: perfect, known and empty predictions, crowds, and images in any order."""

import numpy as np
import pytest

from jaxvision.detection.metrics import CocoAP, ProposalRecall, VocAP


def rows_of(truth, found, slots=6):
    """Gathered rows from lists per image: (box, label[, crowd]) and (box, label, score)."""
    images = len(truth)
    rows = {
        "truth_boxes": np.zeros((images, slots, 4), np.float32),
        "truth_labels": np.zeros((images, slots), np.int32),
        "truth_valid": np.zeros((images, slots), bool),
        "truth_crowd": np.zeros((images, slots), bool),
        "boxes": np.zeros((images, slots, 4), np.float32),
        "labels": np.zeros((images, slots), np.int32),
        "scores": np.zeros((images, slots), np.float32),
        "valid": np.zeros((images, slots), bool),
    }
    for i, objects in enumerate(truth):
        for j, (box, label, *crowd) in enumerate(objects):
            rows["truth_boxes"][i, j], rows["truth_labels"][i, j], rows["truth_valid"][i, j] = box, label, True
            rows["truth_crowd"][i, j] = bool(crowd and crowd[0])
    for i, detections in enumerate(found):
        for j, (box, label, score) in enumerate(detections):
            rows["boxes"][i, j], rows["labels"][i, j], rows["scores"][i, j] = box, label, score
            rows["valid"][i, j] = True
    sides = rows["truth_boxes"][..., 2:] - rows["truth_boxes"][..., :2]
    return rows | {"truth_area": sides.prod(-1)}


A, B, C = (0, 0, 40, 40), (50, 10, 90, 70), (5, 50, 35, 95)
TRUTH = [[(A, 0), (B, 1)], [(C, 0)], []]


def said(truth):
    return [[(box, label, 0.9 - 0.1 * j) for j, (box, label, *_) in enumerate(objects)] for objects in truth]


def test_perfect_detections_reach_one():
    rows = rows_of(TRUTH, said(TRUTH))
    results = CocoAP(3).compute_all(rows)
    assert [results[name] for name in ("ap", "ap50", "ap75", "ar100", "ap_medium")] == pytest.approx([1.0] * 5)
    assert "ap_large" not in results and "ap_small" not in results
    np.testing.assert_allclose(results["ap_per_class"], [1, 1, np.nan])
    for points, name in ((False, "voc_ap"), (True, "voc07_ap")):
        voc = VocAP(3, points).compute_all(rows)
        assert voc[name] == pytest.approx(1.0)
        np.testing.assert_allclose(voc[f"{name}_per_class"], [1, 1, np.nan])


def test_known_detections_have_the_precision_that_is_computed_by_hand():
    """Class 0: a hit, a miss above the second hit. The curve is (0.5, 1), (0.5, 0.5), (1, 2/3)."""
    far = (60, 60, 80, 80)
    rows = rows_of([[(A, 0)], [(C, 0)]], [[(A, 0, 0.9), (far, 0, 0.8)], [(C, 0, 0.7)]])
    assert VocAP(1).compute_all(rows)["voc_ap"] == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert VocAP(1, points=True).compute_all(rows)["voc07_ap"] == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)
    # COCO reads the curve at 101 recalls, of which 51 are at most 0.5.
    assert CocoAP(1).compute_all(rows)["ap50"] == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_a_box_that_is_found_twice_counts_once_and_the_overlap_decides():
    half = (0, 0, 40, 20)  # IoU 0.5 with A
    rows = rows_of([[(A, 0)]], [[(A, 0, 0.9), (A, 0, 0.8)]])
    assert VocAP(1).compute_all(rows)["voc_ap"] == pytest.approx(1.0)
    rows = rows_of([[(A, 0)]], [[(half, 0, 0.9)]])
    results = CocoAP(1).compute_all(rows)
    assert results["ap50"] == pytest.approx(1.0) and results["ap75"] == 0.0 and results["ap"] == pytest.approx(0.1)
    rows = rows_of([[(A, 0), (B, 0)]], [[(A, 0, 0.8), (A, 0, 0.9), (B, 0, 0.7)]])
    assert VocAP(1).compute_all(rows)["voc_ap"] == pytest.approx(0.5 + 0.5 * 2 / 3)


def test_crowds_and_difficult_objects_are_neither_hit_nor_miss():
    crowd = (0, 0, 90, 90)
    rows = rows_of([[(A, 0), (crowd, 0, True)]], [[(A, 0, 0.5), ((50, 50, 80, 80), 0, 0.9)]])
    assert CocoAP(1).compute_all(rows)["ap"] == pytest.approx(1.0)
    rows = rows_of([[(A, 0), (B, 0, True)]], [[(A, 0, 0.5), (B, 0, 0.9)]])
    assert VocAP(1).compute_all(rows)["voc_ap"] == pytest.approx(1.0)


def test_nothing_found_is_zero_and_no_truth_is_unknown(capsys):
    nothing = [[] for _ in TRUTH]
    assert CocoAP(2).compute_all(rows_of(TRUTH, nothing))["ap"] == 0.0
    assert VocAP(2).compute_all(rows_of(TRUTH, nothing))["voc_ap"] == 0.0
    for found in (nothing, said(TRUTH)):
        results = CocoAP(2).compute_all(rows_of(nothing, found))
        assert np.isnan(results["ap"]) and np.isnan(results["ap_per_class"]).all()
        assert np.isnan(VocAP(2).compute_all(rows_of(nothing, found))["voc_ap"])
    assert capsys.readouterr().out == ""


def test_random_detections_have_the_precision_of_a_plain_loop_over_the_recalls():
    """COCO's AP50 of one class against the definition: greedy by score, precision at 101 recalls."""
    rng = np.random.default_rng(0)
    truth, found = [], []
    for _ in range(12):
        low = rng.uniform(0, 60, (3, 2))
        boxes = np.concatenate([low, low + rng.uniform(20, 40, (3, 2))], axis=1)
        truth.append([(box, 0) for box in boxes])
        found.append([(box + rng.normal(0, 4, 4), 0, rng.uniform()) for box in boxes for _ in range(2)])
    rows = rows_of(truth, found)
    overlap = VocAP(1).compute_all(rows)["voc_ap"]
    assert CocoAP(1).compute_all(rows)["ap50"] == pytest.approx(overlap, abs=0.02)
    assert 0.2 < overlap < 0.98


def test_recall_of_proposals_knows_no_classes():
    """Two of three objects are found, one of them with an IoU of 0.5 alone."""
    half = (50, 10, 90, 40)
    rows = rows_of(TRUTH, [[(A, 2, 0.9), (half, 0, 0.8)], [], [(A, 0, 0.5)]])
    results = ProposalRecall().compute_all(rows)
    for name in ("proposal_ar100", "proposal_ar1000", "proposal_ar_medium"):
        assert results[name] == pytest.approx((1 + 0.1 + 0) / 3)
    assert results["proposal_recall50"] == pytest.approx(2 / 3)
    assert np.isnan(ProposalRecall().compute_all(rows_of([[]], [[(A, 0, 0.5)]]))["proposal_ar1000"])
    assert ProposalRecall().compute_all(rows_of(TRUTH, [[], [], []]))["proposal_ar1000"] == 0.0
