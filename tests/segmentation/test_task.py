"""The task of semantic segmentation: losses, label maps in pixels of the original, views, windows, pictures, errors."""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision import config, registry
from jaxvision.data.maps import instance_masks
from jaxvision.engine.task import Context
from jaxvision.engine.tta import TTA, TTATask
from jaxvision.losses.pixels import CrossEntropy, Dice
from jaxvision.segmentation.segmentor import Auxiliary, Segmentor
from jaxvision.segmentation.task import SemanticSegmentationTask, map_of
from tests.conftest import strict

pytestmark = pytest.mark.usefixtures("unoptimized")
HEIGHT, WIDTH, CLASSES = 8, 12, 3


class Eyes(nn.Module):
    """Means of 2x2 pixels."""

    strides: ClassVar = {"c4": 2, "c5": 2}

    @nn.compact
    def __call__(self, images, *, train):
        b, h, w, c = images.shape
        half = images.reshape(b, h // 2, 2, w // 2, 2, c).mean(axis=(2, 4))
        return {"c4": half, "c5": half}


class Plain(Segmentor):
    """Channels are logits: nothing is learned but what the auxiliary head has."""

    def decode(self, levels, *, train):
        return levels["c5"]


def scene():
    """Two images at half the size of their originals; the brightest channel is the class, of blocks of 4x4 pixels."""
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, CLASSES, (2, HEIGHT // 4, WIDTH // 4))
    labels = blocks.repeat(4, axis=1).repeat(4, axis=2).astype(np.uint8)
    truth = labels.copy()
    truth[:, :, -2:] = 255
    return jax.tree.map(
        jnp.asarray,
        {
            "image": np.eye(CLASSES, dtype=np.float32)[labels] * 5,
            "semantic": truth,
            "valid": np.ones(2, bool),
            "size": np.tile(np.float32([[HEIGHT, WIDTH]]), (2, 1)),
            "original_size": np.tile(np.int32([[2 * HEIGHT, 2 * WIDTH]]), (2, 1)),
            "to_original": np.tile(np.diag([2.0, 2.0, 1.0]).astype(np.float32), (2, 1, 1)),
        },
    ), labels


@pytest.fixture(scope="module")
def plain():
    return SemanticSegmentationTask(Plain(Eyes(), CLASSES), class_names=("background", "cat", "dog"))


def test_label_maps_come_back_to_the_original(plain):
    batch, labels = scene()
    with strict():
        found = jax.jit(lambda b: plain.predict({}, b, Context())[0])(batch)
    np.testing.assert_array_equal(found["labels"], labels)
    assert found["labels"].dtype == jnp.uint8
    first = jax.tree.map(lambda x: np.asarray(x[0]), found)
    np.testing.assert_array_equal(map_of(first), labels[0].repeat(2, axis=0).repeat(2, axis=1))
    told = plain.to_json({}, first)
    assert told["size"] == [2 * HEIGHT, 2 * WIDTH]
    assert sum(one["share"] for one in told["classes"]) == pytest.approx(1)
    areas = [one["area"] for one in told["classes"]]
    assert areas == sorted(areas, reverse=True) and told["classes"][0]["class"] in plain.class_names
    for one in told["classes"]:
        (mask,) = instance_masks([one["segmentation"]], (2 * HEIGHT, 2 * WIDTH))
        np.testing.assert_array_equal(mask, map_of(first) == one["label"])


@pytest.mark.parametrize("merge", ["mean", "gmean"])
def test_views_agree_on_what_each_of_them_sees(plain, merge):
    batch, labels = scene()
    task = TTATask(plain, TTA(flips=("horizontal", "vertical"), scales=(2.0,), merge=merge))
    with strict():
        found = jax.jit(lambda b: task.predict({}, b, Context())[0])(batch)
    np.testing.assert_array_equal(found["labels"], labels)
    np.testing.assert_allclose(found["to_original"], batch["to_original"], atol=1e-6)
    with pytest.raises(ValueError, match="boxes"):
        TTATask(plain, TTA(flips=("horizontal",), on="boxes")).predict({}, batch, Context())


def test_windows_see_what_the_whole_image_shows(plain):
    batch, labels = scene()
    task = dataclasses.replace(plain, window=(4, 8), window_stride=(4, 4), windows_at_once=2)
    with strict():
        found = jax.jit(lambda b: task.predict({}, b, Context())[0])(batch)
    np.testing.assert_array_equal(found["labels"], labels)
    assert dataclasses.replace(plain, window=(6, 9)).steps == (4, 6)


def test_the_loss_is_the_weighted_sum_over_heads_and_losses():
    batch, _ = scene()
    both = (CrossEntropy(), Dice(weight=2.0))
    model = Plain(Eyes(), CLASSES, Auxiliary(level="c4", width=4, weight=0.4), losses=both)
    task = SemanticSegmentationTask(model)
    with strict():
        variables = jax.jit(task.init)(jax.random.key(0), batch)
        params, collections = variables.pop("params"), variables
        context = Context(jax.random.key(1), train=True)
        step = jax.jit(jax.value_and_grad(lambda p: task.loss(p, collections, batch, context), has_aux=True))
        (loss, aux), slopes = step(params)
    names = {f"{head}{term}_loss" for head in ("", "auxiliary_") for term in ("cross_entropy", "dice")}
    assert set(aux.metrics) == names
    parts = {name: float(total / count) for name, (total, count) in aux.metrics.items()}
    assert float(loss) == pytest.approx(sum(parts.values()), rel=1e-6)
    # The auxiliary classifier starts with small weights: all classes are about as likely.
    assert parts["auxiliary_cross_entropy_loss"] == pytest.approx(0.4 * np.log(CLASSES), rel=0.05)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(slopes))
    assert any(np.abs(x).max() > 0 for x in jax.tree.leaves(slopes))


def test_a_batch_without_any_class_has_no_loss_and_finite_slopes():
    batch, _ = scene()
    batch = {**batch, "semantic": jnp.full_like(batch["semantic"], 255)}
    losses = tuple(config.build("loss", name) for name in ("cross_entropy", "dice", "ohem", "lovasz", "focal"))
    task = SemanticSegmentationTask(Plain(Eyes(), CLASSES, losses=losses))

    def loss(images):
        return task.loss({}, {}, {**batch, "image": images}, Context(train=True))[0]

    with strict():
        value, slope = jax.jit(jax.value_and_grad(loss))(batch["image"])
    assert value == 0 and np.isfinite(slope).all()


def test_what_is_wrong_is_said_plainly(plain):
    batch, _ = scene()
    with pytest.raises(ValueError, match=r"the data have 2 classes \(a, b\), and the model has num_classes=3"):
        SemanticSegmentationTask(Plain(Eyes(), CLASSES), class_names=("a", "b"))
    with pytest.raises(ValueError, match="needs a segmenter"):
        SemanticSegmentationTask(nn.Dense(3))
    with pytest.raises(ValueError, match="needs a window"):
        dataclasses.replace(plain, window_stride=(4, 4))
    with pytest.raises(ValueError, match="leaves pixels out"):
        dataclasses.replace(plain, window=(4, 4), window_stride=(4, 5))
    with pytest.raises(ValueError, match="num_classes=1"):
        Plain(Eyes(), 1)
    with pytest.raises(ValueError, match="each once"):
        Plain(Eyes(), CLASSES, losses=(Dice(), Dice(smooth=1.0)))
    with pytest.raises(ValueError, match="no semantic maps"):
        plain.loss({}, {}, {key: value for key, value in batch.items() if key != "semantic"}, Context())
    with pytest.raises(TypeError, match="normalize"):
        plain.predict({}, {**batch, "image": batch["image"].astype(jnp.uint8)}, Context())
    with pytest.raises(ValueError, match="auxiliary.level is 'c2'"):
        jax.eval_shape(Plain(Eyes(), CLASSES, Auxiliary(level="c2")).init, jax.random.key(0), batch["image"])


def test_a_summary_has_a_row_for_each_class(plain):
    batch, labels = scene()
    metric = plain.metrics()["segmentation"]
    results = metric.compute(np.asarray(metric.update({"labels": jnp.asarray(labels)}, batch), np.int64))
    lines = plain.summary(results)
    assert lines[0].startswith("mIoU 100.00, mAcc 100.00, aAcc 100.00")
    assert len(lines) == 2 + CLASSES and lines[2].split()[0] == "background"
    assert set(plain.plots(results)) == {"confusion_matrix.png"}


def test_pictures_show_truth_prediction_and_errors(plain):
    batch, labels = scene()
    sample = {"image": np.zeros((2 * HEIGHT, 2 * WIDTH, 3), np.uint8)}
    prediction = {"labels": labels[0], "to_original": batch["to_original"][0], "original_size": [2 * HEIGHT, 2 * WIDTH]}
    alone = plain.draw(sample, prediction)
    full = labels[0].repeat(2, axis=0).repeat(2, axis=1)
    beside = plain.draw({**sample, "semantic": np.where(full == 0, 255, full)}, prediction)
    assert alone.dtype == beside.dtype == np.uint8
    assert beside.shape[1] > 1.9 * alone.shape[1]  # four panels beside two
    with pytest.raises(ValueError, match="pixels for an image"):
        plain.draw({**sample, "semantic": labels[0]}, prediction)


def test_losses_are_named_in_a_config():
    assert registry.slot_kind("losses") == ("loss", True)
    chosen = ({"name": "dice", "weight": 2.0}, "cross_entropy")
    model = config.build("model", {"name": "fcn", "num_classes": CLASSES, "losses": chosen})
    assert model.losses == (Dice(weight=2.0), CrossEntropy())
    assert config.build("model", {"name": "fcn", "num_classes": CLASSES}).losses == (CrossEntropy(),)
    with pytest.raises(config.ConfigError, match="did you mean 'jaccard'"):
        config.build("model", {"name": "fcn", "num_classes": CLASSES, "losses": ("jacard",)})
