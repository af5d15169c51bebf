"""Boxes, NMS, box coders and anchors against torchvision.

torchvision's CPU kernel of NMS sorts by descending score with a stable sort, so equal scores keep the order of their
indices, as here. Its `batched_nms` runs NMS class by class above 1,000 boxes on the CPU and then sorts the kept scores
without asking for stability; below, it moves the classes apart, which rounds the coordinates.
"""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.ops import anchors, box_coders
from jaxvision.ops.boxes import FORMATS, box_area, box_convert, box_iou, box_iou_aligned, clip_boxes
from jaxvision.ops.nms import nms
from tests.conftest import strict
from tests.ops.test_boxes import random_boxes
from tests.ops.test_nms import kept, random_scene
from tests.parity.torch_weights import load_tool

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
tv = load_tool("torchvision_cpu").torchvision

PAIRWISE = {"iou": "box_iou", "giou": "generalized_box_iou", "diou": "distance_box_iou", "ciou": "complete_box_iou"}
LOSSES = {"giou": "generalized_box_iou_loss", "diou": "distance_box_iou_loss", "ciou": "complete_box_iou_loss"}


@pytest.mark.parametrize("kind", PAIRWISE)
def test_pairwise_overlaps_and_their_gradients(kind):
    a, b = random_boxes((20,)), random_boxes((15,), seed=1)
    b[:3] = a[:3]  # equal
    b[3] = a[4] + np.array([0, 0, -a[4, 2] + a[4, 0], 0])  # without width
    b[5:7, 0], b[5:7, 2] = a[5:7, 2], a[5:7, 2] + 8  # touching
    x, y = torch.from_numpy(a).requires_grad_(), torch.from_numpy(b).requires_grad_()
    want = getattr(tv.ops, PAIRWISE[kind])(x, y)
    want.square().sum().backward()
    with strict():
        ours, pullback = jax.vjp(jax.jit(lambda a, b: box_iou(a, b, kind)), jnp.asarray(a), jnp.asarray(b))
        gradients = pullback(2 * ours)
    np.testing.assert_allclose(ours, want.detach(), atol=2e-6)
    for gradient, theirs in zip(gradients, (x.grad, y.grad), strict=True):
        np.testing.assert_allclose(gradient, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", LOSSES)
def test_aligned_overlaps_are_what_the_losses_subtract_from_one(kind):
    a, b = random_boxes((200,)), random_boxes((200,), seed=1)
    want = 1 - getattr(tv.ops, LOSSES[kind])(torch.from_numpy(a), torch.from_numpy(b))
    np.testing.assert_allclose(box_iou_aligned(jnp.asarray(a), jnp.asarray(b), kind), want, atol=2e-6)


def test_formats_area_and_clipping():
    boxes = random_boxes((50,), size=200)
    x = torch.from_numpy(boxes)
    for source in FORMATS:
        for target in FORMATS:
            there = tv.ops.box_convert(x, "xyxy", source)
            want = tv.ops.box_convert(there, source, target)
            np.testing.assert_allclose(box_convert(jnp.asarray(there), source, target), want, atol=1e-4)
    np.testing.assert_allclose(box_area(jnp.asarray(boxes)), tv.ops.box_area(x), rtol=1e-6)
    clipped = tv.ops.clip_boxes_to_image(x, (100, 150))
    np.testing.assert_array_equal(clip_boxes(jnp.asarray(boxes), (100, 150)), clipped)


def solid_scene(n, seed, size):
    """Ties, overlaps and equal boxes, but all of some area: where torchvision divides 0 by 0, builds of it disagree."""
    boxes, scores, labels, _ = random_scene(n, seed, size)
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    return boxes, scores, labels


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_nms_keeps_the_same_boxes_in_the_same_order_ties_included(threshold):
    run = jax.jit(lambda boxes, scores: nms(boxes, scores, iou_threshold=threshold, max_outputs=700))
    for seed in range(5):
        for spread in (60.0, 500.0):
            boxes, scores, _ = solid_scene(700, seed, spread)
            boxes += np.random.default_rng(seed).uniform(-0.5, 0.5, boxes.shape).astype(np.float32)
            want = tv.ops.nms(torch.from_numpy(boxes), torch.from_numpy(scores), threshold)
            np.testing.assert_array_equal(kept(run(boxes, scores)), want)


@pytest.mark.parametrize("n", [300, 1200])
def test_batched_nms_below_and_above_torchvisions_switch(n):
    """Coordinates on a grid survive being moved; the order is asked for without ties, which the second way mixes."""
    run = jax.jit(lambda boxes, scores, labels: nms(boxes, scores, iou_threshold=0.5, max_outputs=n, labels=labels))
    for seed in range(3):
        boxes, _, labels = solid_scene(n, seed, 300.0)
        scores = np.random.default_rng(seed).permutation(n).astype(np.float32) / n
        want = tv.ops.batched_nms(*map(torch.from_numpy, (boxes, scores, labels)), 0.5)
        np.testing.assert_array_equal(kept(run(boxes, scores, labels)), want)


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)])
def test_box_coder(weights):
    coder = tv.models.detection._utils.BoxCoder(weights)
    boxes, references = random_boxes((60,)), random_boxes((60,), seed=1)
    stds = tuple(1 / weight for weight in weights)
    codes = coder.encode_single(torch.from_numpy(boxes), torch.from_numpy(references))
    ours = box_coders.encode_deltas(jnp.asarray(boxes), jnp.asarray(references), stds=stds)
    np.testing.assert_allclose(ours, codes, atol=1e-4, rtol=1e-5)
    codes = 4 * np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32) * np.array(weights, np.float32)
    want = coder.decode_single(torch.from_numpy(codes), torch.from_numpy(references)).reshape(60, 4)
    decoded = box_coders.decode_deltas(jnp.asarray(codes), jnp.asarray(references), stds=stds, limit_shrinking=False)
    assert (codes[:, 2:] / np.array(weights)[2:] > np.log(62.5)).any()
    np.testing.assert_allclose(decoded, want, rtol=2e-5, atol=2e-3)


def test_distances_equal_fcos_linear_coder():
    coder = tv.models.detection._utils.BoxLinearCoder(normalize_by_size=False)
    boxes, references = random_boxes((60,)), random_boxes((60,), seed=1)
    points = jnp.asarray((references[:, :2] + references[:, 2:]) / 2)
    codes = coder.encode(torch.from_numpy(references), torch.from_numpy(boxes))
    np.testing.assert_allclose(box_coders.encode_distances(jnp.asarray(boxes), points), codes, atol=1e-4)
    decoded = coder.decode(codes, torch.from_numpy(references))
    np.testing.assert_allclose(box_coders.decode_distances(jnp.asarray(codes.numpy()), points), decoded, atol=1e-4)


def test_anchors_of_torchvisions_generator():
    """RetinaNet's sizes: three per level, of the third powers of two."""
    sizes = tuple((size, int(size * 2 ** (1 / 3)), int(size * 2 ** (2 / 3))) for size in (32, 64, 128))
    ratios = (0.5, 1.0, 2.0)
    generator = tv.models.detection.anchor_utils.AnchorGenerator(sizes, (ratios,) * 3)
    image, levels = (100, 168), ((13, 21), (7, 11), (4, 6))
    features = [torch.zeros(1, 1, *level) for level in levels]
    want = generator(types.SimpleNamespace(tensors=torch.zeros(1, 3, *image), image_sizes=[image]), features)[0]
    ours = [
        anchors.grid_anchors(
            level, (image[0] // level[0], image[1] // level[1]), anchors.base_anchors(size, ratios, rounded=True)
        )
        for level, size in zip(levels, sizes, strict=True)
    ]
    np.testing.assert_array_equal(jnp.concatenate(ours), want)
