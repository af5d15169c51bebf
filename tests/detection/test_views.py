"""Test-time augmentation of detection: what is found in any view lies where it is in the image, and is merged."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.augment.views import View
from jaxvision.detection.merging import merge_detections
from jaxvision.detection.task import DetectionTask
from jaxvision.engine.evaluation import Evaluator
from jaxvision.engine.parallel import make_parallel
from jaxvision.engine.task import Context
from jaxvision.engine.tta import TTA, TTATask, shown_batch
from jaxvision.structures import Detections, Instances
from tests.conftest import strict

pytestmark = pytest.mark.usefixtures("unoptimized")
SIDE = 4
"""Of the one bright square of each image, in pixels."""


class Bright(nn.Module):
    """Finds the bright pixels of an image: their box, and their values as the mask."""

    num_classes: int = 2
    masks: bool = False

    @nn.compact
    def __call__(self, inputs, *, train=False, targets=None):
        return {"bright": inputs["image"][..., 0]}

    @nn.nowrap
    def predict(self, outputs, size):
        def one(image):
            spans = []
            for axis in (0, 1):
                hit = jnp.any(image > 0.4, axis=axis)
                spans += [jnp.argmax(hit), hit.size - jnp.argmax(hit[::-1])]
            left, right, top, bottom = (jnp.asarray(x, jnp.int32) for x in spans)
            box = jnp.stack([left, top, right, bottom]).astype(jnp.float32)
            found = {"boxes": box[None], "scores": jnp.full(1, 0.8), "labels": jnp.ones(1, jnp.int32)}
            if self.masks:
                found["masks"] = jax.lax.dynamic_slice(image, (top, left), (SIDE, SIDE))[None]
            # A second row of padding: outputs of detectors have some.
            padded = {name: jnp.concatenate([x, jnp.zeros_like(x)]) for name, x in found.items()}
            return Detections(**padded, valid=jnp.asarray([True, False]))

        return jax.vmap(one)(outputs["bright"])


def scene():
    """Two images of 12 x 16 pixels with a square of different pixels each, half the size of their originals."""
    rng = np.random.default_rng(0)
    image = np.zeros((2, 12, 16, 1), np.float32)
    corners = np.array([[3, 2], [9, 7]])
    for picture, (x, y) in zip(image, corners, strict=True):
        picture[y : y + SIDE, x : x + SIDE, 0] = rng.uniform(0.5, 1, (SIDE, SIDE))
    boxes = np.concatenate([corners, corners + SIDE], axis=1).astype(np.float32)[:, None]
    one = np.ones((2, 1))
    return {
        "image": image,
        "valid": np.ones(2, bool),
        "index": np.arange(2, dtype=np.int32),
        "size": np.tile(np.float32([[12, 16]]), (2, 1)),
        "original_size": np.tile(np.int32([[24, 32]]), (2, 1)),
        "to_original": np.tile(np.diag([2.0, 2.0, 1.0]).astype(np.float32), (2, 1, 1)),
        "targets": Instances(boxes, one.astype(np.int32), one > 0, one < 0, one.astype(np.float32) * 16),
    }


def found_by(tta, masks=False):
    task = TTATask(DetectionTask(Bright(masks=masks)), tta)
    batch = jax.tree.map(jnp.asarray, scene())
    with strict():
        return batch, jax.jit(lambda b: task.predict({}, b, Context())[0])(batch)


ALL_TURNS = TTA(flips=("horizontal", "vertical"), rotations=(90, 180, 270))


@pytest.mark.parametrize(
    "tta",
    [
        ALL_TURNS,
        dataclasses.replace(ALL_TURNS, merge="wbf"),
        TTA(rotations=(90,), scales=(2.0,), method="nearest"),
    ],
)
def test_what_is_found_in_every_view_is_one_object_of_the_original_image(tta):
    batch, found = found_by(tta)
    assert found.boxes.shape == (2, 2, 4)
    np.testing.assert_array_equal(found.valid, [[True, False]] * 2)
    np.testing.assert_allclose(found.boxes[:, 0], 2 * batch["targets"].boxes[:, 0], atol=1e-4)
    np.testing.assert_allclose(found.scores, [[0.8, 0]] * 2, rtol=1e-5)
    np.testing.assert_array_equal(found.labels[:, 0], [1, 1])


def test_masks_are_turned_back():
    """The best detection is that of the first view; so each view alone is looked at."""
    batch = jax.tree.map(jnp.asarray, scene())
    task = DetectionTask(Bright(masks=True))
    expected, _ = task.predict({}, batch, Context())
    views = ALL_TURNS.views((12, 16))
    for view in (views[1], views[4], views[8], views[15]):  # a turn, each mirror, all of them
        own = {**batch, "image": view(batch["image"])}
        with strict():
            fields = task.invert(task.predict({}, own, Context())[0], view)
        np.testing.assert_array_equal(fields["masks"][:, 0], expected.masks[:, 0])
    _, merged = found_by(ALL_TURNS, masks=True)
    np.testing.assert_allclose(merged.masks, expected.masks)


def test_an_evaluation_scores_the_merged_detections():
    batch, parallel = scene(), make_parallel("jit", 1)
    task = TTATask(DetectionTask(Bright()), TTA(flips=("horizontal",)))
    assert Evaluator(task, parallel)({"params": {}}, [parallel.place(batch)])["ap"] == pytest.approx(1.0)


def test_a_box_of_a_crop_lies_where_the_crop_was_cut():
    batch = jax.tree.map(jnp.asarray, scene())
    view = View((12, 16), vertical=True, crop=(1, 2, 9, 13))
    with strict():
        found, _ = DetectionTask(Bright()).predict({}, {**batch, **shown_batch(view, batch)}, Context())
    np.testing.assert_allclose(found.boxes[:, 0], 2 * batch["targets"].boxes[:, 0], atol=1e-4)


def test_upright_views_keep_the_size_of_their_picture():
    size = jnp.asarray([[10.0, 8.0]])
    np.testing.assert_allclose(View((12, 16), scale=1.5).shown_size(size), [[15, 12]])
    np.testing.assert_allclose(View((12, 16), horizontal=True).shown_size(size), [[12, 16]])
    np.testing.assert_allclose(View((12, 16), turns=1, scale=2.0).shown_size(size), [[32, 24]])


def test_detections_of_one_class_that_overlap_are_merged_and_the_best_are_kept():
    boxes = jnp.asarray([[[0.0, 0, 10, 10], [0, 0, 10, 10]]])
    shifted = boxes + jnp.asarray([1.0, 0, 1, 0])
    parts = [
        {"boxes": box, "scores": score, "labels": jnp.asarray([[0, 1]]), "valid": jnp.ones((1, 2), bool)}
        for box, score in ((boxes, jnp.asarray([[0.5, 0.9]])), (shifted, jnp.asarray([[0.7, 0.1]])))
    ]
    kept = merge_detections(parts, "nms", 0.5)
    np.testing.assert_allclose(kept.boxes, [[[0, 0, 10, 10], [1, 0, 11, 10]]])
    np.testing.assert_allclose(kept.scores, [[0.9, 0.7]], rtol=1e-6)
    fused = merge_detections(parts, "wbf", 0.5)
    np.testing.assert_allclose(fused.scores, [[0.6, 0.5]], rtol=1e-6)
    np.testing.assert_allclose(fused.boxes[0, :, 0], [0.7 / 1.2, 0.1], rtol=1e-5)


def test_what_means_nothing_is_refused():
    with pytest.raises(ValueError, match='"wbf" has no masks'):
        found_by(TTA(flips=("horizontal",), merge="wbf"), masks=True)
    with pytest.raises(ValueError, match="merge='gmean' merges arrays, not boxes"):
        found_by(TTA(merge="gmean"))
    with pytest.raises(ValueError, match="on='scores' names an array"):
        found_by(TTA(on="scores"))
    with pytest.raises(ValueError, match="merge='nms' merges boxes, not arrays"):
        TTA(merge="nms").merged([jnp.zeros(3)])
