"""YOLOX: outputs and their types, a loss of the real truth alone, and the L1 distance of the closing epochs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.detection.dense import Suppression
from jaxvision.detection.yolox import YOLOX
from jaxvision.necks.yolox_pafpn import YOLOXPAFPN
from tests.conftest import strict
from tests.detection.made import Tiny, batch_of

pytestmark = pytest.mark.usefixtures("unoptimized")
MODEL = YOLOX(
    Tiny(),
    YOLOXPAFPN(8, 1, in_levels=("c3", "c4")),
    3,
    depth=1,
    suppression=Suppression(score_threshold=0.01, iou_threshold=0.65, candidates=20, max_detections=12),
)
GRIDS = ((4, 6, 8), (2, 3, 16))


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


loss = jax.jit(MODEL.loss)


def closing(batch, begun=True):
    return batch | {"closing": np.asarray(begun)}


def test_outputs_follow_the_dtype_of_the_images_and_detections_are_float32(variables):
    def run(images):
        outputs, updated = MODEL.apply(variables, {"image": images}, train=True, mutable=["batch_stats"])
        return outputs, updated, MODEL.predict(outputs, jnp.full((2, 2), 32.0))

    with strict():
        outputs, updated, found = jax.eval_shape(run, jnp.zeros((2, 32, 48, 3), jnp.bfloat16))
    heads = jax.tree.leaves([outputs[name] for name in ("logits", "codes", "objectness")])
    assert {x.dtype for x in heads} == {jnp.dtype("bfloat16")}
    assert [x.shape for x in outputs["logits"]] == [(2, 24, 3), (2, 6, 3)]
    assert {x.dtype for x in jax.tree.leaves((outputs["points"], updated))} == {jnp.dtype("float32")}
    assert (found.boxes.dtype, found.scores.dtype, found.labels.dtype) == (jnp.float32, jnp.float32, jnp.int32)
    assert found.boxes.shape == (2, 12, 4)


@pytest.mark.parametrize("counts", [[0, 0], [1, 0], [4, 4]])
def test_no_truth_one_object_and_full_truth_have_finite_losses_and_slopes(variables, counts):
    with strict():
        batch = closing(batch_of(counts))
        terms, slopes = losses_of(variables, batch), slopes_of(variables, batch)
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves((terms, slopes)))
    assert terms["objectness"] > 0
    for name in ("box", "l1", "classification"):
        assert (terms[name] > 0) == (sum(counts) > 0), name


def test_the_l1_distance_is_learned_in_the_closing_epochs_alone(variables):
    batch = batch_of([2, 1])
    before, after = (losses_of(variables, closing(batch, begun)) for begun in (False, True))
    assert before["l1"] == 0 < after["l1"]
    assert all(before[name] == after[name] for name in before if name != "l1")


def test_padding_crowds_and_images_that_are_not_valid_change_nothing(variables):
    batch = closing(batch_of([3, 2]))
    expected = losses_of(variables, batch)
    targets = batch["targets"]
    noise = np.where(targets.valid[..., None], targets.boxes, 17.0)
    noisy = batch | {"targets": targets.replace(boxes=noise, labels=np.where(targets.valid, targets.labels, 2))}
    crowd = batch | {"targets": targets.replace(valid=np.ones_like(targets.valid), crowd=~targets.valid, boxes=noise)}
    more = closing(batch_of([3, 2, 4, 4], valid=[True, True, False, False]))
    more["image"][:2] = batch["image"]
    more["targets"].boxes[:2], more["targets"].labels[:2] = targets.boxes, targets.labels
    for other in (noisy, crowd, more):
        for name, value in losses_of(variables, other).items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-5, err_msg=name)


def test_the_loss_is_least_where_the_outputs_say_the_truth():
    """Every point says the object whose centre is nearest: then those that are assigned say their own."""
    batch = closing(batch_of([3]))
    boxes, labels = batch["targets"].boxes[0], batch["targets"].labels[0]
    points = tuple(np.asarray([(s * x, s * y, s) for y in range(h) for x in range(w)], np.float32) for h, w, s in GRIDS)
    corners = np.concatenate(points)
    middles = 0.5 * (boxes[:3, :2] + boxes[:3, 2:])
    away = np.square(corners[:, None, :2] + 0.5 * corners[:, None, 2:] - middles[None]).sum(-1)
    nearest = away.argmin(1)
    logits = (60 * np.eye(3)[labels[nearest]] - 30).astype(np.float32)
    codes = np.asarray(jax.jit(MODEL.encode)(corners, boxes[nearest]))
    np.testing.assert_allclose(jax.jit(MODEL.decode)(corners, codes), boxes[nearest], atol=1e-3)
    sure = np.full((1, 30), 30.0, np.float32)
    found, _ = jax.device_get(jax.jit(MODEL._assigned)(corners, logits[None], codes[None], sure, batch["targets"]))
    assert found.positive.sum() >= 3
    own = np.where(found.positive, sure, -sure)

    def split(x):
        return x[:, :24], x[:, 24:]

    outputs = {"logits": split(logits[None]), "codes": split(codes[None]), "objectness": split(own), "points": points}
    terms = loss(outputs, batch)
    assert float(terms["objectness"][0]) < 1e-6
    for name in ("classification", "box", "l1"):
        assert abs(float(terms[name][0])) < 1e-2, name
    detections = jax.jit(MODEL.predict)(outputs, batch["size"])
    best = np.asarray(detections.boxes[0][detections.valid[0]])
    for row in set(found.truth[found.positive].tolist()):
        assert np.abs(best - boxes[row]).max(axis=1).min() < 1e-2
