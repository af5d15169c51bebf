"""Crops of packed masks against `roi_align` of the unpacked ones."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.ops import crop_masks, pack_masks, roi_align
from tests.conftest import strict

pytestmark = pytest.mark.usefixtures("unoptimized")
HEIGHT, WIDTH = 21, 29


def random_case(rng, masks=3, boxes=12):
    corners = rng.uniform(-3, 1.2, (boxes, 2, 2)) * (WIDTH, HEIGHT)
    corners = np.abs(corners) % (WIDTH, HEIGHT)
    found = np.concatenate([corners.min(1), corners.max(1)], axis=1).astype(np.float32)
    found[0], found[1, 2:] = (0, 0, WIDTH, HEIGHT), found[1, :2]  # the canvas, and a box without area
    return rng.random((masks, HEIGHT, WIDTH)) < 0.4, found, rng.integers(0, masks, boxes).astype(np.int32)


@pytest.mark.parametrize("aligned", [True, False])
def test_crops_equal_roi_align_of_the_mask_with_adaptive_sampling(aligned):
    rng = np.random.default_rng(0)
    crop = jax.jit(functools.partial(crop_masks, width=WIDTH, output_size=5, aligned=aligned))
    align = functools.partial(roi_align, output_size=5, spatial_scale=1.0, sampling_ratio=0, aligned=aligned)
    for _ in range(3):
        masks, boxes, index = random_case(rng)
        with strict():
            found = crop(jnp.asarray(pack_masks(masks)), jnp.asarray(boxes), jnp.asarray(index))
            expected = align(jnp.asarray(masks, jnp.float32)[..., None], jnp.asarray(boxes), jnp.asarray(index))
        np.testing.assert_allclose(found, expected[..., 0], atol=1e-5)


def test_a_mask_that_fills_its_box_gives_ones_and_what_lies_outside_is_cut_off():
    masks = np.zeros((1, 16, 24), bool)
    masks[0, 4:12, 8:16] = True
    boxes = jnp.asarray([[8, 4, 16, 12], [8, 4, 24, 12], [-9, -9, 40, 40.0]])
    found = crop_masks(jnp.asarray(pack_masks(masks)), boxes, jnp.zeros(3, jnp.int32), width=24, output_size=4)
    np.testing.assert_allclose(found[0, 1:3, 1:3], 1.0, atol=1e-6)
    np.testing.assert_allclose(found[1, 1:3], [[1, 1, 0, 0]] * 2, atol=0.1)
    np.testing.assert_allclose(found[2].sum() * 6 * 4, 64, atol=1e-3)


def test_nothing_to_crop_and_wrong_shapes():
    masks = jnp.zeros((2, 8, 1), jnp.uint8)
    empty = crop_masks(masks, jnp.zeros((0, 4)), jnp.zeros(0, jnp.int32), width=8, output_size=3)
    assert empty.shape == (0, 3, 3)
    none = crop_masks(masks[:0], jnp.zeros((2, 4)), jnp.zeros(2, jnp.int32), width=8, output_size=3)
    assert none.shape == (2, 3, 3) and not none.any()
    with pytest.raises(ValueError, match="crop_masks got masks"):
        crop_masks(masks, jnp.zeros((3, 4)), jnp.zeros(2, jnp.int32), width=8, output_size=3)
