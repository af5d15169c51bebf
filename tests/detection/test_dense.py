"""Anchors, the choice of candidates and their suppression."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.detection.anchors import Anchors, in_picture, octaves, prior_bias
from jaxvision.detection.dense import Suppression, best_pairs, detect, suppress
from tests.conftest import strict

pytestmark = pytest.mark.usefixtures("unoptimized")


def test_anchors_have_the_area_of_their_scale_and_the_ratio_height_over_width():
    anchors = Anchors(scales=(2.0, 4.0), ratios=(0.5, 2.0))
    (boxes,) = anchors({"p3": (2, 3)}, {"p3": 8}, (16, 24))
    assert boxes.shape == (2 * 3 * anchors.per_cell, 4)
    sides = np.asarray(boxes[:, 2:] - boxes[:, :2])
    np.testing.assert_allclose(sides.prod(1).reshape(-1, 2), [[256, 1024]] * 12, rtol=1e-5)
    np.testing.assert_allclose((sides[:, 1] / sides[:, 0])[:4], [0.5, 0.5, 2, 2], rtol=1e-6)
    centres = np.asarray(boxes[:, :2] + boxes[:, 2:])[::4] / 2
    np.testing.assert_allclose(centres, [[0, 0], [8, 0], [16, 0], [0, 8], [8, 8], [16, 8]], atol=1e-5)


def test_retinanets_anchors_are_those_of_the_paper_and_torchvisions_are_whole():
    """Section 4: areas of 32**2 to 512**2 on p3 to p7, three octave scales."""
    np.testing.assert_allclose(np.asarray(octaves(4.0, 3)) * 8, [32, 40.3175, 50.7968], rtol=1e-5)
    whole = Anchors(whole=True).base(8)
    assert (whole == np.round(whole)).all()
    np.testing.assert_array_equal(whole[3:6], [[-16, -16, 16, 16], [-20, -20, 20, 20], [-25, -25, 25, 25]])
    (boxes,) = Anchors(whole=True, scales=(1.0,), ratios=(1.0,))({"p7": (2, 2)}, {"p7": 128}, (192, 256))
    np.testing.assert_array_equal(np.asarray(boxes[:, :2] + boxes[:, 2:]) / 2, [[0, 0], [128, 0], [0, 96], [128, 96]])


def test_cells_in_the_padding_of_the_canvas_are_not_in_the_picture():
    (boxes,) = Anchors(scales=(4.0,), ratios=(1.0,))({"p3": (8, 8)}, {"p3": 8}, (64, 64))
    inside = in_picture(boxes, jnp.asarray([[64, 64], [33, 20], [32, 64.0]]))
    grids = np.asarray(inside).reshape(3, 8, 8)
    assert grids[0].all()
    assert grids[1, :8, :4].all() and grids[1].sum() == 32  # 33 x 20 pixels are rounded up to 64 x 32
    assert grids[2, :4].all() and grids[2].sum() == 32


def test_the_prior_is_what_the_sigmoid_gives():
    assert jax.nn.sigmoid(prior_bias(0.01)) == pytest.approx(0.01)


@pytest.mark.parametrize(("rows", "classes", "count"), [(40, 3, 7), (5, 3, 7), (5, 1, 7), (1, 4, 2)])
def test_the_best_pairs_are_those_of_a_stable_sort_of_all(rows, classes, count):
    rng = np.random.default_rng(rows)
    choose = jax.jit(best_pairs, static_argnums=1)
    with strict():
        for most in (3, 1000):  # few values: many ties
            logits = rng.integers(-most, most, (rows, classes)).astype(np.float32)
            values, row, label = choose(jnp.asarray(logits), count)
            order = np.argsort(-logits.ravel(), kind="stable")[:count]
            np.testing.assert_array_equal(values, logits.ravel()[order])
            np.testing.assert_array_equal(row, order // classes)
            np.testing.assert_array_equal(label, order % classes)


def test_detections_are_suppressed_within_a_class_and_padded():
    boxes = jnp.asarray([[0, 0, 10, 10], [1, 0, 11, 10], [20, 20, 30, 30], [5, 5, 5, 9.0]])
    logits = jnp.asarray([[4.0, 3.0], [2.0, -9.0], [-9.0, 1.0], [9.0, 9.0]])
    settings = Suppression(score_threshold=0.1, max_detections=6)
    with strict():
        size, priors = jnp.asarray([[25, 28.0]]), jnp.zeros((4, 4))
        found = detect((logits[None],), (boxes[None],), (priors,), lambda _, code: code, size, settings)
    # The second box overlaps the first; the last has no width; the third is clipped to the picture.
    assert found.valid[0].tolist() == [True] * 3 + [False] * 3
    assert found.labels[0].tolist() == [0, 1, 1, 0, 0, 0]
    np.testing.assert_array_equal(found.boxes[0, :3], [[0, 0, 10, 10], [0, 0, 10, 10], [20, 20, 28, 25]])
    np.testing.assert_allclose(found.scores[0], [*jax.nn.sigmoid(jnp.asarray([4.0, 3.0, 1.0])), 0, 0, 0], rtol=1e-6)
    assert not found.boxes[0, 3:].any()


@pytest.mark.parametrize(("rows", "count"), [(40, 7), (5, 30)])
def test_the_best_pairs_with_a_quality_are_those_of_the_product(rows, count):
    rng = np.random.default_rng(rows)
    logits, quality = rng.normal(size=(rows, 3)).astype(np.float32), rng.normal(size=rows).astype(np.float32)
    with strict():
        values, row, label = jax.jit(best_pairs, static_argnums=1)(jnp.asarray(logits), count, jnp.asarray(quality))
    product = 1 / (1 + np.exp(-logits)) / (1 + np.exp(-quality[:, None]))
    order = np.argsort(-product.ravel())[:count]
    np.testing.assert_array_equal(np.stack([row, label], 1), np.stack([order // 3, order % 3], 1))
    np.testing.assert_allclose(np.exp(values), product.ravel()[order], rtol=1e-5)


def test_a_quality_scales_scores_before_or_after_candidates_are_chosen():
    """The sigmoid of 0 is a half. A class of 0.5 passes a threshold of 0.4 although its product does not."""
    boxes = jnp.asarray([[[0, 0, 10, 10], [20, 0, 30, 10.0]]])
    logits, quality = jnp.zeros((1, 2, 1)), jnp.asarray([[0.0, 30.0]])
    size, priors = jnp.asarray([[40.0, 40.0]]), (jnp.zeros((2, 4)),)
    settings = Suppression(score_threshold=0.4)
    given = (logits,), (boxes,), priors, lambda _, code: code, size
    with strict():
        product = detect(*given, settings, (quality,))
        mean = detect(*given, dataclasses.replace(settings, score_threshold=0.6), (quality,), "geometric_mean")
    np.testing.assert_allclose(product.scores[0, :3], [0.5, 0.25, 0], rtol=1e-6)
    np.testing.assert_allclose(mean.scores[0, :2], [0.5**0.5, 0], rtol=1e-6)
    with pytest.raises(ValueError, match="did you mean 'product'"):
        detect(*given, settings, (quality,), "produkt")


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="at least 1"):
        Suppression(max_detections=0)
    with pytest.raises(ValueError, match="positive numbers"):
        Anchors(scales=())


@pytest.mark.parametrize(("class_agnostic", "kept"), [(False, [0, 1, 2]), (True, [0, 2])])
def test_boxes_of_other_classes_are_suppressed_where_classes_do_not_count(class_agnostic, kept):
    boxes = jnp.asarray([[0, 0, 10, 10], [0, 0, 10, 9], [20, 0, 30, 10.0]])
    scores, labels = jnp.asarray([0.9, 0.8, 0.7]), jnp.asarray([0, 1, 0])
    settings = Suppression(class_agnostic=class_agnostic, max_detections=3)
    found = suppress(boxes, scores, labels, jnp.ones(3, bool), settings)
    np.testing.assert_array_equal(found.scores[found.valid], scores[jnp.asarray(kept)])
