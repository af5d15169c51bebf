"""RetinaNet: its size, its types, and a loss that depends on the picture and the real truth alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.detection.assigners import trained
from jaxvision.ops import encode_deltas
from jaxvision.structures import Detections
from tests.conftest import strict
from tests.detection.made import batch_of, judged, tiny

pytestmark = pytest.mark.usefixtures("unoptimized")
MODEL = tiny()


@pytest.fixture(scope="module")
def variables():
    return MODEL.init(jax.random.key(0), jnp.zeros((1, 32, 48, 3)))


@jax.jit
def losses_of(variables, batch):
    outputs = MODEL.apply(variables, batch["image"])
    return {name: total / jnp.maximum(count, 1.0) for name, (total, count) in MODEL.loss(outputs, batch).items()}


@jax.jit
def slopes_of(variables, batch):
    return jax.grad(lambda v: sum(losses_of(v, batch).values()))(variables)


def test_outputs_follow_the_dtype_of_the_images_and_detections_are_float32(variables):
    images = jnp.asarray(batch_of([1, 1])["image"])

    def run(images):
        outputs = MODEL.apply(variables, {"image": images}, train=True)
        return outputs, MODEL.predict(outputs, jnp.full((2, 2), 32.0))

    with strict():
        outputs, found = jax.eval_shape(run, images.astype(jnp.bfloat16))
    heads = jax.tree.leaves((outputs["logits"], outputs["deltas"]))
    assert {x.dtype for x in heads} == {jnp.dtype("bfloat16")}
    assert [x.shape for x in outputs["logits"]] == [(2, 4 * 6 * 6, 3), (2, 2 * 3 * 6, 3), (2, 1 * 2 * 6, 3)]
    assert {x.dtype for x in jax.tree.leaves(outputs["anchors"])} == {jnp.dtype("float32")}
    assert (found.boxes.dtype, found.scores.dtype, found.labels.dtype) == (jnp.float32, jnp.float32, jnp.int32)
    assert isinstance(found, Detections) and found.boxes.shape == (2, 100, 4)


@pytest.mark.parametrize("counts", [[0, 0], [1, 0], [4, 4]])
def test_no_truth_one_object_and_full_truth_have_finite_losses_and_slopes(variables, counts):
    with strict():
        batch = batch_of(counts)
        terms, slopes = losses_of(variables, batch), slopes_of(variables, batch)
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves((terms, slopes)))
    assert terms["classification"] > 0 and (terms["box"] > 0) == (sum(counts) > 0)


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


def test_a_larger_canvas_has_no_other_anchors_in_its_loss(variables):
    """With zero weights every anchor has the same loss, so that the loss counts those that take part."""
    zeros = jax.tree.map(jnp.zeros_like, variables)
    small, large = batch_of([1, 2], (32, 32)), batch_of([1, 2], (64, 96))
    large |= {"size": small["size"], "targets": small["targets"]}
    expected = losses_of(zeros, small)
    for name, value in losses_of(zeros, large).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-5, err_msg=name)


def test_the_loss_is_zero_where_the_outputs_say_the_truth():
    """Logits of the assigned classes, deltas that decode to the objects."""
    batch = batch_of([3])
    outputs = jax.jit(lambda x: MODEL.init_with_output(jax.random.key(0), x)[0])(batch["image"])
    anchors, targets = jnp.concatenate(outputs["anchors"]), jax.tree.map(lambda x: jnp.asarray(x[0]), batch["targets"])
    found = jax.jit(MODEL.assigner)(anchors, targets.boxes, trained(targets))
    hit = jax.nn.one_hot(targets.labels[found.truth], 3) * found.positive[:, None]
    deltas = jnp.where(found.positive[:, None], jax.jit(encode_deltas)(targets.boxes[found.truth], anchors), 5.0)
    perfect = {"logits": (60 * hit - 30)[None], "deltas": deltas[None], "anchors": anchors}
    terms, detections = judged(MODEL, {name: (value,) for name, value in perfect.items()}, batch)
    assert found.positive.sum() >= 3
    assert float(terms["classification"][0]) < 1e-6 and float(terms["box"][0]) < 1e-4
    best = np.asarray(detections.boxes[0][detections.valid[0]])
    for box in np.asarray(targets.boxes[:3]):
        assert np.abs(best - box).max(axis=1).min() < 1e-2
