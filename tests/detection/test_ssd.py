"""SSD: its default boxes, the negatives that it learns from, its loss and its detections."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision import config, registry
from jaxvision.detection.dense import Suppression
from jaxvision.detection.ssd import SSD, DefaultBoxes, best_of_each_class
from jaxvision.necks.ssd_extras import SSDExtras
from jaxvision.ops import encode_deltas
from tests.conftest import strict
from tests.detection.made import Tiny, batch_of

pytestmark = pytest.mark.usefixtures("unoptimized")
BOXES = DefaultBoxes(sizes=(8.0, 14.0, 24.0, 40.0), ratios=((2.0,), (1.5,), (2.0,)), strides=(8, 16, 32))
NECK = SSDExtras(("c3", "c4"), channels=(8,), down=(2,), padding=(1,))
MODEL = SSD(Tiny(), NECK, 3, BOXES, suppression=Suppression(candidates=50, iou_threshold=0.45))
MODELS = {"ssd": MODEL, "per class": MODEL.clone(per_class=True)}
STDS = (0.1, 0.1, 0.2, 0.2)


@pytest.fixture(scope="module")
def variables():
    return jax.jit(MODEL.init)(jax.random.key(0), jnp.zeros((1, 32, 48, 3)))


@jax.jit
def losses_of(variables, batch):
    outputs = MODEL.apply(variables, batch["image"])
    return {name: total / jnp.maximum(count, 1.0) for name, (total, count) in MODEL.loss(outputs, batch).items()}


@jax.jit
def slopes_of(variables, batch):
    return jax.grad(lambda v: sum(losses_of(v, batch).values()))(variables)


@functools.partial(jax.jit, static_argnums=0)
def predict(model, outputs, size):
    return model.predict(outputs, size)


def test_default_boxes_are_those_of_the_paper():
    """Section 2.2: squares of the size and of the mean with the next one, then wide and tall boxes of that area."""
    boxes = DefaultBoxes()
    grids = {f"p{i}": (side, side) for i, side in enumerate((38, 19, 10, 5, 3, 1))}
    assert sum(len(level) for level in boxes(grids)) == 8732
    first = boxes.base(1)
    sides = first[:, 2:] - first[:, :2]
    mean, wide, wider = np.sqrt(45 * 99), 45 * np.sqrt(2), 45 * np.sqrt(3)
    thin, thinner = 45 / np.sqrt(2), 45 / np.sqrt(3)
    want = [(45, 45), (mean, mean), (wide, thin), (thin, wide), (wider, thinner), (thinner, wider)]
    np.testing.assert_allclose(sides, want, rtol=1e-6)
    np.testing.assert_allclose((first[:, :2] + first[:, 2:]) / 2, np.full((6, 2), 8.0), atol=1e-5)
    limited = DefaultBoxes(longest=300.0).base(5)
    assert (limited[:, 2:] - limited[:, :2]).max() == 300 < (boxes.base(5)[:, 2:] - boxes.base(5)[:, :2]).max()
    large = config.build("model", {"name": "ssd512", "num_classes": 2}).anchors
    assert (
        sum((512 // stride) ** 2 * count for stride, count in zip(large.strides, large.per_cell, strict=True)) == 24564
    )


def test_the_best_of_each_class_are_those_of_a_stable_sort():
    scores = np.random.default_rng(0).integers(0, 9, (20, 3)).astype(np.float32)
    for count in (4, 50):
        values, rows, labels = best_of_each_class(jnp.asarray(scores), count)
        for label in range(3):
            order = np.argsort(-scores[:, label], kind="stable")[:count]
            np.testing.assert_array_equal(np.asarray(rows)[np.asarray(labels) == label], order)
            np.testing.assert_array_equal(np.asarray(values)[np.asarray(labels) == label], scores[order, label])


@pytest.mark.parametrize("name", MODELS)
def test_outputs_follow_the_dtype_of_the_images_and_detections_are_float32(name, variables):
    def run(images):
        outputs = MODELS[name].apply(variables, {"image": images}, train=True)
        return outputs, MODELS[name].predict(outputs, jnp.full((2, 2), 32.0))

    with strict():
        outputs, found = jax.eval_shape(run, jnp.asarray(batch_of([1, 1])["image"], jnp.bfloat16))
    assert {x.dtype for x in jax.tree.leaves((outputs["logits"], outputs["deltas"]))} == {jnp.dtype("bfloat16")}
    assert [x.shape for x in outputs["logits"]] == [(2, 4 * 6 * 4, 4), (2, 2 * 3 * 4, 4), (2, 1 * 2 * 4, 4)]
    assert {x.dtype for x in jax.tree.leaves(outputs["anchors"])} == {jnp.dtype("float32")}
    assert (found.boxes.dtype, found.scores.dtype, found.labels.dtype) == (jnp.float32, jnp.float32, jnp.int32)


@pytest.mark.parametrize("counts", [[0, 0], [1, 0], [4, 4]])
def test_no_truth_one_object_and_full_truth_have_finite_losses_and_slopes(variables, counts):
    """Without objects there is nothing to learn: no positive, so no negative."""
    with strict():
        batch = batch_of(counts)
        terms, slopes = losses_of(variables, batch), slopes_of(variables, batch)
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves((terms, slopes)))
    assert (terms["classification"] > 0) == (terms["box"] > 0) == (sum(counts) > 0)


def test_padding_crowds_and_images_that_are_not_valid_change_nothing(variables):
    batch = batch_of([3, 2])
    expected = losses_of(variables, batch)
    targets = batch["targets"]
    noise = np.where(targets.valid[..., None], targets.boxes, 17.0)
    noisy = batch | {"targets": targets.replace(boxes=noise, labels=np.where(targets.valid, targets.labels, 2))}
    crowd = batch | {"targets": targets.replace(valid=np.ones_like(targets.valid), crowd=~targets.valid, boxes=noise)}
    more = batch_of([3, 2, 4, 4], valid=[True, True, False, False])
    more["image"][:2] = batch["image"]
    more["targets"].boxes[:2], more["targets"].labels[:2] = targets.boxes, targets.labels
    for other in (noisy, crowd, more):
        for name, value in losses_of(variables, other).items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("name", MODELS)
def test_the_loss_is_zero_where_the_outputs_say_the_truth(name):
    """Logits of the assigned classes, deltas that decode to the objects."""
    batch = batch_of([3])
    levels = BOXES({"p3": (4, 6), "p4": (2, 3), "p5": (1, 2)})
    anchors, targets = jnp.concatenate(levels), jax.tree.map(lambda x: jnp.asarray(x[0]), batch["targets"])
    found = jax.jit(MODEL.assigner)(anchors, targets.boxes, targets.valid)
    labels = jnp.where(found.positive, targets.labels[found.truth], 3)
    deltas = encode_deltas(targets.boxes[found.truth], anchors, (0.0,) * 4, STDS)
    perfect = {
        "logits": (60 * jax.nn.one_hot(labels, 4) - 30)[None],
        "deltas": jnp.where(found.positive[:, None], deltas, 5.0)[None],
        "anchors": anchors,
    }
    outputs = {name: (value,) for name, value in perfect.items()}
    terms = jax.jit(MODEL.loss)(outputs, batch)
    assert found.positive.sum() >= 3
    assert float(terms["classification"][0]) < 1e-6 and float(terms["box"][0]) < 1e-4
    detections = predict(MODELS[name], outputs, jnp.asarray(batch["size"]))
    best = np.asarray(detections.boxes[0][detections.valid[0]])
    for box in np.asarray(targets.boxes[:3]):
        assert np.abs(best - box).max(axis=1).min() < 1e-2
    assert float(detections.scores[0, 0]) == pytest.approx(1) and detections.valid[0].sum() == 3


def test_both_ways_to_choose_candidates_agree_where_there_are_few(variables):
    batch = batch_of([1, 1])
    outputs = jax.jit(MODEL.apply)(variables, batch["image"])
    size = jnp.asarray(batch["size"])
    settings = Suppression(candidates=1000, score_threshold=0.2, iou_threshold=0.45)
    found = [predict(model.clone(suppression=settings), outputs, size) for model in MODELS.values()]
    assert found[0].valid.sum() > 5
    for name in ("valid", "labels", "boxes", "scores"):
        np.testing.assert_allclose(*(getattr(x, name) for x in found), rtol=1e-5, atol=1e-5)


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="one size more"):
        DefaultBoxes(sizes=(8.0, 16.0))
    with pytest.raises(ValueError, match="expected positive numbers"):
        DefaultBoxes(sizes=(8.0, -1.0), ratios=((2.0,),), strides=(8,))
    with pytest.raises(ValueError, match="default boxes of 3 levels got 2"):
        BOXES({"p3": (4, 4), "p4": (2, 2)})
    with pytest.raises(ValueError, match="negatives=0"):
        MODEL.clone(negatives=0)
    assert registry.lookup("backbone", "ssd_vgg16").address.endswith("SSDVGG")
