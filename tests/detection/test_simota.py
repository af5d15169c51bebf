"""SimOTA against loops in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.detection.simota import SimOTAAssigner
from tests.conftest import strict
from tests.detection.test_assigners import overlap

pytestmark = pytest.mark.usefixtures("unoptimized")
CANDIDATES = 6
POINTS = np.array(
    [(s * (x + 0.5), s * (y + 0.5), s) for s, n in ((8, 6), (16, 3)) for y in range(n) for x in range(n)], np.float32
)
"""Of a picture of 48 x 48 pixels."""


def oracle(said, scores, boxes, labels, valid, radius=2.5):
    """(row of the object or -1, overlap with it) of each point: the paper's steps, pair by pair, in float64."""
    places, share = {}, np.zeros((len(boxes), len(POINTS)))
    cost = np.full(share.shape, np.inf)
    for j in np.flatnonzero(valid):
        middle = (boxes[j, :2] + boxes[j, 2:]) / 2
        inside = [(xy > boxes[j, :2]).all() and (xy < boxes[j, 2:]).all() for xy in POINTS[:, :2]]
        near = [(np.abs(x[:2] - middle) < radius * x[2]).all() for x in POINTS]
        places[j] = np.array(inside), np.array(near)
    usable = [i for i in range(len(POINTS)) if any(a[i] or b[i] for a, b in places.values())]
    for j, (inside, near) in places.items():
        for i in usable:
            share[j, i] = overlap(said[i].astype(np.float64), boxes[j].astype(np.float64))
            wanted = np.arange(scores.shape[1]) == labels[j]
            entropy = -np.log(np.where(wanted, scores[i], 1 - scores[i])).sum()
            cost[j, i] = entropy - 3 * np.log(share[j, i] + 1e-7) + (0 if inside[i] and near[i] else 1e5)
    takers = [[] for _ in POINTS]
    for j, (inside, near) in places.items():
        if not (inside | near).any():
            continue
        count = max(int(np.sort(share[j, usable])[::-1][:CANDIDATES].sum()), 1)
        for i in sorted(usable, key=lambda i: cost[j, i])[:count]:
            takers[i].append(j)
    answer = np.full(len(POINTS), -1)
    for i, some in enumerate(takers):
        if some:
            answer[i] = some[0] if len(some) == 1 else cost[:, i].argmin()
    return answer, np.where(answer >= 0, share[answer, np.arange(len(POINTS))], 0), max(map(len, takers))


def case(rng, number):
    corners = rng.uniform(-4, 52, (5, 2, 2))
    boxes = np.concatenate([corners.min(1), corners.max(1)], axis=1).astype(np.float32)
    boxes[4] += 500 if number % 3 else 0  # no point is near
    boxes[3, 2:] = boxes[3, :2] + (0 if number % 2 else 1)
    if number % 5 == 0:
        boxes[1] = boxes[0] + 1  # both want the same points
    truth = boxes[rng.integers(0, 3, len(POINTS))]
    said = (truth + rng.normal(0, 4, truth.shape)).astype(np.float32)
    said[:, 2:] = np.maximum(said[:, 2:], said[:, :2])
    valid = rng.random(5) < (0.0, 0.5, 0.9, 1.0)[number % 4]
    scores = rng.uniform(0.01, 0.99, (len(POINTS), 3)).astype(np.float32)
    return said, scores, boxes, rng.integers(0, 3, 5).astype(np.int32), valid


def test_random_boxes_are_assigned_as_loops_assign_them():
    """Images without objects, objects without area or points, and points that several objects want are among them."""
    rng = np.random.default_rng(0)
    with strict():
        assign = jax.jit(SimOTAAssigner(candidates=CANDIDATES))
        positives, contested = 0, 0
        for number in range(24):
            inputs = case(rng, number)
            found, share = assign(jnp.asarray(POINTS), *map(jnp.asarray, inputs))
            expected, overlaps, most = oracle(*inputs)
            np.testing.assert_array_equal(np.where(found.positive, found.truth, -1), expected)
            np.testing.assert_array_equal(found.negative, ~np.asarray(found.positive))
            np.testing.assert_allclose(share, overlaps, atol=1e-5)
            positives, contested = positives + (expected >= 0).sum(), contested + (most > 1)
        assert positives > 100 and contested > 5


def test_probabilities_of_zero_and_one_have_a_finite_cost():
    said, _, boxes, labels, _ = case(np.random.default_rng(1), 1)
    certain = jnp.asarray(np.arange(3) == 1, jnp.float32) + jnp.zeros((len(POINTS), 1))
    found, share = jax.jit(SimOTAAssigner())(
        *map(jnp.asarray, (POINTS, said, certain, boxes, labels, np.ones(5, bool)))
    )
    assert found.positive.any() and jnp.isfinite(share).all()


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="at least one candidate"):
        SimOTAAssigner(candidates=0)
