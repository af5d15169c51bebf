"""RoI align and RoI pooling against loops over samples and pixels in numpy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.ops.gather import exact_quotient
from jaxvision.ops.roi_align import assign_levels, multilevel_roi_align, roi_align
from jaxvision.ops.roi_pool import roi_pool
from tests.conftest import strict

RNG = np.random.default_rng(0)
START = RNG.bit_generator.state


@pytest.fixture(autouse=True)
def _same_numbers_in_any_order():
    RNG.bit_generator.state = START


BOXES = np.array(
    [
        [2.0, 3.0, 17.5, 22.3],
        [0.0, 0.0, 40.0, 28.0],  # the whole map
        [-9.0, -14.0, 8.0, 6.0],  # beyond the corner
        [30.0, 20.0, 90.0, 70.0],  # beyond the other corner
        [200.0, 200.0, 220.0, 230.0],  # outside
        [12.0, 12.0, 12.0, 12.0],  # without area
        [9.0, 5.0, 9.0, 25.0],  # without width
        [1.0, 10.0, 39.0, 12.0],  # flat
        [20.0, 18.0, 10.0, 4.0],  # turned inside out
    ],
    np.float32,
)
IMAGES = np.arange(len(BOXES), dtype=np.int32) % 2


def bilinear(image, y, x):
    height, width = image.shape[:2]
    if not (-1 <= y <= height and -1 <= x <= width):
        return np.zeros(image.shape[2])
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = min(int(y), height - 1), min(int(x), width - 1)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    v, u = y - top, x - left
    upper = (1 - u) * image[top, left] + u * image[top, right]
    return (1 - v) * upper + v * ((1 - u) * image[bottom, left] + u * image[bottom, right])


def oracle(features, boxes, images, bins, scale, ratio, aligned, most=10**9):
    out = np.zeros((len(boxes), *bins, features.shape[-1]))
    for r, (box, image) in enumerate(zip(np.asarray(boxes, np.float64), images, strict=True)):
        x1, y1, x2, y2 = box * scale - (0.5 if aligned else 0)
        height, width = y2 - y1, x2 - x1
        if not aligned:
            height, width = max(height, 1), max(width, 1)
        bin_h, bin_w = height / bins[0], width / bins[1]
        rows, columns = (ratio or min(max(math.ceil(n), 0), most) for n in (bin_h, bin_w))
        for i in range(bins[0]):
            for j in range(bins[1]):
                samples = [
                    bilinear(
                        features[image], y1 + (i + (a + 0.5) / rows) * bin_h, x1 + (j + (b + 0.5) / columns) * bin_w
                    )
                    for a in range(rows)
                    for b in range(columns)
                ]
                out[r, i, j] = np.sum(samples, axis=0) / max(len(samples), 1)
    return out


def random(shape):
    return RNG.standard_normal(shape, np.float32)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [2, 3, 0])
def test_roi_align_equals_a_loop_over_samples_also_for_degenerate_boxes(ratio, aligned):
    features = random((2, 14, 20, 3))
    with strict():
        out = jax.jit(
            lambda f, b: roi_align(
                f, b, IMAGES, output_size=(3, 2), spatial_scale=0.5, sampling_ratio=ratio, aligned=aligned
            )
        )(features, BOXES)
    want = oracle(features, BOXES, IMAGES, (3, 2), 0.5, ratio, aligned)
    np.testing.assert_allclose(out, want, atol=2e-5)
    assert (np.asarray(out)[4] == 0).all()


def test_adaptive_sampling_is_bounded_on_request():
    features = random((2, 14, 20, 3))
    options = dict(output_size=2, spatial_scale=0.5, sampling_ratio=0, max_samples=2)
    out = jax.jit(lambda f: roi_align(f, BOXES, IMAGES, **options))(features)
    np.testing.assert_allclose(out, oracle(features, BOXES, IMAGES, (2, 2), 0.5, 0, True, most=2), atol=2e-5)


@pytest.mark.parametrize("ratio", [2, 0])
def test_the_gradient_is_the_transpose_and_finite_for_degenerate_boxes(ratio):
    """The op is linear in the features: <g, f(x)> = <f'(g), x>. Boxes get none."""
    features, g = random((2, 14, 20, 3)), random((len(BOXES), 3, 2, 3))
    boxes = np.concatenate([BOXES[:-1], np.full((1, 4), np.nan, np.float32)])

    def pool(features, boxes):
        return roi_align(features, boxes, IMAGES, output_size=(3, 2), spatial_scale=0.5, sampling_ratio=ratio)

    with strict():
        out = jax.jit(pool)(features, boxes)
        to_features, to_boxes = jax.jit(lambda f, b, g: jax.vjp(pool, f, b)[1](g))(features, boxes, g)
    assert np.isfinite(out).all() and np.isfinite(to_features).all() and not to_boxes.any()
    np.testing.assert_allclose(np.vdot(g, out), np.vdot(to_features, features), rtol=1e-4)


@pytest.mark.parametrize("ratio", [2, 0])
def test_no_box_one_box_one_pixel_and_bfloat16(ratio):
    options = dict(output_size=2, spatial_scale=1.0, sampling_ratio=ratio)
    with strict():
        none = roi_align(random((1, 4, 4, 5)), BOXES[:0], IMAGES[:0], **options)
        grad = jax.grad(lambda f: roi_align(f, BOXES[:0], IMAGES[:0], **options).sum())(jnp.ones((1, 4, 4, 5)))
        pool = jax.jit(lambda f: roi_align(f, np.array([[0, 0, 1, 1]], np.float32), IMAGES[:1], **options))
        one = pool(np.full((1, 1, 1, 5), 3, jnp.bfloat16))
    assert none.shape == (0, 2, 2, 5) and not grad.any()
    assert one.dtype == jnp.bfloat16 and (one == 3).all()


@pytest.mark.parametrize("ratio", [2, 0])
def test_every_box_is_pooled_from_its_own_level(ratio):
    maps = {f"p{i}": random((2, 32 >> i, 48 >> i, 4)) for i in range(3)}
    corner, side = RNG.uniform(0, 60, (40, 2)), np.linspace(2, 110, 80).reshape(40, 2)
    boxes = np.concatenate([corner, corner + side], 1).astype(np.float32)
    images = RNG.integers(0, 2, 40).astype(np.int32)
    scales = (0.25, 0.125, 0.0625)
    with strict():
        levels = assign_levels(boxes, 3, canonical_scale=28)
        out = jax.jit(
            lambda maps: multilevel_roi_align(
                maps, boxes, images, spatial_scales=scales, output_size=3, sampling_ratio=ratio, levels=levels
            )
        )(maps)
    assert set(np.asarray(levels)) == {0, 1, 2}
    for level, features in enumerate(maps.values()):
        own = np.asarray(levels) == level
        want = oracle(features, boxes[own], images[own], (3, 3), scales[level], ratio, True)
        np.testing.assert_allclose(np.asarray(out)[own], want, atol=3e-5)


def test_whole_bins_get_as_many_samples_as_they_have_pixels():
    """XLA's product with the rounded 1 / 7 would make 3 samples of the 14 / 7 pixels of a bin."""
    sides = np.arange(7, 7 * 9, 7, dtype=np.float32)
    boxes = np.stack([0 * sides, 0 * sides, sides, sides], axis=-1)
    features, images = random((1, 63, 63, 1)), np.zeros(len(boxes), np.int32)
    options = dict(output_size=7, spatial_scale=1.0, sampling_ratio=0)
    out = jax.jit(lambda f, b: roi_align(f, b, images, **options))(features, boxes)
    np.testing.assert_allclose(out, oracle(features, boxes, images, (7, 7), 1.0, 0, True), atol=2e-5)
    np.testing.assert_array_equal(jax.jit(lambda a: exact_quotient(a, 7))(sides), sides / np.float32(7))


@pytest.mark.parametrize("ratio", [2, 0])
def test_the_gradient_traces_under_a_checked_map(ratio):
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("batch",))
    spec = jax.sharding.PartitionSpec("batch")

    def gradient(features, boxes, images):
        options = dict(output_size=2, spatial_scale=1.0, sampling_ratio=ratio)
        aligned = jax.grad(lambda f: roi_align(f, boxes, images, **options).sum())(features)
        return aligned + jax.grad(lambda f: roi_pool(f, boxes, images, output_size=2, spatial_scale=1.0).sum())(
            features
        )

    mapped = jax.shard_map(gradient, mesh=mesh, in_specs=(spec,) * 3, out_specs=spec, check_vma=True)
    out = jax.eval_shape(mapped, *(jnp.zeros(s) for s in ((2, 8, 8, 3), (6, 4))), jnp.zeros(6, jnp.int32))
    assert out.shape == (2, 8, 8, 3)


def test_levels_follow_the_size_and_both_forms_put_the_borders_alike():
    sides = np.array([0, 1, 55.9, 56, 111.9, 112, 223.9, 224, 447.9, 448, 5000], np.float32)
    boxes = np.stack([0 * sides, 0 * sides, sides, sides], axis=-1)
    want = [0, 0, 0, 0, 0, 1, 1, 2, 2, 3, 3]
    with strict():
        np.testing.assert_array_equal(assign_levels(boxes, 4), want)
        np.testing.assert_array_equal(assign_levels(boxes, 4, finest_scale=56.0), want)
        np.testing.assert_array_equal(assign_levels(boxes[:, [2, 3, 0, 1]] * np.float32(np.nan), 4), 0)


def pool_oracle(features, boxes, images, bins, scale):
    out = np.zeros((len(boxes), *bins, features.shape[-1]), features.dtype)
    size = features.shape[1:3]
    for r, (box, image) in enumerate(zip(boxes, images, strict=True)):
        x1, y1, x2, y2 = (int(np.copysign(np.floor(abs(v) + 0.5), v)) for v in box * np.float32(scale))
        edges = []
        for low, high, n, length in ((y1, y2, bins[0], size[0]), (x1, x2, bins[1], size[1])):
            side = max(high - low + 1, 1) / n
            cut = [(math.floor(i * side) + low, math.ceil((i + 1) * side) + low) for i in range(n)]
            edges.append([tuple(min(max(v, 0), length) for v in pair) for pair in cut])
        for i, (top, bottom) in enumerate(edges[0]):
            for j, (left, right) in enumerate(edges[1]):
                if bottom > top and right > left:
                    out[r, i, j] = features[image, top:bottom, left:right].max(axis=(0, 1))
    return out


def test_roi_pool_equals_a_loop_over_bins_also_for_degenerate_boxes():
    features = random((2, 14, 20, 3))
    with strict():
        g = random((len(BOXES), 3, 2, 3))

        def pool(features):
            return roi_pool(features, BOXES, IMAGES, output_size=(3, 2), spatial_scale=0.5)

        out, gradient = jax.jit(lambda f, g: (pool(f), jax.vjp(pool, f)[1](g)[0]))(features, g)
    np.testing.assert_array_equal(out, pool_oracle(features, BOXES, IMAGES, (3, 2), 0.5))
    want = np.zeros_like(features)
    for r, i, j, c in np.ndindex(*out.shape):
        found = np.argwhere(features[IMAGES[r], :, :, c] == out[r, i, j, c])
        if len(found):
            want[IMAGES[r], found[0][0], found[0][1], c] += g[r, i, j, c]
    np.testing.assert_allclose(gradient, want, atol=1e-5)


def test_roi_pool_takes_the_first_of_equal_values_no_box_and_bfloat16():
    box, image = np.array([[1, 1, 4, 4.0]], np.float32), np.zeros(1, np.int32)
    options = dict(output_size=1, spatial_scale=1.0)
    with strict():
        features = jnp.ones((1, 6, 6, 1), jnp.bfloat16)
        gradient = jax.jit(jax.grad(lambda f: roi_pool(f, box, image, **options).sum()))(features)
        assert roi_pool(features, box[:0], image[:0], **options).shape == (0, 1, 1, 1)
    assert gradient.dtype == jnp.bfloat16 and gradient.sum() == 1 and gradient[0, 1, 1, 0] == 1


def test_bad_shapes_are_told():
    features, box, image = jnp.ones((1, 4, 4, 2)), np.ones((3, 4), np.float32), np.zeros(3, np.int32)
    options = dict(output_size=2, spatial_scale=1.0)
    for function in (roi_align, roi_pool):
        with pytest.raises(ValueError, match=r"\[R, 4\]"):
            function(features, box[None], image, **options)
        with pytest.raises(ValueError, match=r"\(2,\)"):
            function(features, box, image[:2], **options)
        with pytest.raises(ValueError, match="output_size=0"):
            function(features, box, image, output_size=0, spatial_scale=1.0)
    with pytest.raises(ValueError, match=r"2 map\(s\) and 1 scale"):
        multilevel_roi_align([features] * 2, box, image, spatial_scales=(1.0,), output_size=2)
    with pytest.raises(ValueError, match="C alike"):
        multilevel_roi_align([features, features[..., :1]], box, image, spatial_scales=(1.0, 0.5), output_size=2)
