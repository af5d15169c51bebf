"""The localiser: which object is the truth, its losses, and ImageNet's accuracy of localisation."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.detection.localization_metrics import LocalizationAccuracy
from jaxvision.detection.localizer import Localizer, most_prominent
from jaxvision.detection.task import DetectionTask
from jaxvision.structures import Detections
from tests.conftest import strict
from tests.detection.made import Tiny, batch_of

pytestmark = pytest.mark.usefixtures("unoptimized")
MODEL = Localizer(Tiny(), 3, hidden=8, guesses=2)


@pytest.fixture(scope="module")
def variables():
    return MODEL.init(jax.random.key(0), jnp.zeros((1, 32, 48, 3)))


@jax.jit
def losses_and_slopes(variables, batch):
    def loss(variables):
        terms = MODEL.loss(MODEL.apply(variables, batch["image"]), batch)
        return sum(total / jnp.maximum(count, 1.0) for total, count in terms.values()), terms

    (_, terms), slopes = jax.value_and_grad(loss, has_aux=True)(variables)
    return terms, slopes


@pytest.mark.parametrize("counts", [[0, 0], [1, 0], [4, 4]])
def test_images_without_an_object_teach_nothing_and_everything_is_finite(variables, counts):
    with strict():
        terms, slopes = losses_and_slopes(variables, batch_of(counts))
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves((terms, slopes)))
    assert {float(count) for _, count in terms.values()} == {sum(count > 0 for count in counts)}
    assert any((x != 0).any() for x in jax.tree.leaves(slopes)) == (sum(counts) > 0)


def test_the_largest_object_is_the_truth_and_crowds_are_none():
    boxes = jnp.asarray([[0.0, 0, 4, 4], [0, 0, 9, 2], [1, 1, 10, 3], [0, 0, 99, 99]])
    row, real = most_prominent(boxes, jnp.asarray([True, True, True, False]))
    assert (int(row), bool(real)) == (1, True)
    assert not most_prominent(boxes, jnp.zeros(4, bool))[1]


def test_outputs_that_say_the_truth_have_no_loss_and_are_the_detection():
    batch = batch_of([3, 1])
    targets = jax.tree.map(jnp.asarray, batch["targets"])
    rows, _ = jax.vmap(most_prominent)(targets.boxes, targets.valid)
    which = jnp.arange(2)
    boxes, labels = targets.boxes[which, rows], targets.labels[which, rows]
    edges = boxes / jnp.asarray([48.0, 32, 48, 32])
    outputs = {"logits": 60 * jax.nn.one_hot(labels, 3), "edges": edges, "canvas": jnp.asarray([32.0, 48.0])}
    with strict():
        terms = jax.jit(MODEL.loss)(outputs, batch)
        found = jax.jit(MODEL.predict)(outputs, jnp.asarray(batch["size"]))
    assert all(abs(float(total)) < 1e-6 and count == 2 for total, count in terms.values())
    np.testing.assert_allclose(found.boxes[:, 0], boxes, atol=1e-4)
    np.testing.assert_array_equal(found.labels[:, 0], labels)
    assert found.boxes.shape == (2, 2, 4) and found.valid.all()


def test_outputs_follow_the_dtype_of_the_images_and_detections_are_float32(variables):
    def run(images):
        outputs = MODEL.apply(variables, {"image": images}, train=True)
        return outputs, MODEL.predict(outputs, jnp.full((2, 2), 32.0))

    with strict():
        outputs, found = jax.eval_shape(run, jax.ShapeDtypeStruct((2, 32, 48, 3), jnp.bfloat16))
    assert {outputs[name].dtype for name in ("logits", "edges")} == {jnp.dtype("bfloat16")}
    assert (found.boxes.dtype, found.scores.dtype, found.labels.dtype) == (jnp.float32, jnp.float32, jnp.int32)


def test_accuracy_counts_images_of_which_an_early_guess_has_the_class_and_the_place():
    batch = batch_of([2, 1, 1, 0, 1], valid=[True, True, True, True, False])
    targets = batch["targets"]
    original = 2 * targets.boxes
    boxes = np.repeat(original[:, :1], 6, axis=1)
    labels = np.repeat(targets.labels[:, :1], 6, axis=1)
    boxes[0, 0], labels[0, 0] = original[0, 1], targets.labels[0, 1]  # any object will do
    labels[1, :4] = (labels[1, :4] + 1) % 3  # the fifth guess is right
    boxes[2, :5] = boxes[2, :5] + 1000  # the sixth
    found = Detections(boxes, np.ones((5, 6), np.float32), labels, np.ones((5, 6), bool))
    metric = LocalizationAccuracy()
    with strict():
        state = jax.jit(metric.update)(found, batch)
    assert metric.compute(state) == pytest.approx({"localization_top1": 1 / 3, "localization_top5": 2 / 3})
    assert np.isnan(metric.compute({name: np.zeros(()) for name in state})["localization_top1"])
    task = DetectionTask(MODEL, protocols=("localization",))
    assert task.summary({"localization_top1": 0.5, "localization_top5": 0.75}) == [
        "localisation top 1 0.500, top 5 0.750"
    ]


class Pooled(nn.Module):
    @nn.compact
    def __call__(self, images, *, train):
        return {"pooled": images.mean((1, 2))}


def test_wrong_settings_are_refused():
    for fields in ({"bins": 0}, {"guesses": 4}, {"guesses": 0}):
        with pytest.raises(ValueError, match="a localiser of 3 classes got"):
            Localizer(Tiny(), 3, **fields)
    with pytest.raises(ValueError, match="last level must be a map"):
        Localizer(Pooled(), 3).init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
