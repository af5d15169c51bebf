"""Panoptic FPN: what it learns, that only the real truth matters, and how things and stuff share the pixels."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.detection.mask_rcnn import MaskRCNN
from jaxvision.detection.panoptic_fpn import PanopticFPN, PanopticFusion
from jaxvision.detection.panoptic_truth import truth_of
from jaxvision.layers import Norm
from jaxvision.ops import paste_masks_on_host, unpack_masks
from jaxvision.structures import Detections
from tests.conftest import strict
from tests.detection.made import EVERY, batch_of, tiny_faster_rcnn
from tests.detection.test_mask_rcnn import FIELDS

pytestmark = pytest.mark.usefixtures("unoptimized")
OWN = {"num_stuff": 1, "semantic_levels": ("p3", "p4"), "semantic_width": 8, "semantic_norm": Norm("gn", groups=2)}
MODEL = tiny_faster_rcnn(cls=PanopticFPN, stage=dataclasses.replace(MaskRCNN.stage, sampler=EVERY), **FIELDS, **OWN)
"""Classes 0 and 1 are things, 2 is stuff."""
KEYS = {"sampling": jax.random.key(1)}
SEGMENTS = 5


def panoptic_batch(counts, valid=None, crowd=False):
    """A batch of panoptic maps without `targets`: things that fill their boxes, then a strip without a segment, and
    stuff (the last segment) everywhere else."""
    batch = batch_of(counts, valid=valid)
    targets, (height, width) = batch.pop("targets"), batch["image"].shape[1:3]
    maps = np.full((len(counts), height, width), SEGMENTS, np.int32)
    maps[:, :, :5] = 0
    for i, count in enumerate(counts):
        for j, box in enumerate(targets.boxes[i, :count]):
            left, top, right, bottom = (round(float(x)) for x in box)
            maps[i, top:bottom, left:right] = j + 1
    real = np.arange(SEGMENTS)[None] < np.asarray(counts)[:, None]
    real[:, -1] = True
    labels = np.where(real, np.concatenate([targets.labels % 2, np.full((len(counts), 1), 2, np.int32)], 1), 0)
    crowds = real & np.asarray([crowd] * (SEGMENTS - 1) + [False])[None]
    return batch | {
        "panoptic": maps,
        "segment_labels": labels.astype(np.int32),
        "segment_crowd": crowds,
        "segment_valid": real,
    }


def with_truth(batch):
    return {**batch, **truth_of(batch, 2, 4)}


@pytest.fixture(scope="module")
def variables():
    """Drawn widely enough that scores and boxes differ."""
    fresh = jax.jit(MODEL.init)(jax.random.key(0), jnp.zeros((1, 32, 48, 3)))
    leaves, tree = jax.tree.flatten(fresh)
    rng = np.random.default_rng(0)
    return tree.unflatten([jnp.asarray(rng.normal(0, 0.15, x.shape), jnp.float32) for x in leaves])


@jax.jit
def learned(variables, batch):
    """Slopes, terms, and the logits of stuff."""
    batch = with_truth(batch)
    inputs = {"image": batch["image"], "size": batch["size"]}

    def loss(variables):
        outputs = MODEL.apply(variables, inputs, train=True, targets=batch["targets"], rngs=KEYS)
        terms = MODEL.loss(outputs, batch)
        means = {name: total / jnp.maximum(count, 1.0) for name, (total, count) in terms.items()}
        return sum(means.values()), (means, outputs["semantic"])

    slopes, (terms, semantic) = jax.grad(loss, has_aux=True)(variables)
    return slopes, terms, semantic


@pytest.mark.parametrize("counts", [[0, 0], [1, 0], [4, 4]])
def test_no_truth_one_object_and_full_truth_have_finite_losses_and_slopes(variables, counts):
    with strict():
        slopes, terms, _ = learned(variables, panoptic_batch(counts))
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves((terms, slopes)))
    assert set(terms) == {"objectness", "proposal_box", "classification", "box", "mask", "semantic"}
    assert terms["semantic"] > 0 and jnp.any(slopes["params"]["semantic_head"]["conv_logits"]["kernel"] != 0)
    assert (terms["mask"] > 0) == (sum(counts) > 0)


def test_the_branch_learns_stuff_and_one_class_of_all_things(variables):
    """Cells of stride 8: every eighth pixel, those without a class with no loss, but counted."""
    batch = panoptic_batch([3, 0])
    batch["size"][1] = 24, 40
    _, terms, logits = learned(variables, batch)
    logits = np.asarray(logits, np.float64)
    log = logits - np.logaddexp(logits[..., 0], logits[..., 1])[..., None]
    maps = batch["panoptic"][:, ::8, ::8]
    each = np.where(maps == 0, 0.0, -np.where(maps == SEGMENTS, log[..., 0], log[..., 1]))
    inside = np.ones((2, 4, 6), bool)
    inside[1, 3:], inside[1, :, 5:] = False, False
    np.testing.assert_allclose(terms["semantic"], 0.5 * each[inside].sum() / inside.sum(), rtol=1e-5)


def test_padding_and_images_that_are_not_valid_change_nothing(variables):
    batch = panoptic_batch([3, 2], valid=[True, False])
    _, expected, _ = learned(variables, batch)
    other = panoptic_batch([3, 4], valid=[True, False])
    other["segment_labels"][0, 3] = other["segment_crowd"][0, 3] = 1  # a row that is padding
    other["panoptic"][0][other["panoptic"][0] == 0] = SEGMENTS + 2  # a number that is not listed
    for name, value in learned(variables, other)[1].items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-5, err_msg=name)


def test_truth_is_made_of_the_map():
    batch = panoptic_batch([3, 0, 4], crowd=True)
    batch["panoptic"][2][batch["panoptic"][2] == 2] = SEGMENTS + 3  # a segment that is not listed, and one hidden
    with strict():
        found = jax.jit(with_truth)(batch)
    targets = found["targets"]
    np.testing.assert_array_equal(targets.valid, [[True] * 3 + [False], [False] * 4, [True, False, True, True]])
    np.testing.assert_array_equal(targets.crowd, targets.valid)
    for i, j in zip(*np.nonzero(np.asarray(targets.valid)), strict=True):
        mask = batch["panoptic"][i] == j + 1
        y, x = np.nonzero(mask)
        np.testing.assert_array_equal(targets.boxes[i, j], [x.min(), y.min(), x.max() + 1, y.max() + 1])
        np.testing.assert_array_equal(unpack_masks(np.asarray(targets.masks[i, j]), 48), mask)
        assert targets.area[i, j] == 4 * mask.sum() and targets.labels[i, j] == batch["segment_labels"][i, j]
    classes = np.concatenate([[255], batch["segment_labels"][2], [255] * 3])[batch["panoptic"][2]]
    np.testing.assert_array_equal(found["semantic"][2], classes)
    few = truth_of(batch, 2, 2)["targets"]
    assert few.boxes.shape == (3, 2, 4) and few.valid.sum() == 3
    with pytest.raises(ValueError, match="the data have no panoptic maps"):
        truth_of(batch_of([1]), 2, 4)


def fused(found, logits, size, area, stride, settings):
    """The fusion by its description, thing by thing, in numpy."""
    canvas = logits.shape[0] * stride, logits.shape[1] * stride
    drawn = paste_masks_on_host(found.masks, found.boxes, canvas)
    drawn[:, int(size[0]) :], drawn[:, :, int(size[1]) :] = False, False
    numbers = np.zeros(canvas, int)
    for number, (mask, valid) in enumerate(zip(drawn, found.valid, strict=True), 1):
        if valid and mask.any() and (mask & (numbers > 0)).sum() / mask.sum() <= settings.most_hidden:
            numbers[mask & (numbers == 0)] = number
    rows, columns = (np.clip((np.arange(side) + 0.5) / stride - 0.5, 0, side // stride - 1) for side in canvas)
    low_y, low_x = rows.astype(int), columns.astype(int)
    high_y, high_x = (np.minimum(low + 1, side // stride - 1) for low, side in zip((low_y, low_x), canvas, strict=True))
    dy, dx = (rows - low_y)[:, None, None], (columns - low_x)[None, :, None]
    upper = logits[low_y][:, low_x] * (1 - dx) + logits[low_y][:, high_x] * dx
    lower = logits[high_y][:, low_x] * (1 - dx) + logits[high_y][:, high_x] * dx
    classes = (upper * (1 - dy) + lower * dy).argmax(-1)
    classes[int(size[0]) :], classes[:, int(size[1]) :] = logits.shape[-1] - 1, logits.shape[-1] - 1
    for label in range(logits.shape[-1] - 1):
        own = (classes == label) & (numbers == 0)
        if own.sum() * area >= settings.least_stuff:
            numbers[own] = len(found.boxes) + 1 + label
    return numbers


@pytest.mark.parametrize("settings", [PanopticFusion(least_stuff=60.0), PanopticFusion(least_stuff=0, most_hidden=0.1)])
def test_things_are_laid_out_best_first_and_stuff_fills_what_they_leave(settings):
    rng = np.random.default_rng(4)
    fuse = jax.jit(lambda *image: settings(*image, 4))
    dropped = 0
    for _ in range(6):
        low = rng.uniform(-4, 28, (7, 2))
        boxes = np.concatenate([low, low + rng.uniform(2, 24, (7, 2))], 1).astype(np.float32)
        masks = rng.uniform(0.2, 1, (7, 6, 6)).astype(np.float32)
        valid = np.arange(7) < 6
        found = Detections(boxes, np.linspace(1, 0.5, 7, dtype=np.float32), np.zeros(7, np.int32), valid, masks)
        logits = rng.normal(size=(9, 11, 4)).astype(np.float32)
        size, area = np.array([34, 41], np.float32), np.float32(2.25)
        expected = fused(found, logits, size, area, 4, settings)
        with strict():
            panoptic, there = fuse(found, logits, size, area)
        np.testing.assert_array_equal(panoptic, expected)
        np.testing.assert_array_equal(np.flatnonzero(there) + 1, np.unique(expected[expected > 0]))
        assert panoptic.dtype == jnp.int32 and there.shape == (7 + 3,)
        dropped += 6 - len(set(range(1, 7)) & set(np.unique(expected).tolist()))
    assert dropped > 0


def test_predictions_have_the_numbers_of_their_things_and_types_do_not_depend_on_the_input(variables):
    batch = batch_of([1, 1])
    few = dataclasses.replace(MODEL.suppression, score_threshold=0.0, max_detections=5)
    model = dataclasses.replace(MODEL, suppression=few, fusion=PanopticFusion(least_stuff=10.0))

    @jax.jit
    def predict(variables, image):
        return model.predict(model.apply(variables, image), jnp.asarray(batch["size"]))

    with strict():
        found = predict(variables, batch["image"])
        half = jax.eval_shape(predict, variables, jnp.asarray(batch["image"], jnp.bfloat16))
    assert found.panoptic.shape == (2, 32, 48) and found.labels.shape == found.valid.shape == (2, 6)
    np.testing.assert_array_equal(found.labels[:, :5], found.detections.labels)
    assert (np.asarray(found.labels[:, 5]) == 2).all()
    for i in range(2):
        numbers = set(np.unique(found.panoptic[i]).tolist()) - {0}
        assert numbers == set((np.flatnonzero(found.valid[i]) + 1).tolist())
    assert half.panoptic.dtype == jnp.int32 and half.detections.masks.dtype == jnp.float32


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="num_stuff=3 of num_classes=3"):
        dataclasses.replace(MODEL, num_stuff=3)
    model = dataclasses.replace(MODEL, semantic_levels=("p2", "p3"))
    with pytest.raises(ValueError, match="set semantic_levels"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 48, 3)))
