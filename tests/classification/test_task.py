"""The classification task: losses against optax and torch's rules, masks, predictions, JSON, pictures, summaries."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxvision.classification.task import ClassificationTask
from jaxvision.engine.task import Context
from jaxvision.visualization import palette
from tests.conftest import strict


class Linear(nn.Module):
    """A linear classifier with dropout and a counter, small enough to check by hand."""

    num_classes: int = 6
    dropout: float = 0.0

    @nn.compact
    def __call__(self, inputs, *, train=False):
        calls = self.variable("batch_stats", "calls", lambda: jnp.zeros((), jnp.int32))
        if train:
            calls.value += 1
        x = inputs.reshape(len(inputs), -1)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        kernel = self.param("kernel", nn.initializers.normal(1.0), (x.shape[-1], self.num_classes))
        return x @ kernel.astype(x.dtype)


def make_batch(samples=8, classes=6, seed=0, multi_label=False):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, classes, samples).astype(np.int32)
    if multi_label:
        label = (rng.random((samples, classes)) < 0.4).astype(np.float32)
    return {
        "image": jnp.asarray(rng.normal(size=(samples, 2, 2, 1)), jnp.float32),
        "label": jnp.asarray(label),
        "valid": jnp.arange(samples) < samples - 2,
    }


def run(task, batch, ctx=None):
    variables = task.init(jax.random.key(0), batch)
    ctx = ctx or Context(train=True)
    collections = {name: value for name, value in variables.items() if name != "params"}
    with strict():
        loss, aux = jax.jit(lambda p, c, b: task.loss(p, c, b, ctx))(variables["params"], collections, batch)
    logits = task.model.apply(variables, batch["image"])
    return loss, aux, logits, variables


def test_cross_entropy_is_the_mean_over_valid_samples():
    batch = make_batch()
    loss, aux, logits, _ = run(ClassificationTask(Linear()), batch)
    values = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])[:6]
    np.testing.assert_allclose(loss, values.mean(), rtol=1e-6)
    total, count = aux.metrics["loss"]
    np.testing.assert_allclose(total / count, values.mean(), rtol=1e-6)
    hits, count = aux.metrics["top1"]
    assert count == 6 and hits == (logits.argmax(1) == batch["label"])[:6].sum()
    assert set(aux.metrics) == {"loss", "top1", "top5"}
    assert all(x.dtype == jnp.float32 and x.shape == () for pair in aux.metrics.values() for x in pair)
    assert aux.collections["batch_stats"]["calls"] == 1


def test_label_smoothing_and_class_weights_follow_torch():
    batch = make_batch()
    weights = (1.0, 2.0, 0.5, 1.0, 3.0, 0.0)
    task = ClassificationTask(Linear(), label_smoothing=0.1, class_weights=weights)
    loss, _, logits, _ = run(task, batch)
    label = np.asarray(batch["label"])[:6]
    logp = np.asarray(jax.nn.log_softmax(logits))[:6]
    w = np.array(weights)
    values = -0.9 * w[label] * logp[np.arange(6), label] - 0.1 / 6 * (w * logp).sum(axis=1)
    np.testing.assert_allclose(loss, values.sum() / w[label].sum(), rtol=1e-5)


@pytest.mark.parametrize("multi_label", [False, True])
def test_binary_cross_entropy_is_the_mean_over_classes_and_samples(multi_label):
    batch = make_batch(multi_label=multi_label)
    task = ClassificationTask(Linear(), criterion="binary_cross_entropy", multi_label=multi_label)
    loss, aux, logits, _ = run(task, batch)
    targets = batch["label"] if multi_label else jax.nn.one_hot(batch["label"], 6)
    np.testing.assert_allclose(loss, optax.sigmoid_binary_cross_entropy(logits, targets)[:6].mean(), rtol=1e-6)
    if multi_label:
        right, count = aux.metrics["label_accuracy"]
        assert count == 36 and right == ((logits > 0) == (targets > 0.5))[:6].sum()


@pytest.mark.parametrize("multi_label", [False, True])
def test_focal_loss_is_divided_by_the_positives(multi_label):
    batch = make_batch(multi_label=multi_label)
    weights = (1.0, 2.0, 0.5, 1.0, 3.0, 0.0)
    task = ClassificationTask(
        Linear(), criterion="focal", alpha=0.3, gamma=1.5, multi_label=multi_label, class_weights=weights
    )
    loss, _, logits, _ = run(task, batch)
    targets = (batch["label"] if multi_label else jax.nn.one_hot(batch["label"], 6))[:6]
    values = optax.sigmoid_focal_loss(logits[:6], targets, alpha=0.3, gamma=1.5) * jnp.array(weights)
    np.testing.assert_allclose(loss, values.sum() / targets.sum(), rtol=1e-5)


@pytest.mark.parametrize("criterion, multi_label", [("cross_entropy", False), ("focal", True)])
def test_a_batch_of_padding_gives_zero_loss_and_gradient(criterion, multi_label):
    task = ClassificationTask(Linear(), criterion=criterion, multi_label=multi_label)
    batch = make_batch(multi_label=multi_label) | {"valid": jnp.zeros(8, bool)}
    loss, aux, _, variables = run(task, batch)
    assert loss == 0 and aux.metrics["loss"][1] == 0
    collections = {"batch_stats": variables["batch_stats"]}
    grads = jax.grad(lambda p: task.loss(p, collections, batch, Context(train=True))[0])(variables["params"])
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(grads))


@pytest.mark.parametrize(
    "settings", [{}, {"label_smoothing": 0.1}, {"class_weights": (1.0, 2.0, 3.0, 0.5, 1.0, 1.0)}], ids=str
)
@pytest.mark.parametrize("criterion", ["cross_entropy", "binary_cross_entropy", "focal"])
def test_mixed_labels_train_as_the_mixture_of_whole_ones(criterion, settings):
    if criterion != "cross_entropy" and "label_smoothing" in settings:
        settings = {}
    task, batch = ClassificationTask(Linear(), criterion=criterion, **settings), make_batch()
    whole, aux, logits, _ = run(task, batch)
    rows = jax.nn.one_hot(batch["label"], 6)
    loss, same, _, _ = run(task, {**batch, "label": rows, "mixed": batch["valid"]})
    np.testing.assert_allclose(loss, whole, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), same.metrics, aux.metrics)
    mixture = 0.7 * rows + 0.3 * rows[::-1]
    loss, aux, _, _ = run(task, {**batch, "label": mixture, "mixed": batch["valid"]})
    if criterion == "cross_entropy" and not settings:
        np.testing.assert_allclose(loss, optax.softmax_cross_entropy(logits, mixture)[:6].mean(), rtol=1e-5)
    hits = (jnp.argmax(logits, -1) == jnp.argmax(mixture, -1))[:6].sum()
    assert aux.metrics["top1"] == (hits, 6)


def test_evaluation_refuses_mixed_labels():
    task, batch = ClassificationTask(Linear()), make_batch()
    logits = jnp.zeros((8, 6))
    with pytest.raises(ValueError, match="expected integer labels"):
        task.metrics()["loss"].update({"logits": logits}, batch | {"label": jax.nn.one_hot(batch["label"], 6)})


def test_the_loss_over_devices_with_uneven_counts_equals_the_global_batch():
    task = ClassificationTask(Linear(), class_weights=(1.0, 2.0, 0.5, 1.0, 3.0, 0.0))
    batch = make_batch(samples=16) | {"valid": jnp.arange(16) < 5}
    expected, aux, _, variables = run(task, batch)

    def step(variables, batch):
        collections = {"batch_stats": variables["batch_stats"]}
        loss, aux = task.loss(variables["params"], collections, batch, Context(train=True, axis_name="batch"))
        return jax.lax.pmean(loss, "batch"), jax.lax.psum(aux.metrics, "batch")

    split = jax.tree.map(lambda x: x.reshape(8, 2, *x.shape[1:]), batch)
    loss, metrics = jax.pmap(step, axis_name="batch", in_axes=(None, 0), out_axes=None)(variables, split)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), metrics, aux.metrics)


def test_dropout_takes_its_key_from_the_context_and_only_in_training():
    task = ClassificationTask(Linear(dropout=0.5))
    batch = make_batch()
    losses = [run(task, batch, Context(train=True, rng=jax.random.key(i)))[0] for i in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]
    assert run(task, batch, Context(train=False))[1].collections["batch_stats"]["calls"] == 0


def test_bf16_reaches_the_model_and_leaves_scores_and_loss_float32():
    task, batch = ClassificationTask(Linear()), make_batch()
    ctx = Context(train=True, dtype=jnp.bfloat16)
    with jax.numpy_dtype_promotion("standard"):
        loss, aux, logits, variables = run(task, batch, ctx)
    predictions, _ = task.predict(variables, batch, ctx)
    assert loss.dtype == predictions["scores"].dtype == predictions["logits"].dtype == jnp.float32
    assert aux.collections["batch_stats"]["calls"].dtype == jnp.int32
    assert 0 < np.abs(predictions["logits"] - logits).max() < 0.1


@pytest.mark.parametrize("criterion", ["cross_entropy", "binary_cross_entropy"])
def test_predictions_are_scores_labels_and_logits(criterion):
    task, batch = ClassificationTask(Linear(), criterion=criterion), make_batch()
    variables = task.init(jax.random.key(0), batch)
    with strict():
        predictions, carry = task.predict(variables, {"image": batch["image"]}, Context())
    scores = jax.nn.softmax if criterion == "cross_entropy" else jax.nn.sigmoid
    np.testing.assert_allclose(predictions["scores"], scores(predictions["logits"]), rtol=1e-6)
    np.testing.assert_array_equal(predictions["label"], predictions["logits"].argmax(1))
    assert predictions["label"].dtype == jnp.int32 and carry is None


@pytest.mark.parametrize("multi_label", [False, True])
def test_metrics_of_an_evaluation_have_their_names(multi_label):
    criterion = "binary_cross_entropy" if multi_label else "cross_entropy"
    task = ClassificationTask(Linear(), criterion=criterion, multi_label=multi_label)
    batch = make_batch(multi_label=multi_label)
    loss, _, _, variables = run(task, batch)
    predictions, _ = task.predict(variables, batch, Context())
    results = {}
    with strict():
        for metric in task.metrics().values():
            if hasattr(metric, "update"):
                values = metric.compute(jax.device_get(metric.update(predictions, batch)))
            else:
                rows = jax.device_get(metric.select(predictions, batch))
                values = metric.compute_all(jax.tree.map(lambda x: x[np.asarray(batch["valid"])], rows))
            assert not set(results) & set(values)
            results.update(values)
    shared = {"loss", "precision", "recall", "f1", "precision_per_class", "recall_per_class", "f1_per_class"}
    own = (
        {"map", "average_precision_per_class", "label_accuracy"}
        if multi_label
        else {"top1", "top5", "confusion_matrix"}
    )
    assert set(results) == shared | own
    np.testing.assert_allclose(results["loss"], loss, rtol=1e-6)
    assert all(isinstance(v, float) or (isinstance(v, np.ndarray) and v.ndim) for v in results.values())
    assert task.summary(results)
    assert set(task.plots(results)) == (set() if multi_label else {"confusion_matrix.png"})


def test_few_classes_have_no_top5_and_many_no_confusion_matrix():
    assert ClassificationTask(Linear(3)).metrics()["accuracy"].topk == (1,)
    assert ClassificationTask(Linear(1)).metrics()["accuracy"].topk == (1,)
    assert ClassificationTask(Linear(10), topk=(5, 1, 1)).metrics()["accuracy"].topk == (5, 1)
    assert type(ClassificationTask(Linear(1001)).metrics()["classes"]).__name__ == "ClassScores"


def test_the_task_is_hashable_and_equal_to_its_copy():
    task = ClassificationTask(Linear(), class_weights=(1.0,) * 6, class_names=tuple("abcdef"))
    assert hash(task) == hash(dataclasses.replace(task)) and task == dataclasses.replace(task)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"criterion": "cross_entropi"}, "did you mean 'cross_entropy'"),
        ({"criterion": "mse"}, "expected one of cross_entropy, binary_cross_entropy, focal"),
        ({"multi_label": True}, "needs criterion='binary_cross_entropy'"),
        ({"criterion": "focal", "label_smoothing": 0.1}, "no meaning with criterion='focal'"),
        ({"class_names": ("a", "b")}, "2 class_names for a model of 6 classes"),
        ({"class_weights": (1.0,)}, "1 class_weights for a model of 6 classes"),
        ({"topk": (0,)}, "topk=\\(0,\\)"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ClassificationTask(Linear(), **arguments)


def test_wrong_batches_are_refused():
    task, batch = ClassificationTask(Linear()), make_batch()
    with pytest.raises(TypeError, match=r"got uint8 images.*normalize"):
        task.init(jax.random.key(0), batch | {"image": jnp.zeros((1, 2, 2, 1), jnp.uint8)})
    with pytest.raises(ValueError, match=r"expected integer labels \(8,\), got float32 \(8, 6\)"):
        run(task, make_batch(multi_label=True))
    several = ClassificationTask(Linear(), criterion="focal", multi_label=True)
    with pytest.raises(ValueError, match=r"expected float labels \(8, 6\), got int32 \(8,\)"):
        run(several, batch)


def test_json_names_the_best_class_and_the_top_five():
    names = ("zero", "one", "two", "three", "four", "five")
    task = ClassificationTask(Linear(), class_names=names)
    scores = np.array([0.1, 0.4, 0.4, 0.0, 0.06, 0.04], np.float32)
    result = task.to_json({}, {"scores": scores, "label": np.int32(2)})
    assert (result["class"], result["label"]) == ("two", 2) and result["score"] == pytest.approx(0.4)
    assert [row["class"] for row in result["top5"]] == ["two", "one", "zero", "four", "five"]
    several = ClassificationTask(Linear(), criterion="focal", multi_label=True)
    result = several.to_json({}, {"scores": np.array([0.1, 0.7, 0.6, 0, 0, 0]), "label": 1})
    assert result["classes"] == ["1", "2"] and result["class"] == "1"


def test_the_picture_shows_the_right_class_in_green_and_a_wrong_one_in_red():
    task = ClassificationTask(Linear(), class_names=tuple("abcdef"))
    prediction = {"scores": np.array([0.7, 0.2, 0.1, 0, 0, 0], np.float32), "label": 0}
    image = np.full((8, 8, 1), 200, np.uint8)

    def colors(**sample):
        picture = task.draw({"image": image, **sample}, prediction)
        assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[0] >= 256
        return {tuple(color) for color in np.unique(picture.reshape(-1, 3), axis=0).tolist()}

    right, wrong, unknown = colors(label=np.int32(0)), colors(label=np.int32(3)), colors()
    assert palette.rgb(palette.RIGHT) in right and palette.rgb(palette.WRONG) not in right
    assert palette.rgb(palette.WRONG) in wrong
    assert not {palette.rgb(palette.RIGHT), palette.rgb(palette.WRONG)} & unknown


def test_the_summary_names_weak_classes_and_confused_pairs():
    matrix = np.diag([10, 10, 10, 10, 6, 10])
    matrix[4, 2], matrix[0, 5] = 4, 1
    from jaxvision.classification.metrics import ConfusionMatrix

    results = {"top1": 56 / 61, "loss": 0.25, **ConfusionMatrix(6).compute(matrix)}
    lines = ClassificationTask(Linear(), class_names=tuple("abcdef")).summary(results)
    assert lines[0].startswith("top-1 91.80%, macro F1") and lines[0].endswith("loss 0.2500")
    assert lines[1].startswith("weakest classes: e (F1 0.750, recall 0.600, precision 1.000), c (F1")
    assert lines[2] == "most confused: e taken for c (4 of 10), a taken for f (1 of 11)"
    perfect = {"top1": 1.0, **ConfusionMatrix(6).compute(np.diag([1] * 6))}
    assert len(ClassificationTask(Linear()).summary(perfect)) == 1


def test_the_plot_of_the_confusion_matrix_is_written(tmp_path):
    task = ClassificationTask(Linear(2))
    task.plots({"confusion_matrix": [[3, 1], [0, 2]]})["confusion_matrix.png"](tmp_path / "new" / "m.png")
    assert (tmp_path / "new" / "m.png").stat().st_size > 1000
