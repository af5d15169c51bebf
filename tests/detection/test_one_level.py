"""Two-stage detectors without a pyramid: the shared stage, masks from it, and anchors that reach beyond the picture."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision import layers
from jaxvision.detection.anchors import inside_border
from jaxvision.detection.faster_rcnn import FasterRCNN
from jaxvision.detection.mask_rcnn import MaskRCNN
from jaxvision.detection.roi_heads import RoIPooling
from jaxvision.necks.identity import Identity
from tests.conftest import strict
from tests.detection.made import EVERY, Tiny, batch_of, tiny_faster_rcnn, tiny_proposals
from tests.detection.test_mask_rcnn import masked

pytestmark = pytest.mark.usefixtures("unoptimized")
KEYS = {"sampling": jax.random.key(1)}


class TinyRest(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        return {"c5": nn.relu(layers.Conv(6, 3, 2, name="conv4")(x))}


class TinyC4(Tiny):
    @nn.nowrap
    def rest(self):
        return TinyRest()


POOLING = RoIPooling(size=4, levels=("c4",), sampling_ratio=2)
MODEL = dataclasses.replace(
    tiny_faster_rcnn(
        cls=MaskRCNN, stage=dataclasses.replace(MaskRCNN.stage, sampler=EVERY), mask_width=5, mask_depth=0
    ),
    backbone=TinyC4(),
    neck=Identity(("c4",)),
    pooling=POOLING,
    mask_pooling=POOLING,
    shared_stage=True,
)


@pytest.fixture(scope="module")
def variables():
    shapes = jax.eval_shape(MODEL.init, jax.random.key(0), jnp.zeros((1, 32, 48, 3)))
    leaves, tree = jax.tree.flatten(shapes)
    rng = np.random.default_rng(0)
    return tree.unflatten([jnp.asarray(rng.normal(0, 0.15, x.shape), jnp.float32) for x in leaves])


@jax.jit
def terms_and_slopes(variables, batch):
    def loss(variables):
        inputs = {"image": batch["image"], "size": batch["size"]}
        outputs = MODEL.apply(variables, inputs, train=True, targets=batch["targets"], rngs=KEYS)
        terms = MODEL.loss(outputs, batch)
        return sum(total / jnp.maximum(count, 1.0) for total, count in terms.values()), (terms, outputs["mask_logits"])

    (_, told), slopes = jax.value_and_grad(loss, has_aux=True)(variables)
    return *told, slopes


@pytest.mark.parametrize("counts", [[0, 0], [1, 0], [4, 4]])
def test_both_heads_teach_the_shared_stage_and_slopes_are_finite(variables, counts):
    assert set(variables["params"]) == {
        *("backbone", "rpn_head", "shared_head", "box_predictor", "mask_predictor"),
    }
    with strict():
        terms, masks, slopes = terms_and_slopes(variables, masked(counts))
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves((terms, slopes)))
    assert masks.shape[2:] == (4, 4), "half of the pooled side, doubled"
    assert (terms["mask"][0] > 0) == (terms["box"][0] > 0) == (sum(counts) > 0)
    assert jnp.any(slopes["params"]["shared_head"]["conv4"]["kernel"] != 0)


def test_detections_have_masks_and_types_follow_the_images(variables):
    batch = batch_of([1, 1])
    with strict():
        half = jax.eval_shape(MODEL.apply, variables, jnp.asarray(batch["image"], jnp.bfloat16))
    assert half["logits"].dtype == jnp.bfloat16 and half["logits"].shape == (2, 12, 4)
    assert half["detections"].masks.shape == (2, 100, 4, 4)


def test_a_stage_that_the_backbone_has_not_is_told():
    model = FasterRCNN(Tiny(), Identity(), 3, shared_stage=True, proposals=tiny_proposals(), pooling=POOLING)
    with pytest.raises(ValueError, match=r"shared_stage=True needs a backbone with the method rest\(\), but Tiny"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 48, 3)))


def test_anchors_beyond_the_border_teach_nothing():
    anchors = jnp.asarray([[0, 0, 8, 8], [-1, 0, 8, 8], [0, 0, 16, 8], [0, 4, 8, 12.5], [40, 0, 48, 8]])
    size = jnp.asarray([[12, 16], [20, 60.0]])
    with strict():
        every, none, one = (np.asarray(inside_border(anchors, size, border)) for border in (-1.0, 0.0, 1.0))
    assert every.all() and every.shape == (2, 5)
    np.testing.assert_array_equal(none, [[1, 0, 0, 0, 0], [1, 0, 1, 1, 1]])
    np.testing.assert_array_equal(one, [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]])
    proposals = dataclasses.replace(tiny_proposals(), border=0.0)
    targets = batch_of([2, 2])["targets"]
    levels = (jnp.asarray([[0, 0, 24, 24], [-4, -4, 24, 24]], jnp.float32), jnp.asarray([[8.0, 8, 60, 30]]))
    with strict():
        samples = jax.jit(proposals.sample)(jax.random.key(0), levels, targets, jnp.asarray([[32, 48], [64, 64.0]]))
    found = [set(np.asarray(rows)[np.asarray(valid)]) for rows, valid in zip(samples.rows, samples.valid, strict=True)]
    assert found[0] <= {0} and found[1] <= {0, 2} and not any(1 in rows for rows in found)
