"""Fast R-CNN: with the proposals of Faster R-CNN it is that one's second stage; degenerate regions; what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.detection.fast_rcnn import FastRCNN
from jaxvision.detection.roi_heads import BoxStage
from jaxvision.detection.task import DetectionTask, inputs_of
from jaxvision.errors import SetupError
from jaxvision.structures import Proposals
from tests.conftest import strict
from tests.detection.made import EVERY, batch_of, tiny_faster_rcnn

pytestmark = pytest.mark.usefixtures("unoptimized")
FASTER = tiny_faster_rcnn()
MODEL = FastRCNN(
    FASTER.backbone, FASTER.neck, 3, FASTER.pooling, FASTER.width, BoxStage(sampler=EVERY), FASTER.suppression
)
KEYS = {"sampling": jax.random.key(1)}


@pytest.fixture(scope="module")
def variables():
    """Of Faster R-CNN, drawn widely enough that scores and boxes differ."""
    fresh = jax.eval_shape(FASTER.init, jax.random.key(0), jnp.zeros((1, 32, 48, 3)))
    leaves, tree = jax.tree.flatten(fresh)
    rng = np.random.default_rng(0)
    return tree.unflatten([jnp.asarray(rng.normal(0, 0.15, x.shape), jnp.float32) for x in leaves])


def without_rpn(variables):
    return {"params": {name: tree for name, tree in variables["params"].items() if name != "rpn_head"}}


def losses_of(model, variables, inputs, batch):
    outputs = model.apply(variables, inputs, train=True, targets=batch["targets"], rngs=KEYS)
    return {name: total / jnp.maximum(count, 1.0) for name, (total, count) in model.loss(outputs, batch).items()}


@jax.jit
def both(variables, batch):
    """Outputs, detections and losses of Faster R-CNN, and of Fast R-CNN with its proposals."""
    inputs = {"image": batch["image"], "size": batch["size"]}
    outputs = FASTER.apply(variables, inputs)
    given = {**inputs, "proposals": Proposals(outputs["rois"], outputs["valid"])}
    fast = without_rpn(variables)
    said = MODEL.apply(fast, given)
    expected = outputs, FASTER.predict(outputs, batch["size"]), losses_of(FASTER, variables, inputs, batch)
    return expected, (said, MODEL.predict(said, batch["size"]), losses_of(MODEL, fast, given, batch))


@jax.jit
def learned(variables, batch):
    return jax.value_and_grad(lambda v: sum(losses_of(MODEL, v, inputs_of(batch), batch).values()))(variables)


def test_with_its_proposals_it_is_the_second_stage_of_faster_rcnn(variables):
    with strict():
        (outputs, detections, terms), (said, found, own) = both(variables, batch_of([3, 1]))
    for name in ("rois", "valid", "logits", "deltas"):
        np.testing.assert_allclose(said[name], outputs[name], atol=1e-5)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(detections), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
    assert set(own) == {"classification", "box"} and outputs["valid"].sum() > 10
    for name, value in own.items():
        np.testing.assert_allclose(value, terms[name], rtol=1e-5)


@pytest.mark.parametrize("counts", [[0, 0], [1, 0], [4, 4]])
def test_losses_and_slopes_are_finite_without_objects_and_without_regions(variables, counts):
    batch = batch_of(counts)
    boxes = np.array([[2, 2, 20, 20], [5, 5, 5, 5], [0, 0, 48, 32], [0, 0, 0, 0]], np.float32)
    for valid in ([True, True, True, False], [False] * 4):
        given = Proposals(np.stack([boxes] * 2), np.array([valid] * 2))
        with strict():
            value, slopes = learned(without_rpn(variables), batch | {"proposals": given})
        assert all(jnp.isfinite(x).all() for x in jax.tree.leaves((value, slopes)))
        assert (value > 0) == (any(valid) or sum(counts) > 0)


def test_images_without_proposals_are_refused_except_to_initialise(variables):
    batch = batch_of([1, 1])
    with pytest.raises(SetupError, match="Fast R-CNN got images without proposals: .*with_proposals"):
        jax.eval_shape(MODEL.apply, without_rpn(variables), inputs_of(batch))
    with strict():
        fresh = jax.eval_shape(lambda images: DetectionTask(MODEL).init(jax.random.key(0), batch), batch["image"])
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), fresh)
    assert shapes == jax.tree.map(lambda x: (x.shape, x.dtype), without_rpn(variables))


def test_outputs_follow_the_dtype_of_the_images(variables):
    batch = batch_of([1, 1])
    batch["image"] = jnp.asarray(batch["image"], jnp.bfloat16)
    batch["proposals"] = Proposals(jnp.ones((2, 5, 4)), jnp.ones((2, 5), bool))
    with strict():
        said = jax.eval_shape(MODEL.apply, without_rpn(variables), inputs_of(batch))
    assert {said[name].dtype for name in ("logits", "deltas")} == {jnp.dtype("bfloat16")}
    assert said["rois"].dtype == jnp.float32 and said["deltas"].shape == (2, 5, 3, 4)
