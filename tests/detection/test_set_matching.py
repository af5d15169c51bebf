"""Which query finds which object, and what is learned from that."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from jaxvision import losses
from jaxvision.detection.set_matching import SetMatcher, set_losses, to_pixels, to_shares
from tests.conftest import strict
from tests.detection.made import batch_of

pytestmark = pytest.mark.usefixtures("unoptimized")
MATCHERS = {"softmax": SetMatcher(), "focal": SetMatcher(score="focal", class_weight=2.0)}
SIZE = (32, 48)


def giou(a, b):
    """Of two boxes cx, cy, w, h."""
    a, b = (np.array([x[0] - x[2] / 2, x[1] - x[3] / 2, x[0] + x[2] / 2, x[1] + x[3] / 2]) for x in (a, b))
    common = max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common
    around = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return common / union - (around - union) / around


def oracle(score, logits, boxes, labels, objects):
    cost = np.zeros((len(boxes), len(objects)))
    for i, j in np.ndindex(*cost.shape):
        if score == "softmax":
            each = -np.exp(logits[i, labels[j]]) / np.exp(logits[i]).sum()
        else:
            p = 1 / (1 + np.exp(-logits[i, labels[j]]))
            each = 2 * (0.75 * p**2 * np.log(1 - p) - 0.25 * (1 - p) ** 2 * np.log(p))
        cost[i, j] = each + 5 * np.abs(boxes[i] - objects[j]).sum() - 2 * giou(boxes[i], objects[j])
    return cost


@pytest.mark.parametrize("score", list(MATCHERS))
def test_matchings_cost_as_little_as_those_of_scipy(score):
    """No object, some, as many as queries, and more than those; absent rows lie anywhere."""
    matcher = MATCHERS[score]
    with strict():
        match = jax.jit(matcher)
        rng = np.random.default_rng(0)
        for count in (0, 1, 3, 4, 6):
            logits, labels = rng.normal(size=(4, 5)).astype(np.float32), rng.integers(0, 5, 6).astype(np.int32)
            boxes, objects = (rng.uniform(0.2, 0.5, (n, 4)).astype(np.float32) for n in (4, 6))
            valid = rng.permutation(np.arange(6) < count)
            found = match(*map(jnp.asarray, (logits, boxes, labels, np.where(valid[:, None], objects, 0), valid)))
            cost = oracle(score, *(np.asarray(x, np.float64) for x in (logits, boxes)), labels, objects)
            rows, columns = linear_sum_assignment(cost[:, valid])
            hit = np.flatnonzero(found.positive)
            truth = np.asarray(found.truth)[hit]
            assert len(hit) == min(count, 4) == len(set(truth)) and valid[truth].all()
            assert cost[hit, truth].sum() == pytest.approx(cost[:, valid][rows, columns].sum(), abs=1e-4)
            np.testing.assert_array_equal(found.negative, ~np.asarray(found.positive))


def classify(logits, labels, found):
    weights = jnp.where(found, 1.0, 0.1)
    return losses.cross_entropy(logits, jnp.where(found, labels, 3)) * weights, weights


def terms_of(logits, boxes, batch):
    return set_losses(logits, boxes, batch, MATCHERS["softmax"], classify, weights=(5.0, 2.0))


def test_each_layer_learns_from_its_own_matching():
    """Against loops; one image without an object, one of a smaller picture than the canvas, one that is not valid."""
    batch = batch_of([2, 0, 3, 4], SIZE, valid=[True, True, True, False])
    batch["size"][2] = (30, 40)
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(2, 4, 6, 4)).astype(np.float32)
    boxes = rng.uniform(0.1, 0.6, (2, 4, 6, 4)).astype(np.float32)
    with strict():
        terms = jax.jit(terms_of)(jnp.asarray(logits), jnp.asarray(boxes), jax.tree.map(jnp.asarray, batch))
    assert set(terms) == {"classification", "box", "giou", "classification_0", "box_0", "giou_0"}
    truth = batch["targets"]
    for layer, suffix in ((0, "_0"), (1, "")):
        expected = {"classification": [0, 0], "box": [0, 0], "giou": [0, 0]}
        for image in range(3):
            rows = truth.valid[image]
            height, width = batch["size"][image]
            left, top, right, bottom = truth.boxes[image][rows].T
            middle = (left + right) / 2 / width, (top + bottom) / 2 / height
            objects = np.stack([*middle, (right - left) / width, (bottom - top) / height], axis=1)
            own, labels = (logits[layer, image], boxes[layer, image]), truth.labels[image][rows]
            queries, columns = linear_sum_assignment(oracle("softmax", *own, labels, objects))
            said = np.full(6, 3)
            said[queries] = labels[columns]
            weights = np.where(said == 3, 0.1, 1.0)
            chances = np.exp(own[0])[np.arange(6), said] / np.exp(own[0]).sum(1)
            expected["classification"] += np.array([-(weights * np.log(chances)).sum(), weights.sum()])
            apart = [1 - giou(own[1][i], objects[j]) for i, j in zip(queries, columns, strict=True)]
            expected["box"] += np.array([5 * np.abs(own[1][queries] - objects[columns]).sum(), len(queries)])
            expected["giou"] += np.array([2 * np.sum(apart), len(queries)])
        for name, pair in expected.items():
            np.testing.assert_allclose(terms[name + suffix], pair, rtol=1e-5)


def test_shares_and_pixels_are_inverse():
    boxes = jnp.asarray([[[2.0, 4.0, 20.0, 24.0], [0.0, 0.0, 40.0, 30.0]]])
    size = jnp.asarray([[30.0, 40.0]])
    with strict():
        shares = to_shares(boxes, size)
        np.testing.assert_allclose(to_pixels(shares, size), boxes, atol=1e-5)
    np.testing.assert_allclose(shares[0, 1], [0.5, 0.5, 1, 1])
    assert jnp.isfinite(to_shares(boxes, jnp.zeros((1, 2)))).all()


def test_an_unknown_cost_is_refused():
    with pytest.raises(ValueError, match="unknown score 'softmaxx': did you mean 'softmax'"):
        SetMatcher(score="softmaxx")
