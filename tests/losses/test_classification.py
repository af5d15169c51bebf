"""Losses against their closed form in numpy float64, and at the edges: extreme logits, nothing to average."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision import losses
from tests.conftest import strict

EXTREMES = np.asarray([[1e4, -1e4, 0], [-1e4, 1e4, 1e4], [1e4, 1e4, 1e4], [-1e4, -1e4, -1e4]], np.float32)


def random(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def values_and_gradient(fn, logits):
    """The losses, and the gradient of their sum, in one compiled function."""

    def total(x):
        values = fn(x)
        return values.sum(), values

    (_, values), grad = jax.jit(jax.value_and_grad(total, has_aux=True))(jnp.asarray(logits))
    return values, grad


def log_softmax(logits):
    logits = logits.astype(np.float64)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def sigmoid(x):
    return 1 / (1 + np.exp(-x.astype(np.float64)))


def test_cross_entropy_is_minus_the_log_probability_of_the_label():
    logits, labels = 3 * random((2, 5, 4)), np.asarray([[0, 1, 2, 3, 0], [3, 2, 1, 0, 0]], np.int32)
    with strict():
        values = losses.cross_entropy(logits, jnp.asarray(labels))
    want = -np.take_along_axis(log_softmax(logits), labels[..., None], -1)[..., 0]
    assert values.dtype == jnp.float32
    np.testing.assert_allclose(values, want, rtol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_label_smoothing_and_class_weights_follow_their_formula(smoothing, weighted):
    logits, labels = 3 * random((6, 4)), np.asarray([0, 1, 2, 3, 1, 1])
    weights = np.asarray([0.5, 2.0, 1.0, 3.0], np.float32) if weighted else np.ones(4, np.float32)
    targets = (1 - smoothing) * np.eye(4)[labels] + smoothing / 4
    want = -(weights * targets * log_softmax(logits)).sum(-1)
    options = {"label_smoothing": smoothing, "class_weights": jnp.asarray(weights) if weighted else None}
    with strict():
        loss = jax.jit(lambda x, y: losses.cross_entropy(x, y, **options))
        hard, soft = loss(logits, labels.astype(np.int32)), loss(logits, np.eye(4, dtype=np.float32)[labels])
    np.testing.assert_allclose(hard, want, rtol=1e-5)
    np.testing.assert_allclose(soft, want, rtol=1e-5)


@pytest.mark.parametrize("ignore_index", [-100, 255])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_ignored_labels_have_neither_loss_nor_gradient(ignore_index, smoothing):
    logits, labels = jnp.asarray(random((3, 4))), jnp.asarray([1, ignore_index, 2])
    fn = lambda x: losses.cross_entropy(x, labels, ignore_index=ignore_index, label_smoothing=smoothing)  # noqa: E731
    with strict():
        values, grad = values_and_gradient(fn, logits)
    assert values[1] == 0 and not grad[1].any()
    assert (values[::2] > 0).all() and np.abs(grad[::2]).min() > 0


@pytest.mark.parametrize("label", [-1, 4])
def test_a_label_outside_the_classes_is_nan_instead_of_a_wrong_number(label):
    values = losses.cross_entropy(jnp.zeros((2, 4)), jnp.asarray([label, 0]))
    assert np.isnan(values[0]) and np.isfinite(values[1])


def test_binary_cross_entropy_follows_its_formula():
    logits, targets = 3 * random((5, 3)), np.random.default_rng(1).uniform(size=(5, 3)).astype(np.float32)
    p = sigmoid(logits)
    with strict():
        values = losses.binary_cross_entropy(logits, jnp.asarray(targets))
        hard = losses.binary_cross_entropy(logits, jnp.ones((5, 3), jnp.int32))
    np.testing.assert_allclose(values, -targets * np.log(p) - (1 - targets) * np.log(1 - p), rtol=1e-5)
    np.testing.assert_allclose(hard, -np.log(p), rtol=1e-5)


@pytest.mark.parametrize("alpha", [0.25, None])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_follows_the_paper(alpha, gamma):
    logits, targets = 3 * random((5, 3)), (random((5, 3), 1) > 0).astype(np.int32)
    p = sigmoid(logits)
    p_t = np.where(targets == 1, p, 1 - p)
    alpha_t = 1 if alpha is None else np.where(targets == 1, alpha, 1 - alpha)
    with strict():
        values = losses.focal(logits, jnp.asarray(targets), alpha=alpha, gamma=gamma)
    np.testing.assert_allclose(values, -alpha_t * (1 - p_t) ** gamma * np.log(p_t), rtol=2e-5)


LOSSES = {
    "cross_entropy": lambda x: losses.cross_entropy(x, jnp.arange(x.shape[0], dtype=jnp.int32) % 3),
    "smoothed": lambda x: losses.cross_entropy(x, jnp.zeros(x.shape[:-1], jnp.int32), label_smoothing=0.1),
    "ignored": lambda x: losses.cross_entropy(x, jnp.full(x.shape[:-1], -100, jnp.int32)),
    "soft": lambda x: losses.cross_entropy(x, jnp.full(x.shape, 1 / 3)),
    "binary positive": lambda x: losses.binary_cross_entropy(x, jnp.ones_like(x)),
    "binary negative": lambda x: losses.binary_cross_entropy(x, jnp.zeros_like(x)),
    "focal positive": lambda x: losses.focal(x, jnp.ones_like(x)),
    "focal negative": lambda x: losses.focal(x, jnp.zeros_like(x), gamma=0.5),
}


@pytest.mark.parametrize("name", LOSSES)
def test_extreme_logits_give_finite_values_and_gradients(name):
    with strict():
        values, grad = values_and_gradient(LOSSES[name], EXTREMES)
    assert np.isfinite(values).all() and np.isfinite(grad).all() and (values >= 0).all()


@pytest.mark.parametrize("name", LOSSES)
def test_bfloat16_logits_are_lifted_to_float32_and_an_empty_batch_is_empty(name):
    logits = jnp.asarray(random((4, 3)), jnp.bfloat16)
    with strict():
        loss = jax.jit(LOSSES[name])
        np.testing.assert_array_equal(loss(logits), loss(logits.astype(jnp.float32)))
        empty = loss(jnp.zeros((0, 3)))
    assert empty.shape[0] == 0 and empty.dtype == jnp.float32


def test_masked_classes_with_minus_infinity_are_fine_for_hard_labels():
    logits = jnp.asarray([[0.0, 1.0, -jnp.inf]])
    value, grad = values_and_gradient(lambda x: losses.cross_entropy(x, jnp.asarray([0])), logits)
    np.testing.assert_allclose(value, np.log(1 + np.e), rtol=1e-6)
    assert np.isfinite(grad).all()


def test_weighted_sum_counts_elements_and_never_sees_what_is_masked():
    values = jnp.asarray([[1.0, 2.0], [3.0, 4.0], [jnp.nan, jnp.inf]], jnp.float32)
    valid = jnp.asarray([True, True, False])
    with strict():
        total, count = losses.weighted_sum(values, valid)
        weighted = losses.weighted_sum(values[:, 0], jnp.asarray([0.5, 2.0, 0.0]))
        nothing = losses.weighted_sum(values[:0], valid[:0])
        grad = jax.grad(lambda v: losses.weighted_sum(v, valid)[0])(values)
    assert (float(total), float(count)) == (10.0, 4.0)
    assert tuple(map(float, weighted)) == (6.5, 2.5)
    assert tuple(map(float, nothing)) == (0.0, 0.0)
    np.testing.assert_array_equal(grad, [[1, 1], [1, 1], [0, 0]])


def test_errors_name_what_was_given():
    logits = jnp.zeros((2, 3))
    with pytest.raises(ValueError, match=r"labels \(2, 3\) for logits \(2, 3\), expected \(2,\)"):
        losses.cross_entropy(logits, jnp.zeros((2, 3), jnp.int32))
    with pytest.raises(ValueError, match=r"label_smoothing=1\.5"):
        losses.cross_entropy(logits, jnp.zeros(2, jnp.int32), label_smoothing=1.5)
    with pytest.raises(ValueError, match="binary_cross_entropy got targets"):
        losses.binary_cross_entropy(logits, jnp.zeros((2,)))
    with pytest.raises(ValueError, match="focal got targets"):
        losses.focal(logits, jnp.zeros((2,)))
    with pytest.raises(ValueError, match=r"weights \(3,\) for values \(2, 3\)"):
        losses.weighted_sum(logits, jnp.ones(3))
