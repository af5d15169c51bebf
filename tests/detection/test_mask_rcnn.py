"""Mask R-CNN: its size, its types, what its masks learn, and that only the real truth matters."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.detection.mask_rcnn import MaskRCNN
from jaxvision.detection.roi_heads import RoIPooling
from jaxvision.ops import pack_masks, unpack_masks
from tests.conftest import strict
from tests.detection.made import EVERY, batch_of, tiny_faster_rcnn

pytestmark = pytest.mark.usefixtures("unoptimized")
FIELDS = {
    "mask_pooling": RoIPooling(size=3, levels=("p3", "p4"), sampling_ratio=2),
    "mask_width": 8,
    "mask_depth": 1,
}
MODEL = tiny_faster_rcnn(cls=MaskRCNN, stage=dataclasses.replace(MaskRCNN.stage, sampler=EVERY), **FIELDS)
KEYS = {"sampling": jax.random.key(1)}


def masked(counts, **options):
    """A batch whose objects fill the left half of their boxes."""
    batch = batch_of(counts, **options)
    targets, (height, width) = batch["targets"], batch["image"].shape[1:3]
    x, y = np.arange(width) + 0.5, np.arange(height) + 0.5
    left, top, right, bottom = np.moveaxis(targets.boxes, -1, 0)[..., None, None]
    masks = (y[:, None] > top) & (y[:, None] < bottom) & (x > left) & (x < (left + right) / 2)
    return batch | {"targets": targets.replace(masks=pack_masks(masks))}


@pytest.fixture(scope="module")
def variables():
    """Drawn widely enough that scores and boxes differ."""
    fresh = jax.jit(MODEL.init)(jax.random.key(0), jnp.zeros((1, 32, 48, 3)))
    leaves, tree = jax.tree.flatten(fresh)
    rng = np.random.default_rng(0)
    return tree.unflatten([jnp.asarray(rng.normal(0, 0.15, x.shape), jnp.float32) for x in leaves])


@jax.jit
def learned(variables, batch):
    inputs = {"image": batch["image"], "size": batch["size"]}
    return MODEL.apply(variables, inputs, train=True, targets=batch["targets"], rngs=KEYS)


@jax.jit
def losses_of(variables, batch):
    terms = MODEL.loss(learned(variables, batch), batch)
    return {name: total / jnp.maximum(count, 1.0) for name, (total, count) in terms.items()}


@jax.jit
def slopes_of(variables, batch):
    return jax.grad(lambda v: sum(losses_of(v, batch).values()))(variables)


def test_masks_are_probabilities_of_roi_size_and_follow_the_detections(variables):
    batch = batch_of([1, 1])
    model = dataclasses.replace(
        MODEL, suppression=dataclasses.replace(MODEL.suppression, score_threshold=0.0, max_detections=5)
    )
    with strict():
        outputs = jax.jit(model.apply)(variables, batch["image"])
        half = jax.eval_shape(model.apply, variables, jnp.asarray(batch["image"], jnp.bfloat16))
    found = jax.jit(model.predict)(outputs, jnp.asarray(batch["size"]))
    assert found.boxes.shape == (2, 5, 4) and found.masks.shape == (2, 5, 6, 6) and found.valid.any()
    assert half["detections"].masks.dtype == jnp.float32
    real = np.asarray(found.masks)[np.asarray(found.valid)]
    assert ((real > 0) & (real < 1)).all() and not np.asarray(found.masks)[~np.asarray(found.valid)].any()


@pytest.mark.parametrize("counts", [[0, 0], [1, 0], [4, 4]])
def test_no_truth_one_object_and_full_truth_have_finite_losses_and_slopes(variables, counts):
    with strict():
        batch = masked(counts)
        terms, slopes = losses_of(variables, batch), slopes_of(variables, batch)
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves((terms, slopes)))
    assert set(terms) == {"objectness", "proposal_box", "classification", "box", "mask"}
    assert (terms["mask"] > 0) == (sum(counts) > 0)
    moved = jnp.any(slopes["params"]["mask_predictor"]["mask_fcn_logits"]["kernel"] != 0)
    assert moved == (sum(counts) > 0)


def test_what_is_learned_of_an_object_is_its_mask_in_the_region(variables):
    batch = masked([2, 0])
    outputs = jax.tree.map(np.asarray, learned(variables, batch))
    samples, truth = outputs["samples"], unpack_masks(batch["targets"].masks, 48)
    first = outputs["masks"].shape[1]
    assert first == 16 and set(np.unique(outputs["masks"])) <= {0, 1}
    for j in np.flatnonzero(samples.positive[0, :first]):
        left, top, right, bottom = outputs["rois"][0, j]
        mask = truth[0, samples.truth[0, j]]
        for row, column in ((1, 1), (1, 4), (4, 1), (4, 4)):
            y, x = top + (row + 0.5) / 6 * (bottom - top), left + (column + 0.5) / 6 * (right - left)
            near = mask[max(int(y) - 1, 0) : int(y) + 2, max(int(x) - 1, 0) : int(x) + 2]
            if near.all() or not near.any():  # beyond doubt
                assert outputs["masks"][0, j, row, column] == near.all()
    entropy = np.logaddexp(0, np.where(outputs["masks"] > 0, -outputs["mask_logits"], outputs["mask_logits"]))
    positive = samples.positive[:, :first]
    np.testing.assert_allclose(losses_of(variables, batch)["mask"], entropy[positive].mean(), rtol=1e-5)


def test_padding_and_images_that_are_not_valid_change_nothing(variables):
    batch = masked([3, 2])
    expected = losses_of(variables, batch)
    more = masked([3, 2, 4, 4], valid=[True, True, False, False])
    targets = batch["targets"]
    more["image"][:2] = batch["image"]
    more["targets"].boxes[:2], more["targets"].labels[:2] = targets.boxes, targets.labels
    more["targets"].masks[:2] = targets.masks
    noisy = batch | {"targets": targets.replace(masks=np.where(targets.valid[..., None, None], targets.masks, 255))}
    for other in (more, noisy):
        for name, value in losses_of(variables, other).items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-5, err_msg=name)


def test_truth_without_masks_is_refused(variables):
    with pytest.raises(ValueError, match="the targets have no masks"):
        jax.eval_shape(learned, variables, batch_of([1]))
