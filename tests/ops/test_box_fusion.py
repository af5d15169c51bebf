"""Weighted boxes fusion against the authors' procedure in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.ops import weighted_boxes_fusion
from tests.conftest import strict
from tests.detection.test_assigners import overlap


def oracle(boxes, scores, labels, valid, sources, threshold):
    """(label, score, box) of the clusters, best first."""
    clusters = []
    for i in sorted(np.flatnonzero(valid), key=lambda i: (-scores[i], i)):
        best, most = None, threshold
        for cluster in clusters:
            members = cluster["rows"]
            if labels[members[0]] == labels[i] and (iou := overlap(cluster["box"], boxes[i])) > most:
                best, most = cluster, iou
        if best is None:
            best = {"rows": []}
            clusters.append(best)
        best["rows"].append(i)
        weights = scores[best["rows"]].astype(np.float64)
        best["box"] = (weights[:, None] * boxes[best["rows"]]).sum(0) / weights.sum()
    told = []
    for cluster in clusters:
        rows = cluster["rows"]
        score = scores[rows].mean() * min(len(rows), sources) / sources
        told.append((labels[rows[0]], score, cluster["box"]))
    return sorted(told, key=lambda row: -row[1])


@pytest.mark.parametrize("outputs", [6, 40])
def test_random_boxes_are_fused_as_loops_fuse_them(outputs, unoptimized):
    rng = np.random.default_rng(0)

    @jax.jit
    def fuse(boxes, scores, labels, valid):
        return weighted_boxes_fusion(
            boxes, scores, sources=3, iou_threshold=0.4, max_outputs=outputs, labels=labels, valid=valid
        )

    fused = 0
    with strict():
        for case in range(8):
            corners = np.repeat(rng.uniform(0, 60, (8, 2)), 4, axis=0) + rng.uniform(0, 8, (32, 2))
            boxes = np.concatenate([corners, corners + rng.uniform(12, 24, (32, 2))], axis=1).astype(np.float32)
            scores = rng.uniform(0.05, 1, 32).astype(np.float32)
            labels = np.repeat(rng.integers(0, 2, 8), 4).astype(np.int32)
            valid = rng.random(32) < (0.0, 0.5, 0.9, 1.0)[case % 4]
            expected = oracle(boxes, scores, labels, valid, 3, 0.4)
            found, means, classes, real = map(np.asarray, fuse(*map(jnp.asarray, (boxes, scores, labels, valid))))
            count = min(len(expected), outputs)
            assert real.sum() == count and real[:count].all() and not means[count:].any() and not found[count:].any()
            for i, (label, score, box) in enumerate(expected[:count]):
                assert classes[i] == label and means[i] == pytest.approx(score, rel=1e-5)
                np.testing.assert_allclose(found[i], box, rtol=1e-5, atol=1e-4)
            fused += valid.sum() - len(expected)
    assert fused > 20


def test_no_boxes_are_padding_and_wrong_arguments_are_refused():
    boxes, scores, labels, valid = weighted_boxes_fusion(
        jnp.zeros((0, 4)), jnp.zeros(0), sources=2, max_outputs=3, labels=jnp.zeros(0, jnp.int32)
    )
    assert boxes.shape == (3, 4) and scores.shape == labels.shape == (3,) and not valid.any()
    with pytest.raises(ValueError, match="sources=0"):
        weighted_boxes_fusion(jnp.zeros((2, 4)), jnp.zeros(2), sources=0, max_outputs=3)
