"""Errors of panoptic predictions: overlaps against pixels, PQ against the metric, costs on segments made for them."""

import numpy as np
import pytest

from jaxvision.detection.errors import quality
from jaxvision.detection.panoptic_analysis import breakdown, segments
from jaxvision.structures import Detections, PanopticSegments


def predicted(panoptic, labels):
    none = Detections(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int), np.zeros(0, bool))
    height, width = panoptic.shape
    return PanopticSegments(
        none, panoptic, np.array(labels), np.ones(len(labels), bool), np.eye(3, dtype=np.float32),
        np.array([height, width], np.int32),
    )  # fmt: skip


def scene():
    """A stuff of 8 rows, a thing of 4x4 in it, void below."""
    truth = np.zeros((10, 10), np.int32)
    truth[:8] = 1
    truth[2:6, 2:6] = 2
    return {"image": np.zeros((10, 10, 3), np.uint8), "panoptic": truth, "segment_labels": np.array([1, 0])}


def test_segments_overlap_where_there_is_a_truth():
    sample = scene()
    found = np.ones((10, 10), np.int32)
    found[2:6, 2:4] = 2
    kept = segments(sample, predicted(found, [1, 0, 1]))
    np.testing.assert_array_equal(kept.labels, [1, 0])
    # Stuff: 64 of its pixels; the other half of the thing too; void is not counted.
    np.testing.assert_allclose(kept.iou, [[64 / 72, 8 / 80], [0, 0.5]])
    quantity, counts, costs = breakdown([kept], 2)
    assert quantity == pytest.approx((64 / 72) / 2)  # an IoU of 0.5 is no match yet
    assert counts["localisation"] == 1 and counts["missed"] == 0 and counts["imprecise"] == 1
    assert costs["localisation"] == pytest.approx((64 / 72) / 2) and costs["imprecise"] == pytest.approx((8 / 72) / 2)


def test_perfect_segments_cost_nothing_and_a_wrong_class_all_it_lost():
    sample = scene()
    perfect = segments(sample, predicted(sample["panoptic"], [1, 0]))
    value, counts, costs = breakdown([perfect], 3)
    assert value == 1 and not any(costs.values()) and not any(counts.values())
    assert quality(perfect, 0.5, -1.0) == 1
    wrong = segments(sample, predicted(sample["panoptic"], [1, 2]))
    value, counts, costs = breakdown([wrong], 3)
    assert value == pytest.approx(1 / 3)  # classes 0 (missed) and 2 (false) have none
    assert counts["classification"] == 1 and counts["missed"] == 0
    assert costs["classification"] == pytest.approx(2 / 3)
    assert quality(wrong, 0.5, -1.0) == pytest.approx(0.5)


def test_a_sample_without_a_panoptic_map_is_refused():
    with pytest.raises(ValueError, match="no panoptic map"):
        segments({"image": np.zeros((4, 4, 3))}, predicted(np.zeros((4, 4), np.int32), []))
