"""Cascade Mask R-CNN against torch written for this test after OpenMMLab's `CascadeRoIHead`, with OpenMMLab's names.

Compared, for given levels and proposals of a tiny network: regions, logits, deltas, detections and masks of all stages,
and every loss term of samplers that take all candidates. Backbone, neck and proposals have tests of their own, and so
has the cascade without masks.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.detection.cascade_mask_rcnn import CascadeMaskRCNN
from jaxvision.detection.roi_heads import BoxStage
from jaxvision.ops import unpack_masks
from jaxvision.pretrained import keymaps
from jaxvision.trees import flatten
from tests.conftest import strict
from tests.detection.made import EVERY, tiny_faster_rcnn
from tests.detection.test_mask_rcnn import FIELDS, masked
from tests.parity.detections import rows, unmatched
from tests.parity.torch_weights import relative
from tests.parity.two_stage import load_torchvision

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
F = torch.nn.functional
torchvision = load_torchvision()
ops = torchvision.ops
SIZE = (32, 48)
STRIDES = (8, 16)
IOUS = (0.3, 0.4, 0.5)
STDS = ((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067))
WEIGHTS = (1.0, 0.5, 0.25)
MODEL = tiny_faster_rcnn(
    cls=CascadeMaskRCNN, stage=BoxStage(sampler=EVERY, class_agnostic=True, beta=1.0), ious=IOUS, **FIELDS
)


class Reference:
    """The three stages of one image."""

    def __init__(self, state, levels):
        self.state = {name: torch.tensor(np.asarray(value)) for name, value in state.items()}
        self.levels = levels

    def layer(self, kind, name, x):
        weight, bias = (self.state[f"roi_head.{name}.{leaf}"] for leaf in ("weight", "bias"))
        return kind(x, weight, bias)

    def pooled(self, rois, size):
        side = (rois[:, 2:] - rois[:, :2]).clamp(min=0).prod(1).sqrt()
        level = (side / 56 + 1e-6).log2().floor().clamp(0, 1)
        found = torch.zeros(len(rois), self.levels[0].shape[1], size, size)
        for i, (x, stride) in enumerate(zip(self.levels, STRIDES, strict=True)):
            own = level == i
            found[own] = ops.roi_align(x, [rois[own]], size, 1 / stride, sampling_ratio=2, aligned=True)
        return found

    def boxes(self, stage, rois):
        x = self.pooled(rois, 3).flatten(1)
        for i in range(2):
            x = self.layer(F.linear, f"bbox_head.{stage}.shared_fcs.{i}", x).relu()
        logits, deltas = (self.layer(F.linear, f"bbox_head.{stage}.{name}", x) for name in ("fc_cls", "fc_reg"))
        center, side = (rois[:, :2] + rois[:, 2:]) / 2, rois[:, 2:] - rois[:, :2]
        most = abs(np.log(16 / 1000))
        moved = deltas * torch.tensor(STDS[stage])
        center, side = center + moved[:, :2] * side, side * moved[:, 2:].clamp(-most, most).exp()
        boxes = torch.cat([center - side / 2, center + side / 2], dim=1).clamp(min=0)
        return logits, deltas, torch.minimum(boxes, torch.tensor([*SIZE[::-1], *SIZE[::-1]], dtype=torch.float32))

    def masks(self, stage, rois, labels):
        x = self.layer(
            lambda x, w, b: F.conv2d(x, w, b, padding=1), f"mask_head.{stage}.convs.0.conv", self.pooled(rois, 3)
        ).relu()
        x = self.layer(lambda x, w, b: F.conv_transpose2d(x, w, b, stride=2), f"mask_head.{stage}.upsample", x).relu()
        return self.layer(F.conv2d, f"mask_head.{stage}.conv_logits", x)[torch.arange(len(rois)), labels]

    def detect(self, rois):
        every = []
        for stage in range(3):
            before = rois
            logits, deltas, rois = self.boxes(stage, before)
            every.append((before, logits, deltas))
        scores = torch.stack([logits for _, logits, _ in every]).mean(0).softmax(-1)[:, :-1]
        pair, labels = (scores > 0.05).nonzero(as_tuple=True)
        alive = (rois[pair, 2:] > rois[pair, :2]).all(1)
        pair, labels = pair[alive], labels[alive]
        kept = ops.batched_nms(rois[pair], scores[pair, labels], labels, 0.5)[:100]
        pair, labels = pair[kept], labels[kept]
        masks = torch.stack([self.masks(stage, rois[pair], labels).sigmoid() for stage in range(3)]).mean(0)
        return every, (rois[pair], scores[pair, labels], labels, masks)

    def losses(self, rois, boxes, labels, masks):
        """Sums and counts of every term; masks bool [n, h, w]."""
        terms = {}
        for stage, iou in enumerate(IOUS):
            overlap, best = ops.box_iou(rois, boxes).max(1)
            positive = torch.cat([torch.ones(len(boxes), dtype=torch.bool), overlap >= iou])
            best = torch.cat([torch.arange(len(boxes)), best])
            rois = torch.cat([boxes, rois])
            logits, deltas, moved = self.boxes(stage, rois)
            wanted = torch.where(positive, labels[best], torch.tensor(3))
            own, target = rois[positive], boxes[best[positive]]
            side, side_of = own[:, 2:] - own[:, :2], target[:, 2:] - target[:, :2]
            shift = (target[:, :2] + target[:, 2:] - own[:, :2] - own[:, 2:]) / 2 / side
            coded = torch.cat([shift, (side_of / side).log()], dim=1) / torch.tensor(STDS[stage])
            index = torch.cat([best[positive][:, None].float(), own], dim=1)
            drawn = ops.roi_align(masks[:, None].float(), index, 6, 1.0, sampling_ratio=0, aligned=True)[:, 0] >= 0.5
            said = self.masks(stage, own, wanted[positive])
            each = F.binary_cross_entropy_with_logits(said, drawn.float(), reduction="none").mean((1, 2))
            weight = WEIGHTS[stage]
            terms |= {
                f"classification_{stage}": (weight * F.cross_entropy(logits, wanted, reduction="sum"), len(rois)),
                f"box_{stage}": (weight * F.smooth_l1_loss(deltas[positive], coded, reduction="sum"), len(rois)),
                f"mask_{stage}": (weight * each.sum(), int(positive.sum())),
            }
            rois = moved[len(boxes) :].detach()
        return {name: (float(total), count) for name, (total, count) in terms.items()}


@pytest.fixture(scope="module")
def compared():
    """Batch, levels, what our model says and learns, and the reference's weights."""
    batch = masked([3, 1], size=SIZE)
    fresh = jax.eval_shape(MODEL.init, jax.random.key(0), jnp.zeros((1, *SIZE, 3)))
    leaves, tree = jax.tree.flatten(fresh)
    rng = np.random.default_rng(0)
    variables = tree.unflatten([jnp.asarray(rng.normal(0, 0.15, x.shape), jnp.float32) for x in leaves])

    def run(variables, batch):
        images = batch["image"]
        levels = MODEL.apply(variables, images, method=lambda model, x: model.neck(model.backbone(x, train=False)))
        outputs = MODEL.apply(variables, {"image": images, "size": batch["size"]})
        keys = {"sampling": jax.random.key(1)}
        inputs = {"image": images, "size": batch["size"]}
        learned = MODEL.apply(variables, inputs, train=True, targets=batch["targets"], rngs=keys)
        return levels, outputs, MODEL.loss(learned, batch)

    with strict():
        found = jax.jit(run)(variables, batch)
    rules = keymaps.family_of(MODEL).keys["openmmlab"]
    return batch, *found, keymaps.to_state_dict(flatten(variables), rules)


def references(compared):
    """For each image the reference, its proposals and its truth."""
    batch, levels, outputs, _, state = compared
    first, targets = outputs["stages"][0], batch["targets"]
    masks = unpack_masks(targets.masks, SIZE[1])
    for image in range(2):
        own = [torch.tensor(np.asarray(levels[name][image : image + 1])).permute(0, 3, 1, 2) for name in ("p3", "p4")]
        rois = torch.tensor(np.asarray(first["rois"][image])[np.asarray(first["valid"][image])])
        real = targets.valid[image]
        truth = targets.boxes[image][real], targets.labels[image][real].astype(np.int64), masks[image][real]
        yield Reference(state, own), rois, [torch.tensor(np.asarray(x)) for x in truth]


@torch.no_grad()
def test_all_stages_detections_and_masks_equal_torchs(compared):
    _, _, outputs, _, _ = compared
    for image, (reference, rois, _) in enumerate(references(compared)):
        every, (boxes, scores, labels, masks) = reference.detect(rois)
        for said, expected in zip(outputs["stages"], every, strict=True):
            valid = np.asarray(said["valid"][image])
            ours = said["rois"], said["logits"], said["deltas"][:, :, 0]
            for own, theirs in zip(ours, expected, strict=True):
                measured = relative(np.asarray(own[image])[valid], theirs)
                print(f"{measured:.1e}", end=" ")
                assert measured <= 1e-4
        found = outputs["detections"]
        ours = rows(found, image)
        assert len(ours[0]) == len(boxes) > 3 and unmatched(ours, (boxes, scores, labels)) == 0
        order = np.abs(ours[1][:, None] - scores.numpy()[None]) + 10 * (ours[2][:, None] != labels.numpy()[None])
        drawn = np.asarray(found.masks[image])[np.asarray(found.valid[image])]
        measured = np.abs(drawn - masks.numpy()[order.argmin(1)]).max()
        print(f"masks {measured:.1e}")
        assert measured <= 1e-4


@torch.no_grad()
def test_losses_equal_torchs(compared):
    _, _, _, terms, _ = compared
    every = [reference.losses(rois, *truth) for reference, rois, truth in references(compared)]
    assert set(terms) == {"objectness", "proposal_box", *every[0]}
    for name in every[0]:
        expected = sum(one[name][0] for one in every) / sum(one[name][1] for one in every)
        print(name, float(terms[name][0] / terms[name][1]), expected)
        np.testing.assert_allclose(terms[name][0] / terms[name][1], expected, rtol=1e-3)
