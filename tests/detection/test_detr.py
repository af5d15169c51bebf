"""DETR and Deformable DETR: types, padding, finite slopes, perfect outputs, settings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.detection.deformable_detr import DeformableDETR, own_places, shares_of_pictures
from jaxvision.detection.detr import DETR
from jaxvision.detection.query_layers import in_picture
from jaxvision.necks.channel_mapper import ChannelMapper
from tests.conftest import strict
from tests.detection.made import Tiny, batch_of

pytestmark = pytest.mark.usefixtures("unoptimized")
SMALL = {
    "queries": 5,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "heads": 2,
    "hidden": 8,
    "max_detections": 5,
}
NECK = ChannelMapper(8, ("c3", "c4"))
"""Without the usual group norm, whose statistics are of the whole canvas (in the references, too)."""
MODELS = {
    "detr": DETR(Tiny(), ChannelMapper(8, ("c4",)), 3, **SMALL),
    "deformable_detr": DeformableDETR(Tiny(), NECK, 3, points=2, refine=True, **SMALL),
}
CANVAS = (32, 96)


@pytest.fixture(scope="module", params=list(MODELS))
def trained(request):
    """A model, its variables, and a compiled (terms, outputs, slopes) of (variables, batch)."""
    model = MODELS[request.param]
    with strict():
        variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, *CANVAS, 3)))

    @jax.jit
    def run(variables, batch):
        def total(variables):
            inputs = {"image": batch["image"], "size": batch["size"]}
            outputs = model.apply(variables, inputs, train=True, rngs={"dropout": jax.random.key(1)})
            terms = model.loss(outputs, batch)
            parts = [part / jnp.maximum(count, 1.0) for part, count in terms.values()]
            return sum(parts[1:], parts[0]), (terms, outputs)

        (_, (terms, outputs)), slopes = jax.value_and_grad(total, has_aux=True)(variables)
        return terms, outputs, slopes

    return model, variables, run


@pytest.mark.parametrize("counts", [[0, 0], [1, 0], [4, 4]])
def test_no_truth_one_object_and_full_truth_have_finite_losses_and_slopes(trained, counts):
    _, variables, run = trained
    with strict():
        terms, _, slopes = run(variables, jax.tree.map(jnp.asarray, batch_of(counts, CANVAS)))
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves((terms, slopes)))
    assert len(terms) == 6 and all(total > 0 for name, (total, _) in terms.items() if "class" in name)
    assert all((total > 0) == (sum(counts) > 0) for name, (total, _) in terms.items() if "class" not in name)
    assert all(count == sum(counts) for name, (_, count) in terms.items() if "class" not in name)


def test_what_lies_beyond_the_picture_is_not_seen(trained):
    """Nor does an image without any picture, as of a sample that is not valid, give NaN."""
    _, variables, run = trained
    batch = jax.tree.map(jnp.asarray, batch_of([2, 0], CANVAS, valid=[True, False]))
    batch["size"] = jnp.asarray([[32.0, 32.0], [0.0, 0.0]])
    beyond, within = (batch | {"image": batch["image"].at[:, :, x:].add(1.0)} for x in (72, 8))
    with strict():
        said, same, other = (run(variables, b)[1] for b in (batch, beyond, within))
        terms, _, slopes = run(variables, batch)
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves((terms, slopes, said)))
    np.testing.assert_allclose(said["boxes"][:, 0], same["boxes"][:, 0], atol=1e-6)
    np.testing.assert_allclose(said["logits"][:, 0], same["logits"][:, 0], atol=1e-5)
    assert np.abs(np.asarray(said["logits"] - other["logits"])[:, 0]).max() > 1e-4


@pytest.mark.parametrize("name", list(MODELS))
def test_perfect_outputs_have_the_least_loss_and_are_detected(name):
    model, batch = MODELS[name], batch_of([3, 0], CANVAS)
    truth = jax.tree.map(jnp.asarray, batch["targets"])
    sides = jnp.tile(jnp.asarray(CANVAS[::-1], jnp.float32), 2)
    left, top, right, bottom = jnp.moveaxis(truth.boxes / sides, -1, 0)
    boxes = jnp.stack([(left + right) / 2, (top + bottom) / 2, right - left, bottom - top], axis=-1)
    boxes = jnp.pad(boxes, [(0, 0), (0, 1), (0, 0)], constant_values=0.5)[None].repeat(2, axis=0)
    none = 1 if name == "detr" else 0
    aims = jnp.pad(jnp.where(truth.valid, truth.labels, 3), [(0, 0), (0, 1)], constant_values=3)
    logits = (40 * jax.nn.one_hot(aims, 3 + none) - 20)[None].repeat(2, axis=0)
    outputs = {"logits": logits, "boxes": boxes}
    with strict():
        terms = model.loss(outputs, jax.tree.map(jnp.asarray, batch))
        found = model.predict(outputs, jnp.asarray(batch["size"]))
    assert all(float(total) < 1e-4 for total, _ in terms.values())
    for row in range(3):
        at = np.argmin(np.abs(found.boxes[0] - truth.boxes[0, row]).max(axis=1))
        np.testing.assert_allclose(found.boxes[0, at], truth.boxes[0, row], atol=1e-3)
        assert found.labels[0, at] == truth.labels[0, row] and found.scores[0, at] > 0.99
    assert (found.scores[1] < 0.01).all() and (jnp.diff(found.scores, axis=1) <= 0).all()
    last = model.clone(auxiliary=False).loss(outputs, jax.tree.map(jnp.asarray, batch))
    assert set(last) == {"classification", "box", "giou"}


@pytest.mark.parametrize("name", list(MODELS))
def test_logits_follow_the_dtype_of_the_images_and_boxes_are_float32(name):
    model = MODELS[name]

    def run(images):
        outputs, _ = model.init_with_output(jax.random.key(0), images, train=False)
        return outputs, model.predict(outputs, jnp.full((2, 2), 32.0))

    with strict():
        outputs, found = jax.eval_shape(run, jax.ShapeDtypeStruct((2, *CANVAS, 3), jnp.bfloat16))
    classes = 4 if name == "detr" else 3
    assert outputs["logits"].shape == (2, 2, 5, classes) and outputs["logits"].dtype == jnp.bfloat16
    assert outputs["boxes"].shape == (2, 2, 5, 4) and outputs["boxes"].dtype == jnp.float32
    assert (found.boxes.dtype, found.scores.dtype, found.labels.dtype) == (jnp.float32, jnp.float32, jnp.int32)


def test_cells_belong_to_a_picture_by_their_first_pixel():
    size = jnp.asarray([[33.0, 96.0], [32.0, 17.0]])
    with strict():
        real = in_picture(size, (48, 96), (3, 6))
        shares = shares_of_pictures({"p4": real, "p5": in_picture(size, (48, 96), (2, 3))})
        places = own_places(((3, 6), (2, 3)), shares)
    np.testing.assert_array_equal(real[0], np.ones((3, 6), bool))
    np.testing.assert_array_equal(real[1], np.outer([1, 1, 0], [1, 1, 0, 0, 0, 0]).astype(bool))
    np.testing.assert_allclose(shares[1], [[1 / 3, 2 / 3], [1 / 3, 1.0]], rtol=1e-6)
    # The first cell of "p4": half a column of two, half a row of two, on maps of two thirds and a whole height.
    np.testing.assert_allclose(places[1, 0], [[1 / 12, 1 / 6], [1 / 12, 1 / 4]], rtol=1e-5)


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="DETR got {'queries': 0}: expected positive numbers"):
        DETR(Tiny(), ChannelMapper(8, ("c4",)), 3, queries=0)
    with pytest.raises(ValueError, match="levels p3, p4 from its neck: expected one"):
        jax.eval_shape(DETR(Tiny(), NECK, 3, **SMALL).init, jax.random.key(0), jnp.zeros((1, *CANVAS, 3)))
