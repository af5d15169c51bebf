"""The assignment of objects to anchors against loops in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.detection.assigners import MaxIoUAssigner
from tests.conftest import strict

pytestmark = pytest.mark.usefixtures("unoptimized")


def overlap(a, b):
    side = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    common = np.prod(np.maximum(side, 0))
    whole = np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - common
    return common / whole if whole > 0 else 0.0


def oracle(rule, anchors, boxes, valid, usable):
    """(row of the object, -1 negative, -2 neither) of each anchor."""
    objects = np.flatnonzero(valid)
    table = np.array([[overlap(anchor, boxes[j]) for j in objects] for anchor in anchors]).reshape(len(anchors), -1)
    table = table.astype(np.float32)
    answer = np.full(len(anchors), -2)
    for i in range(len(anchors)):
        best = table[i].max(initial=0.0)
        if best < rule.negative:
            answer[i] = -1
        if len(objects) and best >= rule.positive:
            answer[i] = objects[table[i].argmax()]
    if rule.low_quality != "none":
        for column, j in enumerate(objects):
            most = table[usable, column].max(initial=0.0)
            equal = [i for i in np.flatnonzero(usable) if most > 0 and most >= rule.least and table[i, column] == most]
            for i in equal[:1] if rule.low_quality == "first" else equal:
                answer[i] = objects[table[i].argmax()] if rule.low_quality == "anchor" else j
    answer[~usable] = -2
    return answer


def random_case(rng, anchors=60, objects=5):
    def boxes(count, least):
        low = rng.integers(0, 24, (count, 2))
        return np.concatenate([low, low + rng.integers(least, 16, (count, 2))], axis=1).astype(np.float32)

    return boxes(anchors, 1), boxes(objects, 0)


@pytest.mark.parametrize("low_quality", ["none", "truth", "first", "anchor"])
def test_random_boxes_are_assigned_as_loops_assign_them(low_quality):
    """Whole coordinates, so that many overlaps are equal; objects without area are among them."""
    rng = np.random.default_rng(0)
    rule = MaxIoUAssigner(positive=0.5, negative=0.3, low_quality=low_quality, least=0.1)
    with strict():
        assign = jax.jit(rule)
        for case in range(20):
            anchors, boxes = random_case(rng)
            valid = rng.random(5) < (0.0, 0.3, 0.7, 1.0)[case % 4]
            usable = rng.random(60) < 0.8
            found = assign(*map(jnp.asarray, (anchors, boxes, valid, usable)))
            expected = oracle(rule, anchors, boxes, valid, usable)
            np.testing.assert_array_equal(found.positive, expected >= 0)
            np.testing.assert_array_equal(found.negative, expected == -1)
            np.testing.assert_array_equal(np.asarray(found.truth)[expected >= 0], expected[expected >= 0])


def test_an_image_without_objects_has_only_negatives_and_unusable_anchors_are_neither():
    anchors = jnp.asarray([[0, 0, 8, 8], [4, 4, 9, 9.0]])
    boxes, none = jnp.zeros((3, 4)), jnp.zeros(3, bool)
    found = MaxIoUAssigner()(anchors, boxes, none)
    assert not found.positive.any() and found.negative.all()
    found = MaxIoUAssigner()(anchors, boxes, none, jnp.asarray([True, False]))
    assert found.negative.tolist() == [True, False]


def test_an_object_that_no_anchor_touches_gets_none():
    """In the references it gets every anchor that misses it."""
    anchors, box = jnp.asarray([[0, 0, 8, 8.0]]), jnp.asarray([[20, 20, 30, 30.0]])
    found = MaxIoUAssigner()(anchors, box, jnp.ones(1, bool))
    assert not found.positive.any() and found.negative.all()


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="0 <= negative <= positive"):
        MaxIoUAssigner(positive=0.3, negative=0.5)
    with pytest.raises(ValueError, match="did you mean 'truth'"):
        MaxIoUAssigner(low_quality="thruth")
