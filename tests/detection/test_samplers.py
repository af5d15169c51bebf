"""Which candidates are drawn: numbers, membership, and chances against counting in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.detection.assigners import Assignment
from jaxvision.detection.roi_heads import BoxStage
from jaxvision.detection.samplers import RandomSampler, hardest
from jaxvision.structures import Instances
from tests.conftest import strict

pytestmark = pytest.mark.usefixtures("unoptimized")


def assignment(rng, size, positives, negatives):
    order = rng.permutation(size)
    kind = np.zeros(size, int)
    kind[order[:positives]], kind[order[positives : positives + negatives]] = 1, -1
    return Assignment(*map(jnp.asarray, (rng.integers(0, 5, size).astype(np.int32), kind == 1, kind == -1)))


@pytest.mark.parametrize("rule", [RandomSampler(count=8, positive_fraction=0.5), RandomSampler(count=1000)])
def test_positives_come_first_up_to_their_share_and_negatives_fill_the_rest(rule):
    rng = np.random.default_rng(0)
    sample = jax.jit(rule)
    with strict():
        for positives, negatives in ((0, 0), (0, 30), (1, 30), (3, 2), (4, 30), (12, 9), (12, 0), (40, 0)):
            found = assignment(rng, 40, positives, negatives)
            drawn = jax.tree.map(np.asarray, sample(jax.random.key(positives), found))
            size, most = min(rule.count, 40), min(int(rule.count * rule.positive_fraction), 40)
            expected = min(positives, most)
            assert drawn.rows.shape == (size,) and drawn.rows.dtype == np.int32
            assert drawn.positive.sum() == expected and drawn.positive[:expected].all()
            assert drawn.valid.sum() == expected + min(negatives, size - expected)
            assert drawn.valid[: drawn.valid.sum()].all(), "padding comes last"
            real = drawn.rows[drawn.valid]
            assert len(set(real)) == len(real)
            assert np.asarray(found.positive)[drawn.rows[drawn.positive]].all()
            assert np.asarray(found.negative)[drawn.rows[drawn.valid & ~drawn.positive]].all()
            np.testing.assert_array_equal(drawn.truth, np.asarray(found.truth)[drawn.rows])


def test_every_candidate_has_the_same_chance():
    found = assignment(np.random.default_rng(1), 30, 10, 20)
    keys = jax.random.split(jax.random.key(0), 2000)
    drawn = jax.jit(jax.vmap(RandomSampler(count=8, positive_fraction=0.5), in_axes=(0, None)))(keys, found)
    often = np.bincount(np.asarray(drawn.rows).ravel(), minlength=30) / len(keys)
    # 4 of 10 positives, 4 of 20 negatives; a standard deviation is 0.011.
    np.testing.assert_allclose(often[np.asarray(found.positive)], 0.4, atol=0.05)
    np.testing.assert_allclose(often[np.asarray(found.negative)], 0.2, atol=0.05)


def test_regions_to_learn_from_are_proposals_and_the_objects_themselves():
    """Image 0: two objects, of which one has no area; image 1: none. Padding of either is never drawn."""
    boxes = np.zeros((2, 3, 4), np.float32)
    boxes[0, 0], boxes[0, 1] = (0, 0, 10, 10), (20, 20, 20, 20)
    valid = np.array([[True, True, False], [False] * 3])
    nothing = np.zeros((2, 3))
    targets = Instances(boxes, nothing.astype(np.int32), valid, nothing.astype(bool), nothing.astype(np.float32))
    one = np.array([(0, 0, 10, 9), (0, 0, 10, 4), (5, 5, 30, 30), (0, 0, 10, 10)], np.float32)
    real = np.array([[True, True, True, False], [True, True, False, False]])
    with strict():
        sample = jax.jit(BoxStage(sampler=RandomSampler(count=100)).sample)
        rois, drawn = sample(jax.random.key(0), jnp.stack([one, one]), jnp.asarray(real), targets)
    assert rois.shape == (2, 7, 4)
    np.testing.assert_array_equal(drawn.valid.sum(1), [5, 2])
    hits = {(tuple(map(float, rois[0, i])), int(drawn.truth[0, i])) for i in np.flatnonzero(drawn.positive[0])}
    assert hits == {((0, 0, 10, 10), 0), ((20, 20, 20, 20), 1), ((0, 0, 10, 9), 0)}
    assert not drawn.positive[1].any() and set(np.asarray(drawn.rows[1])[drawn.valid[1]]) == {3, 4}


def test_wrong_settings_are_refused():
    for settings in ({"positive_fraction": 0.0}, {"positive_fraction": 1.5}, {"count": 3, "positive_fraction": 0.25}):
        with pytest.raises(ValueError, match="a fraction in"):
            RandomSampler(**settings)


def test_the_hardest_negatives_are_those_that_sorting_finds():
    rng = np.random.default_rng(0)
    for most in (3, 1000):  # few values: many ties
        values = rng.integers(0, most, (4, 30)).astype(np.float32)
        candidates, counts = rng.random((4, 30)) < 0.6, np.array([0, 3, 9, 90], np.float32)
        with strict():
            found = np.asarray(hardest(jnp.asarray(values), jnp.asarray(candidates), jnp.asarray(counts)))
        for row, count in enumerate(counts.astype(int)):
            known = np.flatnonzero(candidates[row])
            best = known[np.argsort(-values[row, known], kind="stable")[:count]]
            assert sorted(best) == np.flatnonzero(found[row]).tolist()
