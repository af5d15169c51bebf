"""ATSS: its size, and which anchor learns which object."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.detection.anchors import Anchors
from jaxvision.detection.atss import ATSS, ATSSAssigner
from jaxvision.layers import Norm
from jaxvision.necks.fpn import FPN
from jaxvision.ops import encode_deltas
from tests.conftest import strict
from tests.detection.made import Tiny, batch_of, judged
from tests.detection.test_assigners import overlap

pytestmark = pytest.mark.usefixtures("unoptimized")
SQUARES = Anchors(scales=(2.0,), ratios=(1.0,))


def oracle(levels, boxes, valid, usable, count):
    """(row of the object, -1 negative, -2 neither) of each anchor."""
    anchors = np.concatenate(levels)
    best, answer = np.full(len(anchors), -1.0), np.full(len(anchors), -1)
    for j in np.flatnonzero(valid):
        middle = (boxes[j, :2] + boxes[j, 2:]) / 2
        candidates, start = [], 0
        for level in levels:
            rows = [i for i in range(start, start + len(level)) if usable[i]]
            away = [np.square((anchors[i, :2] + anchors[i, 2:]) / 2 - middle).sum() for i in rows]
            candidates += [rows[k] for k in np.argsort(away, kind="stable")[:count]]
            start += len(level)
        shares = np.array([overlap(anchors[i], boxes[j]) for i in candidates])
        threshold = shares.mean() + shares.std(ddof=1)
        for i, share in zip(candidates, shares, strict=True):
            x, y = (anchors[i, :2] + anchors[i, 2:]) / 2
            inside = min(x - boxes[j, 0], y - boxes[j, 1], boxes[j, 2] - x, boxes[j, 3] - y) > 0.01
            if inside and share >= threshold and share > best[i]:
                best[i], answer[i] = share, j
    answer[~usable] = -2
    return answer


def test_random_boxes_are_assigned_as_loops_assign_them():
    """Objects without area, images without objects, and a level with fewer anchors than candidates are among them."""
    rng = np.random.default_rng(0)
    levels = SQUARES({"p3": (6, 8), "p4": (2, 2)}, {"p3": 8, "p4": 16}, (48, 64))
    with strict():
        assign = jax.jit(ATSSAssigner(candidates=5))
        positives = 0
        for case in range(20):
            corners = rng.uniform(0, 1, (5, 2, 2)) * [64, 48]
            boxes = np.concatenate([corners.min(1), corners.max(1)], axis=1).astype(np.float32)
            boxes[4, 2] = boxes[4, 0]
            valid, usable = rng.random(5) < (0.0, 0.3, 0.7, 1.0)[case % 4], rng.random(52) < 0.8
            found = assign(levels, *map(jnp.asarray, (boxes, valid, usable)))
            expected = oracle([np.asarray(x) for x in levels], boxes, valid, usable, 5)
            np.testing.assert_array_equal(found.positive, expected >= 0)
            np.testing.assert_array_equal(found.negative, expected == -1)
            np.testing.assert_array_equal(np.asarray(found.truth)[expected >= 0], expected[expected >= 0])
            positives += (expected >= 0).sum()
        assert positives > 20


def test_the_loss_is_least_where_the_outputs_say_the_truth():
    model = ATSS(Tiny(), FPN(8, ("c3", "c4")), 3, SQUARES, depth=1, norm=Norm("gn", groups=2))
    batch = batch_of([3])
    targets = jax.tree.map(lambda x: jnp.asarray(x[0]), batch["targets"])
    levels = SQUARES({"p3": (4, 6), "p4": (2, 3)}, {"p3": 8, "p4": 16}, (32, 48))
    anchors = jnp.concatenate(levels)
    found = jax.jit(model.assigner)(levels, targets.boxes, targets.valid, jnp.ones(30, bool))
    hit = found.positive[:, None]
    boxes = jnp.where(hit, targets.boxes[found.truth], anchors)
    deltas = jax.jit(lambda a, b: encode_deltas(a, b, (0.0,) * 4, model.box_stds))(boxes, anchors)
    logits = 60 * jax.nn.one_hot(targets.labels[found.truth], 3) * hit - 30
    perfect = {"logits": logits[None], "deltas": deltas[None], "centerness": jnp.full((1, 30), 9.0)}
    outputs = {name: (value[:, :24], value[:, 24:]) for name, value in perfect.items()} | {"anchors": levels}
    terms, detections = judged(model, outputs, batch)
    assert found.positive.sum() >= 3
    assert float(terms["classification"][0]) < 1e-6 and abs(float(terms["box"][0])) < 1e-4
    best = np.asarray(detections.boxes[0][detections.valid[0]])
    for row in set(np.asarray(found.truth)[np.asarray(found.positive)].tolist()):
        assert np.abs(best - np.asarray(targets.boxes[row])).max(axis=1).min() < 1e-2


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="9 per cell: expected one"):
        ATSS(Tiny(), FPN(8, ("c3", "c4")), 3, Anchors())
    with pytest.raises(ValueError, match="expected at least 1"):
        ATSSAssigner(candidates=0)
