"""Panoptic quality: numbers that follow from the definition, an oracle on random maps, and sums of parts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.detection.panoptic_metrics import PanopticQuality, common_pixels
from jaxvision.engine.metrics import merge
from jaxvision.ops import to_size
from jaxvision.structures import PanopticSegments
from tests.conftest import strict

CLASSES, STUFF = 4, 2
"""0 and 1 are things, 2 and 3 stuff."""
SLOTS = 6
METRIC = PanopticQuality(CLASSES, STUFF)
update = jax.jit(METRIC.update)


def batch_of(truth, found, to_original=None, original_size=None, valid=None):
    """From images (map, labels, crowd) and predictions (map, labels); maps hold numbers from 1."""
    images, size = len(truth), truth[0][0].shape

    def rows(values, dtype):
        padded = np.zeros((images, SLOTS), dtype)
        for row, own in zip(padded, values, strict=True):
            row[: len(own)] = own
        return padded

    batch = {
        "panoptic": np.stack([image[0] for image in truth]).astype(np.int32),
        "segment_labels": rows([image[1] for image in truth], np.int32),
        "segment_crowd": rows([image[2] for image in truth], bool),
        "segment_valid": rows([np.ones(len(image[1])) for image in truth], bool),
        "to_original": np.tile(np.eye(3, dtype=np.float32) if to_original is None else to_original, (images, 1, 1)),
        "original_size": np.tile(np.asarray(size if original_size is None else original_size, np.int32), (images, 1)),
        "valid": np.ones(images, bool) if valid is None else np.asarray(valid),
    }
    labels = rows([image[1] for image in found], np.int32)
    real = rows([np.ones(len(image[1])) for image in found], bool)
    maps = np.stack([image[0] for image in found]).astype(np.int32)
    return PanopticSegments(None, maps, labels, real), batch


def score(*args, **options):
    with strict():
        state = update(*batch_of(*args, **options))
    return METRIC.compute(jax.device_get(state))


def row(*runs):
    """A map of one row from (number, how many pixels)."""
    return np.concatenate([np.full(count, number) for number, count in runs])[None]


def oracle(truth, found):
    """Per class [iou, matched, false, missed] by the definition, from sets of pixels."""
    sums = np.zeros((CLASSES, 4))
    for (true_map, true_labels, crowd), (found_map, labels) in zip(truth, found, strict=True):

        def pixels(values, number):
            return set(np.flatnonzero(values.ravel() == number).tolist())

        void = pixels(true_map, 0)
        true = {i: pixels(true_map, i) for i in range(1, len(true_labels) + 1)}
        said = {j: pixels(found_map, j) for j in range(1, len(labels) + 1)}
        said = {j: own for j, own in said.items() if own}
        hit_true, hit_said = set(), set()
        for i, there in true.items():
            for j, own in said.items():
                if crowd[i - 1] or true_labels[i - 1] != labels[j - 1]:
                    continue
                overlap = len(there & own) / len((there | own) - (void & own))
                if overlap > 0.5:
                    assert i not in hit_true and j not in hit_said
                    hit_true.add(i), hit_said.add(j)
                    sums[labels[j - 1], :2] += overlap, 1
        for i in true:
            sums[true_labels[i - 1], 3] += i not in hit_true and not crowd[i - 1]
        for j, own in said.items():
            ignored = set(void)
            for i, there in true.items():
                ignored |= there if crowd[i - 1] and true_labels[i - 1] == labels[j - 1] else set()
            sums[labels[j - 1], 2] += j not in hit_said and len(own & ignored) <= len(own) / 2
    return sums


def drawn(rng, size=(12, 15)):
    """A random image of truth and a prediction that is like it here and there."""
    count = int(rng.integers(1, SLOTS + 1))
    corners = rng.integers(0, size, (count, 2, 2))
    true_map = np.zeros(size, int)
    for number, (a, b) in enumerate(corners, 1):
        true_map[min(a[0], b[0]) : max(a[0], b[0]) + 4, min(a[1], b[1]) : max(a[1], b[1]) + 4] = number
    labels = rng.integers(0, CLASSES, count)
    seen, inverse = np.unique(true_map[true_map > 0], return_inverse=True)
    true_map[true_map > 0] = inverse + 1
    labels, crowd = labels[seen - 1], rng.random(len(seen)) < 0.3
    shift = rng.integers(0, 2, 2)
    found_map = np.roll(true_map, shift, (0, 1))
    found_map[rng.random(size) < 0.1] = 0
    changed = np.where(rng.random(len(labels)) < 0.2, rng.integers(0, CLASSES, len(labels)), labels)
    return (true_map, labels, crowd), (found_map, changed)


def test_perfect_predictions_reach_one():
    image = row((1, 6), (2, 5), (0, 3), (3, 9))
    results = score([(image, [0, 1, 2], [False] * 3)], [(image, [0, 1, 2])])
    for name in ("pq", "sq", "rq", "pq_things", "sq_things", "rq_things", "pq_stuff", "sq_stuff", "rq_stuff"):
        assert results[name] == 1.0, name
    np.testing.assert_array_equal(results["pq_per_class"], [1, 1, 1, np.nan])


def test_known_predictions_have_the_known_numbers():
    """Class 0: a match of IoU 8 / 12, one missed, one false. Class 2: IoU 16 / 20. Class 1: one false."""
    truth = row((1, 10), (3, 6), (2, 20))
    found = row((1, 8), (0, 2), (4, 2), (1, 2), (3, 2), (2, 16), (5, 4))
    results = score([(truth, [0, 2, 0], [False] * 3)], [(found, [0, 2, 0, 0, 1])])
    # Segments 3 (2 of 6 pixels) and 4 (2 of 6) of class 0 match nothing: two false ones.
    np.testing.assert_allclose(results["sq_per_class"], [8 / 12, 0, 16 / 20, np.nan], rtol=1e-6)
    np.testing.assert_allclose(results["rq_per_class"], [1 / 2.5, 0, 1, np.nan], rtol=1e-6)
    assert results["pq"] == pytest.approx((8 / 12 / 2.5 + 0 + 16 / 20) / 3, rel=1e-6)
    assert results["pq_things"] == pytest.approx(8 / 12 / 2.5 / 2, rel=1e-6)
    assert results["pq_stuff"] == pytest.approx(0.8, rel=1e-6)
    assert results["rq_things"] == pytest.approx(0.2, rel=1e-6)


def test_a_half_is_no_match_and_void_is_no_part_of_the_union():
    half = score([(row((1, 8), (2, 8)), [0, 2], [False] * 2)], [(row((1, 4), (0, 12)), [0])])
    assert half["pq"] == 0.0 and half["rq_per_class"][0] == 0.0
    beside_void = score([(row((1, 8), (0, 8)), [0], [False])], [(row((1, 6), (0, 2), (1, 8)), [0])])
    assert beside_void["pq"] == pytest.approx(6 / 8, rel=1e-6)


@pytest.mark.parametrize(("uncounted", "false"), [(5, True), (6, False)])
@pytest.mark.parametrize("kind", ["void", "crowd"])
def test_segments_mostly_on_void_or_on_crowds_of_their_class_are_not_false(uncounted, false, kind):
    """Of ten pixels exactly a half does not excuse. The true object of class 1 is found."""
    crowd = kind == "crowd"
    truth = row((1, 10), (3 if crowd else 0, uncounted), (2, 10 - uncounted))
    labels, crowds = ([1, 3, 0], [False, False, True]) if crowd else ([1, 3], [False] * 2)
    found = row((1, 10), (2, 10))
    results = score([(truth, labels, crowds)], [(found, [1, 0])])
    assert results["pq_per_class"][1] == 1.0
    assert np.isnan(results["pq_per_class"][0]) != false
    other = score([(truth, labels, crowds)], [(found, [1, 1])])
    assert other["rq_per_class"][1] == pytest.approx(1 / 1.5 if crowd or false else 1.0)


def test_random_maps_equal_the_definition_and_parts_add_up():
    rng = np.random.default_rng(0)
    pairs = [drawn(rng) for _ in range(60)]
    truth, found = zip(*pairs, strict=True)
    expected = oracle(truth, found)
    assert (expected > 0).all()
    names = ("iou", "matched", "false", "missed")
    whole = update(*batch_of(truth, found))
    np.testing.assert_allclose(np.stack([whole[name] for name in names], 1), expected, rtol=1e-5)
    halves = [update(*batch_of(truth[part], found[part])) for part in (slice(0, 30), slice(30, 60))]
    parts = METRIC.compute(jax.device_get(merge(*halves)))
    for name, value in METRIC.compute(jax.device_get(whole)).items():
        np.testing.assert_allclose(parts[name], value, rtol=1e-6, err_msg=name)
    padded = update(*batch_of(truth, found, valid=np.arange(60) < 30))
    for name in names:
        np.testing.assert_allclose(padded[name], halves[0][name], rtol=1e-6)


@pytest.mark.parametrize(("scale", "original"), [((2.0, 2.0), (16, 20)), ((0.5, 0.25), (4, 3)), ((1.6, 0.6), (12, 5))])
def test_pixels_of_the_original_are_counted(scale, original):
    """The canvas has 8 x 10 pixels; its last ones may lie beyond the picture."""
    rng = np.random.default_rng(1)
    truth, found = rng.integers(0, 4, (2, 8, 10)).astype(np.int32)
    matrix = np.diag([scale[1], scale[0], 1.0]).astype(np.float32)
    true, said = (to_size(values, matrix, original) for values in (truth, found))
    expected = np.zeros((4, 4), int)
    np.add.at(expected, (true, said), 1)
    every = jnp.ones(3, bool)
    got = jax.jit(common_pixels)(truth, found, every, every, matrix, np.asarray(original, np.int32))
    # Beyond the canvas `to_size` has zeros, which no pixel of it stands for.
    reached = [
        int(np.minimum(np.ceil(side * step - 0.5), length))
        for side, step, length in zip((8, 10), scale, original, strict=True)
    ]
    expected[0, 0] -= original[0] * original[1] - reached[0] * reached[1]
    np.testing.assert_array_equal(got, expected)


def test_nothing_there_and_nothing_said_has_no_number():
    results = score([(row((0, 8)), [], [])], [(row((0, 8)), [])])
    assert np.isnan(results["pq"]) and set(results) == {"pq", "pq_per_class", "sq_per_class", "rq_per_class"}
