"""Metrics of classification against sklearn.metrics, on one device and on eight, padded and empty."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics as oracle

from jaxvision.classification.metrics import (
    Accuracy,
    ClassScores,
    ConfusionMatrix,
    MeanLoss,
    MultiLabelMAP,
    topk_hits,
)
from jaxvision.engine.metrics import HostMetric, Metric, merge
from tests.conftest import strict

CLASSES = 7


def predictions_of(logits):
    logits = jnp.asarray(logits, jnp.float32)
    return {"scores": jax.nn.sigmoid(logits), "label": jnp.argmax(logits, -1).astype(jnp.int32), "logits": logits}


def batch_of(labels, valid=None):
    valid = np.ones(len(labels), bool) if valid is None else valid
    return {"label": jnp.asarray(labels), "valid": jnp.asarray(valid)}


def random_case(samples=60, seed=0, classes=CLASSES, decimals=None, missing=()):
    """Logits `[n, classes]` and labels; `decimals` makes ties, classes of `missing` never occur as truth."""
    rng = np.random.default_rng(seed)
    labels = rng.choice([c for c in range(classes) if c not in missing], samples).astype(np.int32)
    logits = rng.normal(size=(samples, classes)).astype(np.float32)
    logits[np.arange(samples), labels] += 1.0
    return (logits if decimals is None else np.round(logits, decimals)), labels


def evaluate(metric, logits, labels, valid=None):
    with strict():
        return metric.compute(jax.device_get(metric.update(predictions_of(logits), batch_of(labels, valid))))


def check_class_scores(results, labels, predicted):
    every = oracle.precision_recall_fscore_support(labels, predicted, labels=range(CLASSES), zero_division=0)
    macro = oracle.precision_recall_fscore_support(labels, predicted, average="macro", zero_division=0)
    for place, name in enumerate(("precision", "recall", "f1")):
        np.testing.assert_allclose(results[f"{name}_per_class"], every[place], rtol=1e-12)
        np.testing.assert_allclose(results[name], macro[place], rtol=1e-12)


def test_metrics_follow_the_protocols_of_the_engine():
    assert isinstance(Accuracy(), Metric) and isinstance(ConfusionMatrix(3), Metric)
    assert isinstance(ClassScores(3), Metric) and isinstance(MeanLoss(min), Metric)
    assert isinstance(MultiLabelMAP(), HostMetric) and not isinstance(MultiLabelMAP(), Metric)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_topk_accuracy_equals_sklearn_without_ties(k):
    logits, labels = random_case()
    expected = oracle.top_k_accuracy_score(labels, logits, k=k, labels=range(CLASSES))
    assert evaluate(Accuracy((k,)), logits, labels) == {f"top{k}": pytest.approx(expected, abs=1e-12)}


@pytest.mark.parametrize("k", [1, 2, 5])
def test_ties_are_won_by_the_lowest_label(k):
    logits, labels = random_case(samples=400, decimals=0)
    assert (np.diff(np.sort(logits, axis=1)) == 0).any()
    order = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    expected = (order == labels[:, None]).any(axis=1)
    np.testing.assert_array_equal(topk_hits(jnp.asarray(logits), jnp.asarray(labels), (k,))[k], expected)
    if k == 1:
        assert expected.mean() == oracle.accuracy_score(labels, logits.argmax(1))


def test_unusable_logits_and_labels_count_as_missed():
    logits = jnp.array(
        [[jnp.nan, 0.0, 1.0], [0.0, jnp.nan, 1.0], [jnp.inf, 0.0, 1.0], [3.0, 2.0, 1.0], [3.0, 2.0, 1.0]]
    )
    labels = jnp.array([0, 2, 0, -1, 3], jnp.int32)
    with strict():
        hits = topk_hits(logits, labels, (1, 3))
    np.testing.assert_array_equal(hits[1], [False, False, True, False, False])
    np.testing.assert_array_equal(hits[3], [False, True, True, False, False])


@pytest.mark.parametrize("decimals, missing", [(None, ()), (0, ()), (None, (2,)), (None, (0, 6))])
def test_confusion_matrix_and_class_scores_equal_sklearn(decimals, missing):
    logits, labels = random_case(decimals=decimals, missing=missing)
    if missing:  # absent from the predictions too: neither in the truth nor in the macro mean
        logits[:, missing[0]] = -100.0
    predicted = logits.argmax(axis=1)
    results = evaluate(ConfusionMatrix(CLASSES), logits, labels)
    expected = oracle.confusion_matrix(labels, predicted, labels=range(CLASSES))
    np.testing.assert_array_equal(results["confusion_matrix"], expected)
    check_class_scores(results, labels, predicted)
    check_class_scores(evaluate(ClassScores(CLASSES), logits, labels), labels, predicted)
    assert all(isinstance(results[name], float) for name in ("precision", "recall", "f1"))


def test_padding_is_not_counted():
    logits, labels = random_case()
    valid = np.arange(len(labels)) % 3 != 0
    for metric in (Accuracy(), ConfusionMatrix(CLASSES), ClassScores(CLASSES)):
        kept = evaluate(metric, logits[valid], labels[valid])
        padded = evaluate(metric, logits, labels, valid)
        assert kept.keys() == padded.keys()
        for name in kept:
            np.testing.assert_array_equal(kept[name], padded[name])


def test_uneven_batches_merge_to_the_whole():
    logits, labels = random_case(samples=53)
    for metric in (Accuracy(), ConfusionMatrix(CLASSES), ClassScores(CLASSES)):
        whole = metric.update(predictions_of(logits), batch_of(labels))
        parts = [
            metric.update(predictions_of(logits[part]), batch_of(labels[part]))
            for part in (slice(0, 1), slice(1, 40), slice(40, 53))
        ]
        jax.tree.map(np.testing.assert_array_equal, functools.reduce(merge, parts), whole)


def test_all_padding_gives_nan_and_empty_counts():
    logits, labels = random_case(samples=4)
    none = np.zeros(4, bool)
    assert np.isnan(evaluate(Accuracy(), logits, labels, none)["top1"])
    results = evaluate(ConfusionMatrix(CLASSES), logits, labels, none)
    assert results["confusion_matrix"].sum() == 0 and np.isnan(results["f1"])
    np.testing.assert_array_equal(results["f1_per_class"], np.zeros(CLASSES))
    loss = MeanLoss(lambda logits, labels: (logits[:, 0], jnp.ones(len(labels))))
    assert np.isnan(evaluate(loss, logits, labels, none)["loss"])


def test_labels_without_a_row_are_left_out_of_the_matrix():
    logits, labels = random_case(samples=8)
    labels[:3] = [-1, 255, CLASSES]
    for metric in (ConfusionMatrix(CLASSES), ClassScores(CLASSES)):
        kept = evaluate(metric, logits[3:], labels[3:])
        for name, value in evaluate(metric, logits, labels).items():
            np.testing.assert_array_equal(value, kept[name])


def test_sums_over_eight_devices_equal_one_device():
    logits, labels = random_case(samples=64, decimals=0)
    valid = np.arange(64) < 51  # the last device holds padding alone
    for metric in (Accuracy(), ConfusionMatrix(CLASSES), ClassScores(CLASSES)):
        update = jax.pmap(
            lambda logits, batch, metric=metric: jax.lax.psum(metric.update(predictions_of(logits), batch), "batch"),
            axis_name="batch",
            out_axes=None,
        )
        split = jax.tree.map(lambda x: x.reshape(8, 8, *x.shape[1:]), (logits, batch_of(labels, valid)))
        whole = metric.update(predictions_of(logits), batch_of(labels, valid))
        jax.tree.map(np.testing.assert_array_equal, update(*split), whole)


def test_mean_loss_divides_by_the_weights_of_valid_samples():
    logits, labels = random_case(samples=6)
    valid = np.array([1, 1, 0, 1, 0, 1], bool)
    logits[4] = np.nan
    metric = MeanLoss(lambda logits, labels: (logits[:, 0], labels.astype(jnp.float32)))
    expected = logits[valid, 0].sum() / labels[valid].sum()
    assert evaluate(metric, logits, labels, valid)["loss"] == pytest.approx(expected, rel=1e-6)


def multi_label_case(samples=80, seed=1):
    rng = np.random.default_rng(seed)
    labels = (rng.random((samples, CLASSES)) < 0.3).astype(np.float32)
    return np.round(rng.normal(size=(samples, CLASSES)) + labels, 1).astype(np.float32), labels


def test_multi_label_class_scores_equal_sklearn():
    logits, labels = multi_label_case()
    labels[:, 3] = 0
    results = evaluate(ClassScores(CLASSES), logits, labels)
    predicted = np.asarray(predictions_of(logits)["scores"]) > 0.5
    every = oracle.precision_recall_fscore_support(labels, predicted, average=None, zero_division=0)
    for place, name in enumerate(("precision", "recall", "f1")):
        np.testing.assert_allclose(results[f"{name}_per_class"], every[place], rtol=1e-12)
    assert results["label_accuracy"] == pytest.approx(1 - oracle.hamming_loss(labels, predicted), abs=1e-12)


def test_multi_label_map_equals_sklearn_with_ties_and_absent_classes():
    logits, labels = multi_label_case()
    labels[:, 2] = 0
    metric = MultiLabelMAP()
    with strict():
        rows = metric.select(predictions_of(logits), batch_of(labels))
    results = metric.compute_all(jax.device_get(rows))
    present = [c for c in range(CLASSES) if c != 2]
    expected = [oracle.average_precision_score(labels[:, c], logits[:, c]) for c in present]
    np.testing.assert_allclose(results["average_precision_per_class"][present], expected, rtol=1e-12)
    assert np.isnan(results["average_precision_per_class"][2])
    assert results["map"] == pytest.approx(np.mean(expected), rel=1e-12)


def test_multi_label_map_without_a_positive_is_nan():
    rows = {"logits": np.zeros((3, 2), np.float32), "label": np.zeros((3, 2), bool)}
    assert np.isnan(MultiLabelMAP().compute_all(rows)["map"])
