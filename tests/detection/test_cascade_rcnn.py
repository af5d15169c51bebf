"""Cascade (Mask) R-CNN: sizes, types, which regions a stage sees, losses against loops, and that only truth matters.

The form with masks is compiled; what has none is the same without them.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.detection.cascade_mask_rcnn import CascadeMaskRCNN
from jaxvision.detection.cascade_rcnn import CascadeRCNN
from jaxvision.detection.roi_heads import BoxStage
from jaxvision.ops import clip_boxes, encode_deltas
from tests.conftest import strict
from tests.detection.made import EVERY, batch_of, tiny_faster_rcnn
from tests.detection.test_mask_rcnn import FIELDS, masked

pytestmark = pytest.mark.usefixtures("unoptimized")
STAGE = BoxStage(sampler=EVERY, class_agnostic=True, beta=1.0)
WEIGHTS = (1.0, 0.5)
TWO = {"ious": (0.3, 0.4), "stds": CascadeRCNN.stds[:2], "stage_weights": WEIGHTS}
"""Two stages, of lower overlaps than the defaults: random boxes are rarely better."""
MODEL = tiny_faster_rcnn(cls=CascadeMaskRCNN, stage=STAGE, **TWO, **FIELDS)
KEYS = {"sampling": jax.random.key(1)}


@pytest.fixture(scope="module")
def variables():
    """Drawn widely enough that scores and boxes differ."""
    fresh = jax.eval_shape(MODEL.init, jax.random.key(0), jnp.zeros((1, 32, 48, 3)))
    leaves, tree = jax.tree.flatten(fresh)
    rng = np.random.default_rng(0)
    return tree.unflatten([jnp.asarray(rng.normal(0, 0.15, x.shape), jnp.float32) for x in leaves])


def everything(variables, batch):
    inputs = {"image": batch["image"], "size": batch["size"]}
    outputs = MODEL.apply(variables, inputs, train=True, targets=batch["targets"], rngs=KEYS)
    terms = MODEL.loss(outputs, batch)
    means = {name: total / jnp.maximum(count, 1.0) for name, (total, count) in terms.items()}
    return sum(means.values()), (means, outputs)


@jax.jit
def learned(variables, batch):
    """Slopes, losses and outputs."""
    (_, (means, outputs)), slopes = jax.value_and_grad(everything, has_aux=True)(variables, batch)
    return slopes, means, outputs


def test_outputs_follow_the_dtype_of_the_images_and_detections_are_float32():
    batch = masked([1, 1])
    batch["image"] = jnp.asarray(batch["image"], jnp.bfloat16)
    model = tiny_faster_rcnn(cls=CascadeRCNN, stage=STAGE)

    def run(batch):
        inputs = {"image": batch["image"], "size": batch["size"]}
        outputs, fresh = model.init_with_output({"params": jax.random.key(0)}, inputs)
        keys = {"params": jax.random.key(0), **KEYS}
        drawn, masks = (
            MODEL.init_with_output(keys, inputs),
            MODEL.init_with_output(keys, inputs, train=True, targets=batch["targets"]),
        )
        return outputs, model.predict(outputs, batch["size"]), fresh, drawn[0]["detections"], masks[0]

    with strict():
        outputs, found, fresh, drawn, training = jax.eval_shape(run, batch)
    for own in (*outputs["stages"], *training["stages"]):
        assert (own["logits"].dtype, own["deltas"].dtype) == (jnp.bfloat16, jnp.bfloat16)
        assert own["rois"].dtype == jnp.float32
    assert [own["deltas"].shape for own in outputs["stages"]] == [(2, 12, 1, 4)] * 3
    assert [own["logits"].shape for own in training["stages"]] == [(2, rows, 4) for rows in (16, 20)]
    assert {x.dtype for x in jax.tree.leaves(fresh["params"])} == {jnp.dtype("float32")}
    assert found.boxes.shape == (2, 100, 4) and found.boxes.dtype == jnp.float32
    assert drawn.masks.shape == (2, 100, 6, 6) and drawn.masks.dtype == jnp.float32


@pytest.mark.parametrize("counts", [[0, 0], [1, 0], [4, 4]])
def test_no_truth_one_object_and_full_truth_have_finite_losses_and_slopes(variables, counts):
    with strict():
        slopes, terms, _ = learned(variables, masked(counts))
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves((terms, slopes)))
    own = {f"{name}_{i}" for name in ("classification", "box", "mask") for i in range(2)}
    assert set(terms) == {"objectness", "proposal_box", *own}
    for name in own:
        assert (terms[name] > 0) == ("classification" in name or sum(counts) > 0), name
    for stage in range(2):
        moved = jnp.any(slopes["params"][f"mask_predictor_{stage}"]["mask_fcn_logits"]["kernel"] != 0)
        assert moved == (sum(counts) > 0)
        assert jnp.any(slopes["params"][f"box_head_{stage}"]["fc6"]["kernel"] != 0)


def test_a_stage_sees_the_objects_and_the_boxes_of_the_stage_before(variables):
    batch = masked([3, 1])
    _, _, outputs = learned(variables, batch)
    targets, stages = batch["targets"], outputs["stages"]
    for i in range(2):
        objects = targets.boxes[i][targets.valid[i]]
        said, after = jax.tree.map(lambda x, i=i: np.asarray(x[i]), stages)
        moved = MODEL.stages[0].decode(said["deltas"][:, 0], said["rois"])
        moved = clip_boxes(moved, jnp.asarray(batch["size"][i]))
        others = said["valid"] & (said["samples"].rows >= 4)
        assert others.sum() == said["valid"].sum() - len(objects) > 0
        expected = np.concatenate([objects, np.asarray(moved)[others]])
        seen = after["rois"][after["valid"]]
        matched = np.abs(expected[:, None] - seen[None]).max(-1) < 1e-3
        assert len(seen) == len(expected) and matched.any(0).all() and matched.any(1).all()


def test_losses_of_each_stage_equal_loops_over_its_samples(variables):
    batch = masked([3, 1])
    _, terms, outputs = learned(variables, batch)
    targets = batch["targets"]
    for number, said in enumerate(jax.tree.map(np.asarray, outputs["stages"])):
        samples, entropy, distance, count = said["samples"], 0.0, 0.0, 0
        for i, j in zip(*np.nonzero(samples.valid), strict=True):
            row, logits = samples.truth[i, j], said["logits"][i, j].astype(np.float64)
            label = targets.labels[i, row] if samples.positive[i, j] else 3
            entropy += np.log(np.exp(logits).sum()) - logits[label]
            count += 1
            if samples.positive[i, j]:
                pair = (jnp.asarray(x)[None] for x in (targets.boxes[i, row], said["rois"][i, j]))
                coded = encode_deltas(*pair, (0.0,) * 4, MODEL.stds[number])[0]
                beside = np.abs(said["deltas"][i, j, 0] - np.asarray(coded))
                distance += np.where(beside < 1, beside**2 / 2, beside - 0.5).sum()
        sign = np.where(said["masks"] > 0, -said["mask_logits"], said["mask_logits"])
        positive = samples.positive[:, : sign.shape[1]]
        expected = {
            "classification": entropy / count,
            "box": distance / count,
            "mask": np.logaddexp(0, sign)[positive].mean(),
        }
        assert samples.positive.sum() >= 4
        for name, value in expected.items():
            np.testing.assert_allclose(terms[f"{name}_{number}"], WEIGHTS[number] * value, rtol=1e-5, err_msg=name)


def test_padding_and_images_that_are_not_valid_change_nothing(variables):
    batch = masked([3, 2])
    _, expected, _ = learned(variables, batch)
    targets = batch["targets"]
    noise = np.where(targets.valid[..., None], targets.boxes, 17.0)
    masks = np.where(targets.valid[..., None, None], targets.masks, 255).astype(np.uint8)
    noisy = targets.replace(boxes=noise, labels=np.where(targets.valid, targets.labels, 2), masks=masks)
    _, terms, _ = learned(variables, batch | {"targets": noisy})
    for name, value in terms.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-5, err_msg=name)


def perfect(batch):
    """Outputs of three stages that each move regions onto the objects and are sure of their classes."""
    boxes, labels = jnp.asarray(batch["targets"].boxes), np.asarray(batch["targets"].labels)
    model, stages = tiny_faster_rcnn(cls=CascadeRCNN, stage=STAGE), []
    for stage, off in zip(model.stages, (2.0, 1.0, 0.5), strict=True):
        rois = boxes + off * jnp.asarray([[-1.0, 2.0, 1.0, 1.0]])
        logits = np.zeros((*labels.shape, 4), np.float32)
        np.put_along_axis(logits, np.where(batch["targets"].valid, labels, 3)[..., None], 9.0, -1)
        deltas = encode_deltas(boxes, rois, (0.0,) * 4, stage.box_stds)[:, :, None]
        valid = jnp.asarray(batch["targets"].valid)
        stages.append({"logits": jnp.asarray(logits), "deltas": deltas, "rois": rois, "valid": valid})
    return model, {"stages": tuple(stages)}


def test_detections_are_the_objects_where_the_outputs_say_so_and_stages_have_equal_votes():
    batch = batch_of([3])
    model, outputs = perfect(batch)
    boxes, labels = np.asarray(batch["targets"].boxes[0]), np.asarray(batch["targets"].labels[0])
    with strict():
        found = model.predict(outputs, jnp.asarray(batch["size"]))
    order, expected = np.argsort(np.asarray(found.boxes[0, :3, 0])), np.argsort(boxes[:3, 0])
    assert found.valid.sum() == 3
    np.testing.assert_allclose(found.boxes[0, :3][order], boxes[:3][expected], atol=1e-3)
    np.testing.assert_array_equal(np.asarray(found.labels)[0, :3][order], labels[:3][expected])
    sure = np.exp(9) / (np.exp(9) + 3)
    np.testing.assert_allclose(found.scores[0, :3], sure, rtol=1e-5)
    outputs["stages"][0]["logits"] *= 0.0
    np.testing.assert_allclose(
        model.predict(outputs, jnp.asarray(batch["size"])).scores[0, :3], np.exp(6) / (np.exp(6) + 3), rtol=1e-5
    )


def test_masks_are_the_mean_of_the_stages_and_truth_needs_masks(variables):
    model = dataclasses.replace(
        MODEL, suppression=dataclasses.replace(MODEL.suppression, score_threshold=0.0, max_detections=3)
    )

    def run(variables, images):
        outputs = model.apply(variables, images)
        found = outputs["detections"]

        def stages(model):
            levels = model.neck(model.backbone(images, train=False))
            return [model.masks(i, levels, found.boxes, found.labels) for i in range(2)]

        return found, model.apply(variables, method=stages)

    with strict():
        found, logits = jax.jit(run)(variables, batch_of([1])["image"])
    expected = np.mean([1 / (1 + np.exp(-np.asarray(x, np.float64))) for x in logits], axis=0)
    assert found.valid.all()
    np.testing.assert_allclose(found.masks, expected, atol=1e-6)
    with pytest.raises(ValueError, match="the targets have no masks"):
        jax.eval_shape(learned, variables, batch_of([1]))


def test_settings_that_do_not_go_together_are_refused():
    with pytest.raises(ValueError, match="2 ious, 3 stds and 3 stage_weights"):
        tiny_faster_rcnn(cls=CascadeRCNN, stage=STAGE, ious=(0.5, 0.6))
    with pytest.raises(ValueError, match="class-agnostic"):
        tiny_faster_rcnn(cls=CascadeRCNN)
