"""OverFeat: the network on an image is the network on each of its windows, and boxes are merged as loops merge them."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision import layers
from jaxvision.detection.overfeat import OverFeat, OverFeatFeatures, cores, merge_boxes
from jaxvision.ops import pool
from tests.conftest import strict
from tests.detection.made import batch_of

pytestmark = pytest.mark.usefixtures("unoptimized")


class Unpadded(nn.Module):
    """Two convolutions without padding, of stride 4 and a field of 8 pixels."""

    @property
    def strides(self):
        return {"features": 4}

    @nn.compact
    def __call__(self, images, *, train):
        x = nn.relu(layers.Conv(6, 4, 2, padding=0, name="conv1")(images))
        return {"features": nn.relu(layers.Conv(8, 3, 2, padding=0, name="conv2")(x))}


def model_of(**fields):
    fields = {"pool": 2, "window": 2, "cell": 8, "scales": (1.0, 1.5), "hidden": (8, 8), "box_hidden": (8, 6), **fields}
    return OverFeat(Unpadded(), 3, **fields)


MODEL = model_of()


@pytest.fixture(scope="module")
def variables():
    return MODEL.init(jax.random.key(0), jnp.zeros((1, 32, 48, 3)))


@jax.jit
def losses_and_slopes(variables, batch):
    def loss(variables):
        terms = MODEL.loss(MODEL.apply(variables, {**batch}, train=True), batch)
        return sum(total / jnp.maximum(count, 1.0) for total, count in terms.values()), terms

    (_, terms), slopes = jax.value_and_grad(loss, has_aux=True)(variables)
    return terms, slopes


@pytest.mark.parametrize("counts", [[0, 0], [1, 0], [4, 4]])
def test_no_truth_one_object_and_full_truth_have_finite_losses_and_slopes(variables, counts):
    with strict():
        terms, slopes = losses_and_slopes(variables, batch_of(counts))
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves((terms, slopes)))
    assert terms["classification"][0] > 0 and (terms["box"][0] > 0) == (sum(counts) > 0)


@pytest.mark.parametrize("fine", [True, False])
def test_what_is_said_of_a_window_is_what_is_said_of_its_pixels_alone(variables, fine):
    model = model_of(scales=(1.0,), fine=fine)
    assert model.field == 20
    with strict():
        image = jnp.asarray(batch_of([1], (32, 48))["image"])
        whole = jax.jit(model.apply)(variables, image)
        assert whole["logits"].shape == (1, 4 * 8 if fine else 2 * 4, 4)
        corners = np.asarray(whole["windows"][:, :2]).astype(int)
        crops = jnp.concatenate([image[:, y : y + 20, x : x + 20] for x, y in corners])
        each = jax.jit(model.apply)(variables, crops)
    for name in ("logits", "edges"):
        np.testing.assert_allclose(whole[name][0], each[name][:, 0], rtol=1e-5, atol=1e-5)


def test_fine_positions_are_those_of_every_offset_of_the_pooling(variables):
    """Figure 3: the map is pooled at each offset, the classifier slides over each result, and all are interleaved."""
    with strict():
        image = jnp.asarray(batch_of([1], (32, 48))["image"])
        fine = jax.jit(model_of(scales=(1.0,)).apply)(variables, image)["logits"].reshape(4, 8, 4)
        params = variables["params"]
        features = Unpadded().apply({"params": params["backbone"]}, image, train=False)["features"]
        kernels = [params["classifier"][name] for name in ("fc_0", "fc_1", "last")]
        for down in range(2):
            for right in range(2):
                pooled = np.asarray(pool.max_pool(features[:, down:, right:], 2))[0]
                for y in range(pooled.shape[0] - 1):
                    for x in range(pooled.shape[1] - 1):
                        value = np.einsum("hwc,hwcd->d", pooled[y : y + 2, x : x + 2], kernels[0]["kernel"])
                        value = np.maximum(value + kernels[0]["bias"], 0)
                        value = np.maximum(value @ kernels[1]["kernel"][0, 0] + kernels[1]["bias"], 0)
                        value = value @ kernels[2]["kernel"][0, 0] + kernels[2]["bias"]
                        np.testing.assert_allclose(fine[2 * y + down, 2 * x + right], value, rtol=1e-4, atol=1e-5)


def merged_by_loops(boxes, scores, labels, valid, threshold, plain):
    """The merging of section 4.3, one pair at a time: rows that are left -> (box, sum of scores)."""

    def mismatch(a, b):
        apart = np.linalg.norm((a[:2] + a[2:]) / 2 - (b[:2] + b[2:]) / 2)
        diagonal = (np.linalg.norm(a[2:] - a[:2]) + np.linalg.norm(b[2:] - b[:2])) / 2
        common = np.prod(np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0))
        union = np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - common
        return apart / (diagonal or 1) + 1 - (common / union if union else 0)

    left = {i: (boxes[i].astype(np.float64), float(scores[i])) for i in np.flatnonzero(valid)}
    while True:
        pairs = [(i, j) for i in left for j in left if i < j and labels[i] == labels[j]]
        found = [(mismatch(left[i][0], left[j][0]), i, j) for i, j in pairs]
        if not found or min(found)[0] > threshold:
            return left
        _, i, j = min(found)
        (a, p), (b, q) = left.pop(i), left.pop(j)
        left[i] = ((a + b) / 2 if plain else (p * a + q * b) / (p + q), p + q)


@pytest.mark.parametrize("plain", [True, False])
def test_boxes_are_merged_as_loops_merge_them(plain):
    """Rows of padding, boxes without area and cases without any box are among them."""
    rng = np.random.default_rng(0)
    merge = jax.jit(lambda *args: merge_boxes(*args, 0.8, plain=plain))
    merges = 0
    with strict():
        for case in range(12):
            centres, sides = rng.uniform(0, 20, (20, 2)), rng.uniform(12, 24, (20, 2))
            boxes = np.concatenate([centres - sides / 2, centres + sides / 2], axis=1).astype(np.float32)
            boxes[3, 2:] = boxes[3, :2]
            scores = rng.uniform(0.1, 1, 20).astype(np.float32)
            labels = rng.integers(0, 2, 20).astype(np.int32)
            valid = rng.random(20) < (0.0, 0.5, 1.0)[case % 3]
            expected = merged_by_loops(boxes, scores, labels, valid, 0.8, plain)
            found, sums, left = map(np.asarray, merge(*map(jnp.asarray, (boxes, scores, labels, valid))))
            assert set(np.flatnonzero(left)) == set(expected)
            for row, (box, total) in expected.items():
                np.testing.assert_allclose(found[row], box, rtol=1e-3, atol=1e-3)
                assert sums[row] == pytest.approx(total, rel=1e-4)
            merges += valid.sum() - left.sum()
    assert merges > 30


def test_the_loss_is_least_where_the_outputs_say_the_truth():
    """Windows of the second scale are 1.5 times as small, and boxes in units of either are found again."""
    batch = batch_of([2])
    windows = jnp.concatenate([MODEL.windows_of((4, 8), (1.0, 1.0)), MODEL.windows_of((8, 14), (1.5, 1.5))])
    assert float(windows[-1, 2] - windows[-1, 0]) == pytest.approx(20 / 1.5)
    targets = batch["targets"]
    middle = np.asarray(cores(windows, MODEL.core))
    boxes = np.stack([middle[9], middle[60], *targets.boxes[0, 2:]])[None].astype(np.float32)
    targets = targets.replace(boxes=boxes, labels=np.asarray([[2, 0, 0, 0]], np.int32))
    usable = jnp.ones((1, len(windows)), bool)
    found = MODEL.assigner(jnp.asarray(middle), jnp.asarray(boxes[0]), jnp.asarray(targets.valid[0]), usable[0])
    labels = jnp.where(found.positive, jnp.asarray(targets.labels)[0][found.truth], 3)
    side = windows[:, 2:] - windows[:, :2]
    own = jnp.asarray(boxes)[0][found.truth]
    edges = jnp.concatenate([(own[:, :2] - windows[:, :2]) / side, (own[:, 2:] - windows[:, :2]) / side], axis=1)
    outputs = {"logits": 60 * jax.nn.one_hot(labels, 4)[None], "edges": edges[None], "windows": windows}
    outputs["usable"] = usable
    with strict():
        terms = jax.jit(MODEL.loss)(outputs, batch | {"targets": targets})
        detections = jax.jit(MODEL.predict)(outputs, jnp.asarray(batch["size"]))
    assert all(abs(float(total)) < 1e-4 and count >= 2 for total, count in terms.values())
    assert detections.valid.sum() == 2 and set(np.asarray(detections.labels[0, :2])) == {0, 2}
    first = 0 if detections.labels[0, 0] == 2 else 1
    np.testing.assert_allclose(detections.boxes[0, first], boxes[0, 0], atol=1e-3)
    assert 0.5 <= float(detections.scores[0, 1]) <= float(detections.scores[0, 0]) < 1


@pytest.mark.parametrize(("fast", "side", "cells"), [(True, 231, 12), (False, 221, 15)])
def test_the_convolutions_of_the_paper_leave_the_cells_of_its_tables(fast, side, cells):
    features = OverFeatFeatures(fast=fast)
    images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    with strict():
        out = jax.eval_shape(lambda x: features.init_with_output(jax.random.key(0), x, train=False)[0], images)
    assert out["features"].shape == (1, cells, cells, 1024)
    settings = {"pool": 2, "window": 6, "cell": 55} if fast else {}
    assert OverFeat(features, 3, **settings).field == side


def test_outputs_follow_the_dtype_of_the_images_and_detections_are_float32(variables):
    def run(images):
        outputs = MODEL.apply(variables, {"image": images}, train=True)
        return outputs, MODEL.predict(outputs, jnp.full((2, 2), 32.0))

    with strict():
        outputs, found = jax.eval_shape(run, jax.ShapeDtypeStruct((2, 32, 48, 3), jnp.bfloat16))
    assert {outputs[name].dtype for name in ("logits", "edges")} == {jnp.dtype("bfloat16")}
    assert (found.boxes.dtype, found.scores.dtype, found.labels.dtype) == (jnp.float32, jnp.float32, jnp.int32)


def test_wrong_settings_are_refused(variables):
    for fields in ({"scales": ()}, {"scales": (0.0,)}, {"core": 0.0}, {"window": 0}):
        with pytest.raises(ValueError, match="OverFeat got"):
            model_of(**fields)
    with pytest.raises(ValueError, match=r"\(16, 48\) pixels scaled by 1.0 are smaller than its window of 20 pixels"):
        MODEL.apply(variables, jnp.zeros((1, 16, 48, 3)))
