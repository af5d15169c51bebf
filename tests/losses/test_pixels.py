"""Losses of label maps against numpy, also where all pixels are ignored or there is one class; slopes stay finite."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from jaxvision.losses import pixels
from tests.conftest import strict

SHAPE, CLASSES = (3, 6, 7), 4
LOSSES = (
    pixels.CrossEntropy(),
    pixels.CrossEntropy(class_weights=(0.5, 1.0, 2.0, 0.1), count_ignored=True, label_smoothing=0.1),
    pixels.OHEM(min_kept=5),
    pixels.OHEM(threshold=0.2, min_kept=10, count_all=True, class_weights=(0.5, 1.0, 2.0, 0.1)),
    pixels.Focal(alpha=0.25),
    pixels.Dice(),
    pixels.Dice(smooth=1.0, log=True, per_image=True, classes=(1, 3)),
    pixels.Jaccard(),
    pixels.Tversky(alpha=0.3, beta=0.7, gamma=0.75),
    pixels.Lovasz(),
    pixels.Lovasz(per_image=True),
    pixels.Boundary(),
)


def case(kind="mixed"):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (*SHAPE, CLASSES)).astype(np.float32)
    labels = rng.integers(0, CLASSES - 1, SHAPE).astype(np.int32)  # the last class does not occur
    labels[rng.random(SHAPE) < 0.2] = 255
    labels[0, 0, 0] = 99
    if kind != "mixed":
        labels[:] = 255 if kind == "ignored" else 1
    return logits, labels, np.array([True, True, False])


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@functools.cache
def compiled(loss):
    def quotient(logits, labels, valid):
        total, count = loss(logits, labels, valid)
        return total / jnp.where(count > 0, count, 1.0)

    return jax.jit(jax.value_and_grad(quotient))


def value(loss, *inputs):
    """The quotient, 0 for no count, and its slopes."""
    with strict():
        return compiled(loss)(*map(jnp.asarray, inputs))


def of_pixels():
    """(probabilities [n, C], labels [n]) of the pixels that count."""
    logits, labels, valid = case()
    known = (labels < CLASSES) & valid[:, None, None]
    return softmax(logits.astype(np.float64))[known], labels[known]


@pytest.mark.parametrize("kind", ["ignored", "one"])
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.term)
def test_slopes_are_finite_where_nothing_or_one_class_is_to_be_learned(loss, kind, unoptimized):
    logits, labels, valid = case(kind)
    for wide in (logits, np.zeros_like(logits), logits * 1e4):
        found, slopes = value(loss, wide, labels, valid)
        assert np.isfinite(found) and np.isfinite(slopes).all()
        assert not np.any(slopes[2])  # of the row that is not valid
        if kind == "ignored":
            assert found == 0 and not np.any(slopes)


def test_cross_entropy():
    probability, labels = of_pixels()
    each = -np.log(probability[np.arange(len(labels)), labels])
    assert value(LOSSES[0], *case())[0] == pytest.approx(each.mean(), rel=1e-5)
    weights = np.array([0.5, 1.0, 2.0, 0.1])
    spread = 0.9 * np.eye(CLASSES)[labels] + 0.1 / CLASSES
    want = -(weights * spread * np.log(probability)).sum() / (2 * 6 * 7)
    assert value(LOSSES[1], *case())[0] == pytest.approx(want, rel=1e-5)
    with pytest.raises(ValueError, match="2 class_weights for 4 classes"):
        value(pixels.CrossEntropy(class_weights=(1.0, 1.0)), *case())


@pytest.mark.parametrize("threshold,kept", [(0.7, 5), (0.2, 10), (0.01, 10**6)])
def test_hard_pixels_are_those_of_low_probability_and_at_least_so_many(threshold, kept):
    probability, labels = of_pixels()
    own = probability[np.arange(len(labels)), labels]
    limit = max(np.sort(own)[min(2 * kept, len(own) - 1)], threshold)
    hard = own < limit
    want = -np.log(own[hard])
    assert value(pixels.OHEM(threshold=threshold, min_kept=kept), *case())[0] == pytest.approx(want.mean(), rel=1e-5)
    everything = pixels.OHEM(threshold=threshold, min_kept=kept, count_all=True)
    assert value(everything, *case())[0] == pytest.approx(want.sum() / (2 * 6 * 7), rel=1e-5)


def test_losses_of_regions():
    probability, labels = of_pixels()
    truth = np.eye(CLASSES)[labels]
    common, found, true = (x.sum(0) for x in (probability * truth, probability, truth))
    seen = true > 0
    scores = {
        pixels.Dice(): 2 * common / (found + true),
        pixels.Dice(smooth=2.0): (2 * common + 2) / (found + true + 2),
        pixels.Jaccard(): common / (found + true - common),
        pixels.Tversky(alpha=0.3, beta=0.7): common / (common + 0.3 * (found - common) + 0.7 * (true - common)),
    }
    for loss, score in scores.items():
        assert value(loss, *case())[0] == pytest.approx(np.where(seen, 1 - score, 0).mean(), rel=1e-5)
    few = np.where(seen, -np.log(np.maximum(scores[pixels.Dice()], 1e-7)), 0)[[1, 3]].mean()
    assert value(pixels.Dice(log=True, classes=(1, 3)), *case())[0] == pytest.approx(few, rel=1e-5)


def test_lovasz_is_the_extension_of_the_jaccard_loss():
    probability, labels = of_pixels()
    losses = []
    for i in range(CLASSES):
        true = labels == i
        if not true.any():
            continue
        errors = np.abs(true - probability[:, i])
        order = np.argsort(-errors, kind="stable")
        jaccard = [0.0]
        for k in range(1, len(order) + 1):  # the loss of a prediction that is wrong at the k largest errors
            wrong = np.zeros(len(order), bool)
            wrong[order[:k]] = True
            jaccard.append(1 - (true & ~wrong).sum() / (true | wrong).sum())
        losses.append((errors[order] * np.diff(jaccard)).sum())
    assert value(pixels.Lovasz(), *case())[0] == pytest.approx(np.mean(losses), rel=1e-5)


@pytest.mark.parametrize("reach", [None, 2])
def test_distances_are_those_of_scipy(reach):
    _, labels, valid = case()
    labels[1] = np.where(labels[1] == 2, 2, 255)
    inside = (labels == 2) & valid[:, None, None]
    limit = np.inf if reach is None else reach
    for i in range(2):
        away = np.minimum(ndimage.distance_transform_edt(~inside[i]), limit)
        deep = np.minimum(ndimage.distance_transform_edt(inside[i]), limit)
        want = np.where(inside[i], 1 - deep, away)
        with strict():
            found = pixels.signed_distance(jnp.asarray(inside[i : i + 1]), reach)[0]
        np.testing.assert_allclose(found, want, atol=1e-5)
    assert not np.any(pixels.signed_distance(jnp.zeros((1, 4, 4), bool)))


def test_the_boundary_loss_weighs_probabilities_by_distance():
    logits, labels, valid = case()
    known = (labels < CLASSES) & valid[:, None, None]
    probability = softmax(logits.astype(np.float64))
    total = 0.0
    for image in range(2):
        for i in range(CLASSES):
            inside = known[image] & (labels[image] == i)
            if inside.any():
                away, deep = ndimage.distance_transform_edt(~inside), ndimage.distance_transform_edt(inside)
                total += (np.where(inside, 1 - deep, away) * probability[image, ..., i])[known[image]].sum()
    assert value(pixels.Boundary(), *case())[0] == pytest.approx(total / known.sum() / CLASSES, rel=1e-4)
