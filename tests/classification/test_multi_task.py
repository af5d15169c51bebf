"""Several heads on one backbone: losses and metrics of each as if it were alone, labels that are not known left out."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

from jaxvision import config as configs
from jaxvision import experiment
from jaxvision.classification.classifier import Classifier
from jaxvision.classification.linear import Flatten
from jaxvision.classification.multi_task import Head, HeadLoss, MultiHeadClassifier, MultiTaskClassification
from jaxvision.data.build import build_source
from jaxvision.data.faults import DataError
from jaxvision.data.sources.image_csv import image_csv
from jaxvision.engine.task import Context
from tests.conftest import strict
from tests.engine.running import arrays, run

HEADS = (Head(name="digit", num_classes=6), Head(name="parity", num_classes=2))
MODEL = MultiHeadClassifier(Flatten(), HEADS)


def make_batch(samples=8, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.stack([rng.integers(0, 6, samples), rng.integers(0, 2, samples)], 1).astype(np.int32)
    labels[1, 0] = labels[2, 1] = -1
    return {
        "image": jnp.asarray(rng.normal(size=(samples, 2, 2, 1)), jnp.float32),
        "label": jnp.asarray(labels),
        "valid": jnp.arange(samples) < samples - 2,
    }


def test_the_loss_is_the_weighted_sum_of_each_heads_mean_over_known_labels():
    losses = (HeadLoss(head="parity", weight=0.5, label_smoothing=0.1),)
    task, batch = MultiTaskClassification(MODEL, losses), make_batch()
    variables = task.init(jax.random.key(0), batch)
    assert set(variables["params"]) == {"head_digit", "head_parity"}
    with strict():
        loss, aux = jax.jit(lambda p: task.loss(p, {}, batch, Context(train=True)))(variables["params"])
    logits = MODEL.apply(variables, batch["image"])
    digits, parity = (np.asarray(batch["label"])[:6, i] for i in (0, 1))
    own = optax.softmax_cross_entropy_with_integer_labels(logits["digit"][:6], np.maximum(digits, 0))
    by_digit = own[digits >= 0].mean()
    rows = optax.smooth_labels(jax.nn.one_hot(parity, 2), 0.1)
    by_parity = optax.softmax_cross_entropy(logits["parity"][:6], rows)[parity >= 0].mean()
    np.testing.assert_allclose(loss, by_digit + 0.5 * by_parity, rtol=1e-6)
    assert aux.metrics["digit/top1"][1] == 5 and aux.metrics["parity/loss"][1] == 5
    assert set(aux.metrics) == {f"{head}/{name}" for head in ("digit", "parity") for name in ("loss", "top1")} | {
        "digit/top5"
    }
    columns = {"digit": batch["label"][:, 0], "parity": batch["label"][:, 1]}
    by_name, _ = task.loss(variables["params"], {}, batch | {"label": columns}, Context(train=True))
    assert by_name == loss


def test_labels_that_are_not_known_have_no_gradient():
    task, batch = MultiTaskClassification(MODEL), make_batch()
    unknown = batch | {"label": batch["label"].at[:, 1].set(-1)}
    params = task.init(jax.random.key(0), batch)["params"]
    loss, grads = jax.value_and_grad(lambda p: task.loss(p, {}, unknown, Context(train=True))[0])(params)
    assert loss > 0 and (grads["head_digit"]["kernel"] != 0).any()
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(grads["head_parity"]))


def test_one_head_is_what_a_classifier_is():
    from jaxvision.classification.task import ClassificationTask

    batch = make_batch()
    plain = {**batch, "label": jnp.maximum(batch["label"][:, 0], 0)}
    many = MultiTaskClassification(MultiHeadClassifier(Flatten(), HEADS[:1]))
    one = ClassificationTask(Classifier(Flatten(), 6))
    params = one.init(jax.random.key(0), plain)["params"]
    expected, _ = one.loss(params, {}, plain, Context(train=True))
    column = {**plain, "label": plain["label"][:, None]}
    loss, _ = many.loss({"head_digit": params["head"]}, {}, column, Context(train=True))
    assert loss == expected


def test_eight_devices_equal_one():
    index = {"index": jnp.arange(16, dtype=jnp.int32), "position": jnp.arange(16, dtype=jnp.uint32)}
    batch, task = {**make_batch(16), **index}, MultiTaskClassification(MODEL)
    one, _, _ = run(task, "pmap", 1, batch=batch)
    eight, _, _ = run(task, "shard_map", 8, batch=batch, check=True)
    for a, b in zip(arrays(one), arrays(eight), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_metrics_and_predictions_are_those_of_each_head():
    names = (*(f"digit/{i}" for i in range(6)), "parity/even", "parity/odd")
    task, batch = MultiTaskClassification(MODEL, class_names=names), make_batch()
    variables = task.init(jax.random.key(0), batch)
    with strict():
        predictions, _ = task.predict(variables, batch, Context())
    results = {}
    for metric in task.metrics().values():
        results |= metric.compute(jax.device_get(metric.update(predictions, batch)))
    for head, column in (("digit", 0), ("parity", 1)):
        label, told = np.asarray(batch["label"])[:6, column], np.asarray(predictions[head]["label"])[:6]
        assert results[f"{head}/top1"] == (label == told)[label >= 0].mean()
    assert results["parity/confusion_matrix"].sum() == 5
    assert next(iter(task.summary(results))).startswith("digit: ")
    assert set(task.plots(results)) == {"digit_confusion_matrix.png", "parity_confusion_matrix.png"}
    first = jax.tree.map(lambda x: np.asarray(x)[0], predictions)
    told = task.to_json({}, first)
    assert told["parity"]["class"] in ("even", "odd") and set(told) == {"digit", "parity"}
    assert task.draw({"image": np.zeros((8, 8, 1), np.uint8)}, first).dtype == np.uint8


def test_contradictions_are_refused():
    for change, message in (
        ({"losses": (HeadLoss(head="digits"),)}, "did you mean 'digit'"),
        ({"losses": (HeadLoss(head="digit"), HeadLoss(head="digit"))}, "one for each head"),
        ({"losses": (HeadLoss(head="digit", criterion="mse"),)}, "unknown criterion"),
        ({"class_names": ("digit/0", "parity/even", "parity/odd")}, "'digit' has 6 classes, the data 1"),
    ):
        with pytest.raises(ValueError, match=message):
            MultiTaskClassification(MODEL, **change)
    with pytest.raises(ValueError, match="different identifiers"):
        MultiHeadClassifier(Flatten(), (HEADS[0], HEADS[0]))
    task, batch = MultiTaskClassification(MODEL), make_batch()
    with pytest.raises(ValueError, match=r"expected integer labels \[batch, 2\]"):
        task.loss(task.init(jax.random.key(0), batch)["params"], {}, batch | {"label": batch["label"][:, 0]}, Context())


def write_csv(folder, name, rows):
    for row in rows:
        (folder / row[0]).parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((5, 6, 3), len(row[1]), np.uint8)).save(folder / row[0])
    lines = ["file,colour,round", *(",".join(row) for row in rows)]
    (folder / name).write_text("\n".join(lines) + "\n")


def test_a_csv_file_gives_a_column_of_labels_per_question(tmp_path):
    write_csv(tmp_path, "train.csv", [("a/1.png", "red", "yes"), ("a/2.png", "", "no"), ("3.png", "blue", "")])
    write_csv(tmp_path, "val.csv", [("a/1.png", "green", "yes")])
    table = image_csv(str(tmp_path), split="train")
    assert table.class_names == ("colour/blue", "colour/green", "colour/red", "round/no", "round/yes")
    np.testing.assert_array_equal(table.columns["label"], [[2, 1], [-1, 0], [0, -1]])
    assert not table.multi_label and table.sample(0)["image"].shape == (5, 6, 3)
    np.testing.assert_array_equal(image_csv(str(tmp_path), split="validation").columns["label"], [[1, 1]])
    (tmp_path / "val.csv").unlink()
    assert len(image_csv(str(tmp_path), split="train")) + len(image_csv(str(tmp_path), split="validation")) == 3
    for text, message in (
        ("image,a\nx,1\n", "no column 'file'"),
        ("file,a\nx\n", "line 2"),
        ("file\nx\n", "no column beside"),
    ):
        (tmp_path / "train.csv").write_text(text)
        with pytest.raises(DataError, match=message):
            image_csv(str(tmp_path), split="train")


def test_a_csv_file_is_trained_on(tmp_path):
    write_csv(
        tmp_path, "train.csv", [(f"{i}.png", "red" if i % 2 else "blue", "yes" if i % 3 else "") for i in range(20)]
    )
    heads = "(dict(name='colour', num_classes=2), dict(name='round', num_classes=1))"
    config = configs.load(
        "resnet18_digit_attributes",
        [
            ("data.source", f"image_csv:{tmp_path}"),
            ("model.heads", heads),
            ("task.losses", "()"),
            *(("data.batch_size", "16"), ("data.channels", "3")),
            ("data.eval_transforms", "()"),
        ],
    )
    built = experiment.build(config)
    batch = next(built.data.train.train())
    assert batch["label"].shape == (16, 2) and batch["label"].dtype == np.int32
    assert set(built.task.tasks) == {"colour", "round"}


def test_the_embedded_attributes_are_those_of_the_digits():
    config = configs.load("resnet18_digit_attributes")
    source = build_source(config.data, "validation")
    labels = source.gather(np.arange(len(source)))["label"]
    np.testing.assert_array_equal(labels[:, 1], labels[:, 0] % 2)
    assert (labels[labels[:, 0] == 4, 2] == -1).all() and (labels[labels[:, 0] == 8, 2] == 2).all()
    assert len(source.class_names) == 15 and (source.sample(0)["label"] == labels[0]).all()
