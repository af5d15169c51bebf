"""RoI align and pooling, deformable convolution and attention, grid sampling, mask pasting: values and gradients
against torch, torchvision's compiled operators and transformers."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.ops.deform_conv import deform_conv2d
from jaxvision.ops.deformable_attention import deformable_attention
from jaxvision.ops.grid_sample import grid_sample
from jaxvision.ops.masks import paste_masks, paste_masks_on_host
from jaxvision.ops.roi_align import assign_levels, multilevel_roi_align, roi_align
from jaxvision.ops.roi_pool import roi_pool
from tests.conftest import strict
from tests.parity import torchvision_kernels
from tests.parity.torch_weights import nchw, nhwc

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
torchvision = torchvision_kernels.load()

RNG = np.random.default_rng(0)
START = RNG.bit_generator.state


@pytest.fixture(autouse=True)
def _same_numbers_in_any_order():
    RNG.bit_generator.state = START


def random(*shape):
    return torch.from_numpy(RNG.standard_normal(shape, np.float32)).requires_grad_()


def random_boxes(count, extent, images):
    """Of all sizes, some beyond the borders, one without area, one far away."""
    centre = RNG.uniform(-0.1 * extent, 1.1 * extent, (count, 2))
    half = np.exp(RNG.uniform(0, np.log(extent), (count, 2))) / 2
    boxes = np.concatenate([centre - half, centre + half], 1).astype(np.float32)
    boxes[0, 2:], boxes[1] = boxes[0, :2], boxes[1] + 10 * extent
    # Whole bins: where the number of samples and the edges of bins hang on the last bit.
    boxes[2:20, 2:] = boxes[2:20, :2].round() + 4 * RNG.integers(1, 22, (18, 2))
    boxes[2:20, :2] = boxes[2:20, :2].round()
    return boxes, RNG.integers(0, images, count).astype(np.int32)


def rois(boxes, images):
    return torch.from_numpy(np.concatenate([images[:, None].astype(np.float32), boxes], 1))


def gradients(want, inputs):
    """The pulled-back cotangent of ones / numbers that differ, and the cotangent itself."""
    g = torch.from_numpy(RNG.standard_normal(want.shape, np.float32))
    return g, torch.autograd.grad(want, inputs, g, allow_unused=True)


def close(ours, theirs, atol=1e-4):
    np.testing.assert_allclose(ours, theirs.detach().numpy(), atol=atol, rtol=1e-4)


@pytest.mark.parametrize("ratio,aligned", list(itertools.product((1, 2, 0), (True, False))))
def test_roi_align(ratio, aligned):
    features, (boxes, images) = random(2, 5, 15, 22), random_boxes(40, 80, 2)
    want = torchvision.ops.roi_align(features, rois(boxes, images), (7, 5), 0.25, ratio, aligned)
    options = dict(output_size=(7, 5), spatial_scale=0.25, sampling_ratio=ratio, aligned=aligned)
    g, (to_features,) = gradients(want, [features])
    with strict():
        run = jax.jit(lambda f, g: jax.vjp(lambda f: roi_align(f, boxes, images, **options), f)[1](g)[0])
        out = jax.jit(lambda f: roi_align(f, boxes, images, **options))(nhwc(features))
        gradient = run(nhwc(features), nhwc(g))
    close(nchw(out), want)
    close(nchw(gradient), to_features)


def test_levels_and_pooling_of_a_pyramid():
    shapes = [(50, 68), (25, 34), (13, 17), (7, 9)]
    features = [random(2, 3, *shape) for shape in shapes]
    boxes, images = random_boxes(60, 200, 2)
    boxes[20:40] = np.stack([8 * np.ones(20), np.arange(20), np.linspace(40, 272, 20), np.linspace(60, 200, 20)], 1)
    boxes = np.clip(boxes, 0, [272, 200, 272, 200]).astype(np.float32)
    pooler = torchvision.ops.MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2)
    per_image = [torch.from_numpy(boxes[images == i]) for i in range(2)]
    want = pooler({str(i): f for i, f in enumerate(features)}, per_image, [(200, 272)] * 2)
    order = np.argsort(images, kind="stable")
    scales = (1 / 4, 1 / 8, 1 / 16, 1 / 32)
    with strict():
        out = jax.jit(
            lambda maps: multilevel_roi_align(
                maps, boxes[order], images[order], spatial_scales=scales, output_size=7, aligned=False
            )
        )([nhwc(f) for f in features])
        levels = assign_levels(boxes[order], 4)
    assert set(np.asarray(levels)) >= {0, 1}
    close(nchw(out), want)


def test_levels_of_a_million_boxes():
    from torchvision.ops.poolers import LevelMapper

    sides = np.exp(RNG.uniform(0, 7.5, (10**6, 2))).astype(np.float32)
    sides[:2000] = RNG.integers(1, 1000, (2000, 1))
    boxes = np.concatenate([np.zeros_like(sides), sides], 1)
    want = LevelMapper(2, 5)([torch.from_numpy(boxes)]).numpy()
    differ = np.flatnonzero(np.asarray(assign_levels(boxes, 4)) != want)
    assert len(differ) <= 2 and (differ >= 2000).all()


@pytest.mark.parametrize("size", [1, (7, 5)])
def test_roi_pool(size):
    features, (boxes, images) = random(2, 4, 15, 22), random_boxes(40, 80, 2)
    want = torchvision.ops.roi_pool(features, rois(boxes, images), size, 0.25)
    g, (to_features,) = gradients(want, [features])

    def pool(features):
        return roi_pool(features, boxes, images, output_size=size, spatial_scale=0.25)

    with strict():
        out = jax.jit(pool)(nhwc(features))
        gradient = jax.jit(lambda f, g: jax.vjp(pool, f)[1](g)[0])(nhwc(features), nhwc(g))
    np.testing.assert_array_equal(nchw(out), want.detach())
    close(nchw(gradient), to_features, 1e-5)


@pytest.mark.parametrize(
    "groups,moving,strides,padding,dilation,modulated",
    [
        (1, 1, (1, 1), (1, 1), (1, 1), False),
        (2, 1, (2, 2), (2, 1), (2, 2), False),
        (1, 4, (2, 1), (0, 2), (1, 2), True),
        (4, 2, (1, 1), (1, 1), (1, 1), True),
    ],
)
def test_deformable_convolution(groups, moving, strides, padding, dilation, modulated):
    x, weight, bias = random(2, 8, 13, 12), random(12, 8 // groups, 3, 3), random(12)
    h, w = ((n + 2 * p - 2 * d - 1) // s + 1 for n, p, d, s in zip((13, 12), padding, dilation, strides, strict=True))
    offsets = (3 * torch.from_numpy(RNG.standard_normal((2, 18 * moving, h, w), np.float32))).requires_grad_()
    mask = random(2, 9 * moving, h, w) if modulated else None
    want = torchvision.ops.deform_conv2d(x, offsets, weight, bias, strides, padding, dilation, mask)
    inputs = [x, offsets, weight, bias] + ([mask] if modulated else [])
    g, theirs = gradients(want, inputs)
    kernel = jnp.asarray(weight.detach().numpy().transpose(2, 3, 1, 0))
    ours = [nhwc(x), nhwc(offsets), kernel, jnp.asarray(bias.detach().numpy())] + ([nhwc(mask)] if modulated else [])

    def run(x, offsets, kernel, bias, mask=None):
        return deform_conv2d(x, offsets, kernel, mask, bias, strides=strides, padding=padding, dilation=dilation)

    with strict():
        out = jax.jit(run)(*ours)
        pulled = jax.jit(lambda args, g: jax.vjp(run, *args)[1](g))(ours, nhwc(g))
    close(nchw(out), want)
    for i, (mine, other) in enumerate(zip(pulled, theirs, strict=True)):
        mine = np.asarray(mine).transpose(3, 2, 0, 1) if i == 2 else mine if i == 3 else nchw(mine)
        close(mine, other, 5e-4)


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("padding", ["zeros", "border"])
@pytest.mark.parametrize("method", ["bilinear", "nearest"])
def test_grid_sample(method, padding, align_corners):
    x = random(2, 3, 6, 9)
    grid = torch.from_numpy(RNG.uniform(-1.4, 1.4, (2, 20, 30, 2)).astype(np.float32))
    grid[0, 0, :4] = torch.tensor([[-1, -1], [1, 1], [0, 0], [-1, 1]])
    grid.requires_grad_()
    want = torch.nn.functional.grid_sample(x, grid, method, padding, align_corners)
    g, (to_x, to_grid) = gradients(want, [x, grid])

    def run(x, grid):
        return grid_sample(x, grid, method=method, padding=padding, align_corners=align_corners)

    arrays = nhwc(x), jnp.asarray(grid.detach().numpy())
    with strict():
        out = jax.jit(run)(*arrays)
        ours = jax.jit(lambda args, g: jax.vjp(run, *args)[1](g))(arrays, nhwc(g))
    close(nchw(out), want, 1e-5)
    close(nchw(ours[0]), to_x, 1e-5)
    # On pixels the function has a corner; torch and we take its sides by other roundings.
    np.testing.assert_allclose(ours[1][:, 1:], to_grid[:, 1:], atol=2e-4)


def test_deformable_attention():
    from transformers.models.deformable_detr.modeling_deformable_detr import MultiScaleDeformableAttention

    shapes, heads, points, size, queries = ((12, 17), (6, 9), (3, 5), (2, 3)), 4, 4, 8, 50
    pixels = sum(h * w for h, w in shapes)
    values = random(2, pixels, heads, size)
    locations = RNG.uniform(-0.2, 1.2, (2, queries, heads, len(shapes), points, 2)).astype(np.float32)
    locations = torch.from_numpy(locations).requires_grad_()
    logits = torch.from_numpy(RNG.standard_normal((2, queries, heads, len(shapes) * points), np.float32))
    weights = logits.softmax(-1).reshape(2, queries, heads, len(shapes), points).requires_grad_()
    want = MultiScaleDeformableAttention()(values, torch.tensor(shapes), list(shapes), None, locations, weights, 64)
    g, theirs = gradients(want, [values, locations, weights])
    arrays = [jnp.asarray(a.detach().numpy()) for a in (values, locations, weights)]

    def run(values, locations, weights):
        return deformable_attention(values, shapes, locations, weights)

    with strict():
        out = jax.jit(run)(*arrays)
        ours = jax.jit(lambda args, g: jax.vjp(run, *args)[1](g))(arrays, jnp.asarray(g.numpy()))
    close(out, want, 1e-5)
    for mine, other in zip(ours, theirs, strict=True):
        close(mine, other, 2e-4)


def test_torchvision_s_form_of_pasted_masks():
    from torchvision.models.detection.roi_heads import paste_masks_in_image

    masks, (boxes, _) = RNG.random((30, 28, 28)).astype(np.float32), random_boxes(30, 60, 1)
    seen = (boxes[:, :2] < (62, 48)).all(1) & (boxes[:, 2:] > 2).all(1) & (boxes[:, 2:] > boxes[:, :2]).all(1)
    boxes, masks = boxes[seen], masks[seen]  # theirs fails beside the image
    want = paste_masks_in_image(torch.from_numpy(masks)[:, None], torch.from_numpy(boxes), (50, 64))[:, 0].numpy()
    clear = np.abs(want - 0.5) > 1e-5
    assert want.any() and clear.mean() > 0.99
    for paste in (paste_masks, paste_masks_on_host):
        out = np.asarray(paste(masks, boxes, (50, 64), form="integer"))
        np.testing.assert_array_equal(out[clear], (want > 0.5)[clear])


def test_the_continuous_form_of_pasted_masks_is_grid_sample():
    masks, (boxes, _) = RNG.random((20, 28, 28)).astype(np.float32), random_boxes(20, 60, 1)
    boxes = boxes[2:]
    low, side = torch.from_numpy(boxes[:, None, :2]), torch.from_numpy(boxes[:, None, 2:] - boxes[:, None, :2])
    x = (torch.arange(64)[None] + 0.5 - low[..., 0]) / side[..., 0] * 2 - 1
    y = (torch.arange(50)[None] + 0.5 - low[..., 1]) / side[..., 1] * 2 - 1
    grid = torch.stack([x[:, None].expand(-1, 50, -1), y[:, :, None].expand(-1, -1, 64)], -1)
    want = torch.nn.functional.grid_sample(torch.from_numpy(masks[2:])[:, None], grid, align_corners=False)
    want = want[:, 0].numpy()
    clear = np.abs(want - 0.5) > 1e-5
    for paste in (paste_masks, paste_masks_on_host):
        out = np.asarray(paste(masks[2:], boxes, (50, 64)))
        np.testing.assert_array_equal(out[clear], (want >= 0.5)[clear])
