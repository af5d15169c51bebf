"""YOLOv3: which anchor learns which object, its loss and its detections."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.detection.dense import Suppression
from jaxvision.detection.yolov3 import GridAssigner, YOLOv3
from jaxvision.layers import Norm
from jaxvision.necks.yolov3 import YOLOv3Neck
from jaxvision.ops import centered_boxes, encode_yolo, grid_anchors
from tests.conftest import strict
from tests.detection.made import Tiny, batch_of
from tests.detection.test_assigners import overlap

pytestmark = pytest.mark.usefixtures("unoptimized")
SHAPES = (((8.0, 12.0), (14.0, 8.0)), ((16.0, 24.0), (30.0, 20.0)))
STRIDES = (8, 16)
GN = Norm("gn", groups=2)
MODEL = YOLOv3(Tiny(), YOLOv3Neck(("c3", "c4"), 4, GN), 3, SHAPES, norm=GN, suppression=Suppression(candidates=50))


def anchors_of(height, width):
    return tuple(
        grid_anchors((height // stride, width // stride), stride, centered_boxes(shapes, center=stride / 2))
        for stride, shapes in zip(STRIDES, SHAPES, strict=True)
    )


@pytest.fixture(scope="module")
def variables():
    return jax.jit(MODEL.init)(jax.random.key(0), jnp.zeros((1, 32, 48, 3)))


@jax.jit
def losses_of(variables, batch):
    outputs = MODEL.apply(variables, batch["image"])
    return {name: total / jnp.maximum(count, 1.0) for name, (total, count) in MODEL.loss(outputs, batch).items()}


@jax.jit
def slopes_of(variables, batch):
    return jax.grad(lambda v: sum(losses_of(v, batch).values()))(variables)


def oracle(rule, levels, boxes, valid):
    """(row of the object, -1 negative, -2 neither) of each anchor."""
    objects = np.flatnonzero(valid)
    middles = (boxes[:, :2] + boxes[:, 2:]) / 2
    anchors, cells = np.concatenate(levels), []
    for level, stride in zip(levels, STRIDES, strict=True):
        taken = {tuple(np.floor(middles[j] / stride)) for j in objects}
        cells += [tuple(np.floor((a[:2] + a[2:]) / 2 / stride)) in taken for a in level]
    table = np.array([[overlap(a, boxes[j]) for j in objects] for a in anchors], np.float32).reshape(len(anchors), -1)
    answer = np.where(table.max(axis=1, initial=0.0) <= rule.negative, -1, -2)
    for i in np.flatnonzero(cells):
        if table[i].max(initial=0.0) > rule.positive:
            answer[i] = objects[table[i].argmax()]
    for column, j in enumerate(objects):
        most = max((table[i, column] for i in np.flatnonzero(cells)), default=0.0)
        for i in np.flatnonzero(cells):
            if most > 0 and table[i, column] == most:
                answer[i] = j
    return answer


def test_random_boxes_are_assigned_as_loops_assign_them():
    """Whole coordinates, so that many overlaps are equal; objects without area and empty images are among them."""
    rng = np.random.default_rng(0)
    levels, rule, positives = anchors_of(48, 64), GridAssigner(positive=0.4, negative=0.3), 0
    with strict():
        assign = jax.jit(lambda boxes, valid: rule(levels, STRIDES, boxes, valid))
        for case in range(20):
            low = rng.integers(0, 32, (5, 2))
            boxes = np.concatenate([low, low + rng.integers(0, 30, (5, 2))], axis=1).astype(np.float32)
            boxes = np.minimum(boxes, [63, 47, 63, 47]).astype(np.float32)
            valid = rng.random(5) < (0.0, 0.3, 0.7, 1.0)[case % 4]
            found = assign(jnp.asarray(boxes), jnp.asarray(valid))
            expected = oracle(rule, [np.asarray(x) for x in levels], boxes, valid)
            np.testing.assert_array_equal(found.positive, expected >= 0)
            np.testing.assert_array_equal(found.negative, expected == -1)
            np.testing.assert_array_equal(np.asarray(found.truth)[expected >= 0], expected[expected >= 0])
            positives += (expected >= 0).sum()
        assert positives > 40


def test_outputs_follow_the_dtype_of_the_images_and_the_network_starts_sure_of_nothing(variables):
    def run(images):
        outputs = MODEL.apply(variables, {"image": images}, train=True)
        return outputs, MODEL.predict(outputs, jnp.full((2, 2), 32.0))

    with strict():
        outputs, found = jax.eval_shape(run, jnp.asarray(batch_of([1, 1])["image"], jnp.bfloat16))
    heads = [outputs[name] for name in ("logits", "codes", "confidence")]
    assert {x.dtype for x in jax.tree.leaves(heads)} == {jnp.dtype("bfloat16")}
    assert [x.shape for x in outputs["logits"]] == [(2, 4 * 6 * 2, 3), (2, 2 * 3 * 2, 3)]
    assert {x.dtype for x in jax.tree.leaves(outputs["anchors"])} == {jnp.dtype("float32")}
    assert (found.boxes.dtype, found.scores.dtype, found.labels.dtype) == (jnp.float32, jnp.float32, jnp.int32)
    bias = np.asarray(variables["params"]["head"]["convs_pred_0"]["bias"]).reshape(2, 8)
    np.testing.assert_allclose(jax.nn.sigmoid(bias[:, 4]), 8 * (16 / 608) ** 2, rtol=1e-5)
    np.testing.assert_allclose(jax.nn.sigmoid(bias[:, 5:]), 0.01, rtol=1e-5)
    assert (bias[:, :4] == 0).all()


@pytest.mark.parametrize("counts", [[0, 0], [1, 0], [4, 4]])
def test_no_truth_one_object_and_full_truth_have_finite_losses_and_slopes(variables, counts):
    with strict():
        batch = batch_of(counts)
        terms, slopes = losses_of(variables, batch), slopes_of(variables, batch)
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves((terms, slopes)))
    assert terms["confidence"] > 0
    assert all((terms[name] > 0) == (sum(counts) > 0) for name in ("classification", "place", "size"))


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


def test_the_loss_is_least_where_the_outputs_say_the_truth():
    """The cross-entropy of a place is its entropy then, so its slope is what is zero."""
    batch = batch_of([3])
    levels = anchors_of(32, 48)
    anchors, targets = jnp.concatenate(levels), jax.tree.map(lambda x: jnp.asarray(x[0]), batch["targets"])
    found = MODEL.assigner(levels, STRIDES, targets.boxes, targets.valid)
    hit = found.positive[:, None]
    strides = jnp.repeat(jnp.asarray(STRIDES, jnp.float32), jnp.asarray([48, 12]))[:, None]
    codes = encode_yolo(targets.boxes[found.truth], anchors, strides)
    codes = jnp.concatenate([jnp.log(codes[:, :2]) - jnp.log1p(-codes[:, :2]), codes[:, 2:]], axis=1)
    perfect = {
        "logits": (60 * jax.nn.one_hot(targets.labels[found.truth], 3) * hit - 30)[None],
        "codes": jnp.where(hit, codes, 1.0)[None],
        "confidence": jnp.where(found.positive, 30.0, -30.0)[None],
    }
    split = {name: (value[:, :48], value[:, 48:]) for name, value in perfect.items()}

    def terms(split):
        return {name: total for name, (total, _) in MODEL.loss({**split, "anchors": levels}, batch).items()}

    values, slopes = jax.jit(terms)(split), jax.jit(jax.grad(lambda x: terms(x)["place"]))(split)["codes"]
    assert found.positive.sum() >= 3
    assert max(float(values[name]) for name in ("classification", "confidence", "size")) < 1e-5
    assert max(float(jnp.abs(x).max()) for x in slopes) < 1e-4
    detections = jax.jit(MODEL.predict)({**split, "anchors": levels}, jnp.asarray(batch["size"]))
    best = np.asarray(detections.boxes[0][detections.valid[0]])
    for row in set(np.asarray(found.truth)[np.asarray(found.positive)].tolist()):
        assert np.abs(best - np.asarray(targets.boxes[row])).max(axis=1).min() < 1e-2


def test_anchors_that_are_not_sure_find_nothing():
    levels = anchors_of(32, 48)
    sizes = (48, 12)
    outputs = {
        "logits": tuple(jnp.full((1, n, 3), 4.0) for n in sizes),
        "codes": tuple(jnp.zeros((1, n, 4)) for n in sizes),
        "confidence": tuple(jnp.full((1, n), -5.4) for n in sizes),
        "anchors": levels,
    }
    size = jnp.asarray([[32, 48.0]])
    assert not jax.jit(MODEL.predict)(outputs, size).valid.any()  # sigmoid(-5.4) = 0.0045
    found = jax.jit(MODEL.clone(confidence=0.004).predict)(outputs, size)
    assert found.valid.sum() > 3  # the threshold of scores is that of the class alone
    np.testing.assert_allclose(found.scores[found.valid], 0.00443, rtol=1e-2)


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="expected as many on each level"):
        YOLOv3(Tiny(), YOLOv3Neck(), 3, (((8.0, 8.0),), ()))
    with pytest.raises(ValueError, match="expected positive"):
        YOLOv3(Tiny(), YOLOv3Neck(), 3, (((8.0, -8.0),),))
    with pytest.raises(ValueError, match="expected 0 to 1"):
        GridAssigner(positive=1.5)
    with pytest.raises(ValueError, match="anchors of 2 levels for the levels p3"):
        YOLOv3(Tiny(), YOLOv3Neck(("c3",)), 3, SHAPES).init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
