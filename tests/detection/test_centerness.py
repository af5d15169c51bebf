"""Detectors with centerness: types, and a loss that depends on the picture and the real truth alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.detection.anchors import Anchors
from jaxvision.detection.atss import ATSS
from jaxvision.detection.centerness import centerness
from jaxvision.detection.dense import Suppression
from jaxvision.detection.fcos import FCOS
from jaxvision.detection.points import Points
from jaxvision.layers import Norm
from jaxvision.necks.fpn import FPN
from jaxvision.structures import Detections
from tests.conftest import strict
from tests.detection.made import Tiny, batch_of

pytestmark = pytest.mark.usefixtures("unoptimized")
PARTS = {"backbone": Tiny(), "neck": FPN(8, ("c3", "c4"), extra_levels=1, extra="output"), "num_classes": 3}
COMMON = {"depth": 1, "norm": Norm("gn", groups=2), "suppression": Suppression(candidates=50)}
TORCHVISION = {
    "points": Points(offset=0.0, whole=True),
    "center_radius": 1.5,
    "conv_bias": True,
    "factors": False,
    "centerness_with_boxes": True,
    "activation": "relu",
    "box_loss": "giou",
    "centerness_weights": False,
    "score": "geometric_mean",
}
MODELS = {
    "fcos": FCOS(**PARTS, **COMMON, reach=2.0),
    "torchvision/fcos": FCOS(**PARTS, **COMMON, **TORCHVISION, reach=2.0),
    "atss": ATSS(**PARTS, **COMMON, anchors=Anchors(scales=(2.0,), ratios=(1.0,))),
}


def variables_of(model):
    return jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 32, 48, 3)))


@functools.partial(jax.jit, static_argnums=0)
def losses_of(model, variables, batch):
    outputs = model.apply(variables, batch["image"])
    return {
        name: total / jnp.where(count > 0, count, 1.0) for name, (total, count) in model.loss(outputs, batch).items()
    }


@functools.partial(jax.jit, static_argnums=0)
def slopes_of(model, variables, batch):
    return jax.grad(lambda v: sum(losses_of(model, v, batch).values()))(variables)


def test_centerness_is_one_in_the_middle_and_falls_to_the_border():
    sides = jnp.asarray([[5, 5, 5, 5], [1, 2, 4, 8], [0, 3, 5, 3.0]])
    np.testing.assert_allclose(centerness(sides), [1, 0.25, 0], atol=1e-7)


@pytest.mark.parametrize("name", MODELS)
def test_outputs_follow_the_dtype_of_the_images_and_detections_are_float32(name):
    model = MODELS[name]

    def run(images):
        outputs = model.init_with_output(jax.random.key(0), {"image": images}, train=True)[0]
        return outputs, model.predict(outputs, jnp.full((2, 2), 32.0))

    with strict():
        outputs, found = jax.eval_shape(run, jax.ShapeDtypeStruct((2, 32, 48, 3), jnp.bfloat16))
    priors = outputs.pop("points" if "points" in outputs else "anchors")
    assert {x.dtype for x in jax.tree.leaves(outputs)} == {jnp.dtype("bfloat16")}
    assert [x.shape for x in outputs["logits"]] == [(2, n, 3) for n in (24, 6, 2)]
    assert [x.shape for x in outputs["centerness"]] == [(2, n) for n in (24, 6, 2)]
    assert {x.dtype for x in priors} == {jnp.dtype("float32")}
    assert (found.boxes.dtype, found.scores.dtype, found.labels.dtype) == (jnp.float32, jnp.float32, jnp.int32)
    assert isinstance(found, Detections) and found.boxes.shape == (2, 100, 4)


@pytest.mark.parametrize("name", MODELS)
def test_no_truth_one_object_and_full_truth_have_finite_losses_and_slopes(name):
    model = MODELS[name]
    variables = variables_of(model)
    for counts in ([0, 0], [1, 0], [4, 4]):
        with strict():
            batch = batch_of(counts)
            terms, slopes = losses_of(model, variables, batch), slopes_of(model, variables, batch)
        assert all(jnp.isfinite(x).all() for x in jax.tree.leaves((terms, slopes)))
        assert terms["classification"] > 0
        assert all((terms[part] > 0) == (sum(counts) > 0) for part in ("box", "centerness"))


@pytest.mark.parametrize("name", MODELS)
def test_padding_crowds_canvas_and_images_that_are_not_valid_change_nothing(name):
    model = MODELS[name]
    variables = variables_of(model)
    batch = batch_of([3, 2])
    expected = losses_of(model, variables, batch)
    targets = batch["targets"]
    noise = np.where(targets.valid[..., None], targets.boxes, 17.0)
    noisy = batch | {"targets": targets.replace(boxes=noise, labels=np.where(targets.valid, targets.labels, 2))}
    crowd = batch | {"targets": targets.replace(valid=np.ones_like(targets.valid), crowd=~targets.valid, boxes=noise)}
    more = batch_of([3, 2, 4, 4], valid=[True, True, False, False])
    more["image"][:2] = batch["image"]
    more["targets"].boxes[:2], more["targets"].labels[:2] = targets.boxes, targets.labels
    for other in (noisy, crowd, more):
        for part, value in losses_of(model, variables, other).items():
            np.testing.assert_allclose(value, expected[part], rtol=1e-5, err_msg=part)


@pytest.mark.parametrize("name", MODELS)
def test_a_larger_canvas_has_nothing_more_in_its_loss(name):
    """With zero weights every place has the same loss, so that the loss counts those that take part."""
    model = MODELS[name]
    zeros = jax.tree.map(jnp.zeros_like, variables_of(model))
    small, large = batch_of([1, 2], (32, 32)), batch_of([1, 2], (64, 96))
    large |= {"size": small["size"], "targets": small["targets"]}
    expected = losses_of(model, zeros, small)
    for part, value in losses_of(model, zeros, large).items():
        np.testing.assert_allclose(value, expected[part], rtol=1e-5, err_msg=part)
