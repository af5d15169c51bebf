"""RPN and Faster R-CNN: sizes, types, losses against loops, and that only the picture and the real truth matter."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxvision.detection.rpn import images_and_size
from jaxvision.detection.task import DetectionTask
from jaxvision.ops import encode_deltas
from tests.conftest import strict
from tests.detection.made import batch_of, tiny_faster_rcnn, tiny_rpn
from tests.engine.running import UNEVEN, arrays, run

pytestmark = pytest.mark.usefixtures("unoptimized")
MODEL = tiny_faster_rcnn()
RPN = tiny_rpn()
KEYS = {"sampling": jax.random.key(1)}


@pytest.fixture(scope="module")
def variables():
    """Drawn widely enough that scores and boxes differ."""
    fresh = jax.jit(MODEL.init)(jax.random.key(0), jnp.zeros((1, 32, 48, 3)))
    leaves, tree = jax.tree.flatten(fresh)
    rng = np.random.default_rng(0)
    return tree.unflatten([jnp.asarray(rng.normal(0, 0.15, x.shape), jnp.float32) for x in leaves])


def inputs_of(batch):
    return {"image": batch["image"], "size": batch["size"]}


@jax.jit
def learned(variables, batch):
    return MODEL.apply(variables, inputs_of(batch), train=True, targets=batch["targets"], rngs=KEYS)


@jax.jit
def losses_of(variables, batch):
    terms = MODEL.loss(learned(variables, batch), batch)
    return {name: total / jnp.maximum(count, 1.0) for name, (total, count) in terms.items()}


@jax.jit
def slopes_of(variables, batch):
    return jax.grad(lambda v: sum(losses_of(v, batch).values()))(variables)


def test_outputs_follow_the_dtype_of_the_images_and_detections_are_float32(variables):
    batch = batch_of([1, 1])
    batch["image"] = jnp.asarray(batch["image"], jnp.bfloat16)

    def everything(batch):
        outputs = MODEL.apply(variables, inputs_of(batch))
        return outputs, MODEL.predict(outputs, jnp.asarray(batch["size"])), learned(variables, batch)

    with strict():
        outputs, found, training = jax.eval_shape(everything, batch)
    for own in (outputs, training):
        heads = (own["logits"], own["deltas"], own["rpn"]["logits"], own["rpn"]["deltas"])
        assert {x.dtype for x in jax.tree.leaves(heads)} == {jnp.dtype("bfloat16")}
        assert own["rois"].dtype == jnp.float32
    assert outputs["logits"].shape == (2, 12, 4) and outputs["deltas"].shape == (2, 12, 3, 4)
    assert training["logits"].shape == (2, 12 + 4, 4), "all proposals, and the objects"
    assert (found.boxes.dtype, found.scores.dtype, found.labels.dtype) == (jnp.float32, jnp.float32, jnp.int32)
    assert found.boxes.shape == (2, 100, 4)


@pytest.mark.parametrize("counts", [[0, 0], [1, 0], [4, 4]])
def test_no_truth_one_object_and_full_truth_have_finite_losses_and_slopes(variables, counts):
    with strict():
        batch = batch_of(counts)
        terms, slopes = losses_of(variables, batch), slopes_of(variables, batch)
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves((terms, slopes)))
    assert terms["objectness"] > 0 and terms["classification"] > 0
    assert (terms["proposal_box"] > 0) == (terms["box"] > 0) == (sum(counts) > 0)
    assert all(jnp.any(x != 0) for x in jax.tree.leaves(slopes["params"]["neck"])), "both stages reach the pyramid"


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


def test_losses_equal_loops_over_the_samples(variables):
    batch = batch_of([3, 1])
    outputs = jax.tree.map(np.asarray, learned(variables, batch))
    targets, samples = batch["targets"], outputs["samples"]
    entropy, distance, count = 0.0, 0.0, 0
    for i, j in zip(*np.nonzero(samples.valid), strict=True):
        row, logits = samples.truth[i, j], outputs["logits"][i, j].astype(np.float64)
        label = targets.labels[i, row] if samples.positive[i, j] else 3
        entropy += np.log(np.exp(logits).sum()) - logits[label]
        count += 1
        if samples.positive[i, j]:
            pair = (jnp.asarray(x)[None] for x in (targets.boxes[i, row], outputs["rois"][i, j]))
            coded = encode_deltas(*pair, (0.0,) * 4, (0.1, 0.1, 0.2, 0.2))[0]
            distance += np.abs(outputs["deltas"][i, j, label] - np.asarray(coded)).sum()
    terms = losses_of(variables, batch)
    assert samples.positive.sum() >= 4
    np.testing.assert_allclose(terms["classification"], entropy / count, rtol=1e-5)
    np.testing.assert_allclose(terms["box"], distance / count, rtol=1e-5)

    first = outputs["rpn"]
    logits, rows = np.concatenate(first["logits"], 1), first["samples"].rows
    said = np.take_along_axis(logits, rows, 1).astype(np.float64)
    each = np.logaddexp(0, np.where(first["samples"].positive, -said, said))
    np.testing.assert_allclose(terms["objectness"], each[first["samples"].valid].mean(), rtol=1e-5)


def test_proposals_lie_in_the_picture_and_those_of_one_level_do_not_overlap_much(variables):
    batch = batch_of([0, 0], (64, 64))
    size = jnp.asarray([[64, 64], [33, 20.0]])
    with strict():
        outputs = jax.jit(MODEL.apply)(variables, {"image": batch["image"], "size": size})
    assert outputs["valid"].any(axis=1).all()
    for i, (height, width) in enumerate(np.asarray(size)):
        boxes = np.asarray(outputs["rois"][i])[np.asarray(outputs["valid"][i])]
        assert (boxes >= 0).all() and (boxes <= [width, height, width, height]).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
    assert not np.asarray(outputs["rois"])[~np.asarray(outputs["valid"])].any()


def test_detections_are_the_objects_where_the_outputs_say_so():
    """Regions near the objects, sure classes, and the deltas that lead from them to the objects."""
    batch = batch_of([3])
    boxes, labels = jnp.asarray(batch["targets"].boxes), np.asarray(batch["targets"].labels)
    rois = boxes + jnp.asarray([[-1.0, 2.0, 1.0, 3.0]])
    coded = jax.jit(lambda a, b: encode_deltas(a, b, (0.0,) * 4, MODEL.stage.box_stds))(boxes, rois)
    deltas = np.full((1, 4, 3, 4), 3.0, np.float32)
    logits = np.zeros((1, 4, 4), np.float32)
    for row in range(4):
        deltas[0, row, labels[0, row]] = coded[0, row]
        logits[0, row, labels[0, row] if row < 3 else 3] = 9.0
    valid = jnp.asarray([[True] * 3 + [False]])
    outputs = {"logits": jnp.asarray(logits), "deltas": jnp.asarray(deltas), "rois": rois, "valid": valid}
    with strict():
        found = jax.jit(MODEL.predict)(outputs, jnp.asarray(batch["size"]))
    assert found.valid.sum() == 3
    order = np.argsort(np.asarray(found.boxes[0, :3, 0])), np.argsort(np.asarray(boxes[0, :3, 0]))
    np.testing.assert_allclose(found.boxes[0, :3][order[0]], boxes[0, :3][order[1]], atol=1e-3)
    np.testing.assert_array_equal(np.asarray(found.labels)[0, :3][order[0]], labels[0, :3][order[1]])


def test_the_proposal_network_alone_learns_and_proposes():
    batch = batch_of([2, 0])
    variables = jax.jit(RPN.init)(jax.random.key(0), batch["image"])

    def loss(variables):
        outputs = RPN.apply(variables, inputs_of(batch), train=True, targets=batch["targets"], rngs=KEYS)
        return sum(total / jnp.maximum(count, 1.0) for total, count in RPN.loss(outputs, batch).values())

    with strict():
        outputs = jax.jit(RPN.apply)(variables, batch["image"])
        found = jax.jit(RPN.predict)(outputs, jnp.asarray(batch["size"]))
        value, slopes = jax.jit(jax.value_and_grad(loss))(variables)
    assert value > 0 and all(jnp.isfinite(x).all() for x in jax.tree.leaves(slopes))
    assert found.boxes.shape == (2, 12, 4) and found.valid.any() and not found.labels.any()
    with pytest.raises(ValueError, match="call the model with targets="):
        RPN.loss(outputs, batch)
    _, size = images_and_size(jnp.zeros((2, 8, 16, 3)))
    np.testing.assert_array_equal(size, [[8, 16], [8, 16]])


COUNTS = [0, 3, 1, 0, 4, 2, 0, 0, 1, 4, 0, 0, 2, 0, 3, 1]


def test_devices_equal_one_device_on_the_global_batch():
    """Positives are uneven, some devices have no valid image, and no reduction was forgotten."""
    task = DetectionTask(MODEL)
    batch = batch_of(COUNTS, valid=UNEVEN)
    settings = {"batch": batch, "steps": 1, "optimizer": optax.sgd(0.01)}
    (state, history, _) = run(task, "shard_map", 8, check=True, **settings)
    (expected, expected_history, _) = run(task, "jit", 1, **settings)
    for got, want in zip(arrays(state), arrays(expected), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)
    terms = ("objectness_loss", "proposal_box_loss", "classification_loss", "box_loss", "loss")
    for name in terms:
        np.testing.assert_allclose(history[0][name], expected_history[0][name], rtol=1e-4, atol=1e-6, err_msg=name)


def test_classes_may_share_one_box():
    model = tiny_faster_rcnn(stage=dataclasses.replace(MODEL.stage, class_agnostic=True))
    batch = batch_of([2, 1])

    def everything(batch):
        outputs, _ = model.init_with_output(
            {"params": jax.random.key(0), **KEYS}, inputs_of(batch), targets=batch["targets"]
        )
        return outputs["deltas"], model.loss(outputs, batch), model.predict(outputs, batch["size"])

    with strict():
        deltas, terms, _ = jax.eval_shape(everything, batch)
    assert deltas.shape == (2, 16, 1, 4) and terms["box"][0].shape == ()
