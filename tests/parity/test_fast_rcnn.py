"""Fast R-CNN: OpenMMLab's Faster R-CNN (golden fixture) without its proposal network, for the regions it was given.

Compared: logits and deltas, and what follows from them, detections and losses, with torch written for this test.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.config import build
from jaxvision.structures import Proposals
from tests.conftest import strict
from tests.parity.detections import instances, rows, unmatched
from tests.parity.torch_weights import load_golden, load_tool, nhwc
from tests.parity.two_stage import EVERY, by_image, load

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
STDS = (0.1, 0.1, 0.2, 0.2)


def everything(model, variables, inputs, batch):
    outputs = model.apply(variables, inputs)
    keys = {"sampling": jax.random.key(0)}
    learned = model.apply(variables, inputs, train=True, targets=batch["targets"], rngs=keys)
    return outputs, model.predict(outputs, inputs["size"]), learned, model.loss(learned, batch)


@pytest.fixture(scope="module")
def openmmlab(tmp_path_factory):
    golden, fixture = load_golden("mmdet_faster-rcnn_r50_fpn")
    fields = {"num_classes": 80, "backbone": {"norm": "frozen_bn"}, "stage": {"sampler": {"count": EVERY}}}
    model = build("model", {"name": "fast_rcnn", **fields})
    state = {name: value for name, value in golden.state_dict(fixture).items() if not name.startswith("rpn_head.")}
    variables = load(model, state, tmp_path_factory.mktemp("weights") / "weights.pth", source="openmmlab")
    rois, place = by_image(fixture.gt["rois"])
    valid = np.zeros(rois.shape[:2], bool)
    valid[place] = True
    inputs = {
        "image": nhwc(golden.inputs(fixture)),
        "size": jnp.asarray(fixture.input["valid"], jnp.float32),
        "proposals": Proposals(rois, jnp.asarray(valid)),
    }
    truth = [(fixture.gt[f"{i}/bboxes"], fixture.gt[f"{i}/labels"]) for i in range(2)]
    batch = {"targets": instances(truth), "valid": jnp.ones(2, bool)}
    with strict():
        found = jax.jit(everything, static_argnums=0)(model, variables, inputs, batch)
    return golden, fixture, inputs, truth, found, place


def test_what_is_said_of_given_regions_equals_openmmlab(openmmlab):
    golden, fixture, _, _, (outputs, _, _, _), place = openmmlab
    deltas = np.asarray(outputs["deltas"])[place]
    for name, values in (
        ("roi/cls", np.asarray(outputs["logits"])[place]),
        ("roi/bbox", deltas.reshape(len(deltas), -1)),
    ):
        difference = golden.compare(fixture, name, values)
        print(name, f"{difference:.1e}", f"allowed {golden.tolerance(fixture, name):.1e}")
        assert difference <= golden.tolerance(fixture, name)


def moved(boxes, deltas):
    """Boxes moved by deltas."""
    center, side = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    deltas = deltas * torch.tensor(STDS)
    center, side = center + deltas[:, :2] * side, side * deltas[:, 2:].exp()
    return torch.cat([center - side / 2, center + side / 2], dim=1)


def test_detections_equal_torchs(openmmlab):
    ops = load_tool("torchvision_cpu").torchvision.ops
    _, _, inputs, _, (outputs, found, _, _), _ = openmmlab
    for image in range(2):
        height, width = np.asarray(inputs["size"])[image]
        valid = np.asarray(outputs["valid"][image])
        rois, logits, deltas = (
            torch.tensor(np.asarray(outputs[k][image])[valid]) for k in ("rois", "logits", "deltas")
        )
        scores = logits.softmax(-1)[:, :-1]
        pair, labels = (scores > 0.05).nonzero(as_tuple=True)
        boxes = moved(rois[pair], deltas[pair, labels])
        boxes = torch.minimum(boxes.clamp(min=0), torch.tensor([width, height, width, height]))
        kept = ops.batched_nms(boxes, scores[pair, labels], labels, 0.5)[:100]
        expected = [x[kept].numpy() for x in (boxes, scores[pair, labels], labels)]
        print(len(kept))
        assert len(rows(found, image)[0]) == len(kept) > 3
        assert unmatched(rows(found, image), expected) == 0


def test_losses_equal_torchs(openmmlab):
    """Of all proposals and objects, each image's objects first."""
    ops = load_tool("torchvision_cpu").torchvision.ops
    _, _, inputs, truth, (_, _, learned, terms), _ = openmmlab
    entropy, distance, count = 0.0, 0.0, 0
    for image, (boxes, labels) in enumerate(truth):
        boxes, labels = torch.tensor(boxes), torch.tensor(labels)
        valid = np.asarray(learned["valid"][image])
        rois, logits, deltas = (
            torch.tensor(np.asarray(learned[k][image])[valid]) for k in ("rois", "logits", "deltas")
        )
        overlap, best = ops.box_iou(rois, boxes).max(1)
        positive = overlap >= 0.5
        assert len(rois) == len(boxes) + int(inputs["proposals"].valid[image].sum()) and positive.sum() >= len(boxes)
        wanted = torch.where(positive, labels[best], torch.tensor(80))
        entropy += torch.nn.functional.cross_entropy(logits, wanted, reduction="sum").item()
        own, target = rois[positive], boxes[best[positive]]
        side, side_of = own[:, 2:] - own[:, :2], target[:, 2:] - target[:, :2]
        shift = (target[:, :2] + target[:, 2:] - own[:, :2] - own[:, 2:]) / 2 / side
        coded = torch.cat([shift, (side_of / side).log()], dim=1) / torch.tensor(STDS)
        said = deltas[positive, labels[best[positive]]]
        distance += (said - coded).abs().sum().item()
        count += len(rois)
    for name, expected in (("classification", entropy / count), ("box", distance / count)):
        print(name, float(terms[name][0] / terms[name][1]), expected)
        np.testing.assert_allclose(terms[name][0] / terms[name][1], expected, rtol=1e-4)
