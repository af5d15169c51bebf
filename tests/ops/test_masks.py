"""Packed masks, their boxes and overlaps, and pasting, against numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.ops.masks import (
    mask_areas,
    mask_boxes,
    mask_iou,
    pack_masks,
    paste_masks,
    paste_masks_on_host,
    unpack_masks,
)
from tests.augment.drawing import tight_box
from tests.conftest import strict

RNG = np.random.default_rng(0)
START = RNG.bit_generator.state


@pytest.fixture(autouse=True)
def _same_numbers_in_any_order():
    RNG.bit_generator.state = START


def random_masks(count, height=9, width=21):
    masks = RNG.random((count, height, width)) < RNG.random((count, 1, 1))
    masks[0] = False
    masks[1] = True
    return masks


def test_packing_is_the_same_on_host_and_device_and_comes_back():
    masks = random_masks(5)
    packed = pack_masks(masks)
    assert isinstance(packed, np.ndarray) and packed.shape == (5, 9, 3) and packed.dtype == np.uint8
    with strict():
        np.testing.assert_array_equal(jax.jit(pack_masks)(masks), packed)
        back = unpack_masks(jnp.asarray(packed), 21)
    np.testing.assert_array_equal(back, masks)
    np.testing.assert_array_equal(unpack_masks(packed, 21), masks)
    assert back.dtype == bool and pack_masks(masks[:0]).shape == (0, 9, 3)
    with pytest.raises(ValueError, match="3 bytes per row for a width of 25, not 4"):
        unpack_masks(packed, 25)


def test_areas_and_boxes_of_packed_masks_also_of_empty_ones():
    masks = random_masks(8) & random_masks(8)
    packed = pack_masks(masks).reshape(2, 4, 9, 3)
    with strict():
        np.testing.assert_array_equal(mask_areas(packed).reshape(-1), masks.sum((1, 2)))
        boxes = mask_boxes(packed)
        np.testing.assert_array_equal(boxes.reshape(-1, 4), [tight_box(mask) for mask in masks])
        assert mask_boxes(packed[0, :0]).shape == (0, 4)


@pytest.mark.parametrize("kind", ["iou", "iof"])
def test_overlaps_equal_counting_pixels(kind):
    a, b = random_masks(6), random_masks(4)
    common = np.einsum("nhw,mhw->nm", a.astype(int), b.astype(int))
    area = a.sum((1, 2))[:, None]
    whole = area + b.sum((1, 2))[None] - common if kind == "iou" else area
    with strict():
        out = jax.jit(lambda a, b: mask_iou(a, b, kind))(pack_masks(a), pack_masks(b))
        assert mask_iou(pack_masks(a), pack_masks(b)[:0], kind).shape == (6, 0)
        assert mask_iou(pack_masks(a)[:0], pack_masks(b), kind).shape == (0, 4)
    np.testing.assert_allclose(out, common / np.maximum(whole, 1), rtol=1e-6)
    with pytest.raises(ValueError, match="pack_masks"):
        mask_iou(a, b, kind)


def paste_oracle(mask, box, size):
    """Bilinear with zeros around, at the centre of each pixel."""
    out = np.zeros(size)
    if not (box[2] > box[0] and box[3] > box[1]):
        return out
    ring = np.pad(mask, 1)
    for i, j in np.ndindex(*size):
        y = (i + 0.5 - box[1]) / (box[3] - box[1]) * mask.shape[0] + 0.5
        x = (j + 0.5 - box[0]) / (box[2] - box[0]) * mask.shape[1] + 0.5
        if 0 <= y < len(ring) - 1 and 0 <= x < ring.shape[1] - 1:
            top, left = int(y), int(x)
            v, u = y - top, x - left
            part = ring[top : top + 2, left : left + 2]
            out[i, j] = np.array([1 - v, v]) @ part @ np.array([1 - u, u])
    return out


BOXES = np.array(
    [[3.2, 2.5, 20.7, 14.1], [-6, -4, 9, 30], [15, 10, 45, 13], [8, 8, 8, 12], [50, 50, 60, 60], [9, 9, 3, 4]],
    np.float32,
)


def test_pasting_equals_a_loop_over_pixels_on_host_and_device():
    masks = RNG.random((len(BOXES), 5, 4)).astype(np.float32)
    want = np.stack([paste_oracle(mask, box, (18, 27)) for mask, box in zip(masks, BOXES, strict=True)])
    clear = np.abs(want - 0.4) > 1e-5
    with strict():
        device = jax.jit(lambda m, b: paste_masks(m, b, (18, 27), threshold=0.4))(masks, BOXES)
        assert paste_masks(masks[:0], BOXES[:0], (18, 27)).shape == (0, 18, 27)
    host = paste_masks_on_host(masks, BOXES, (18, 27), threshold=0.4)
    assert device.dtype == host.dtype == bool and host[:3].any((1, 2)).all() and not host[3:].any()
    np.testing.assert_array_equal(np.asarray(device)[clear], (want >= 0.4)[clear])
    np.testing.assert_array_equal(host[clear], (want >= 0.4)[clear])
    assert paste_masks_on_host(masks[:0], BOXES[:0], (18, 27)).shape == (0, 18, 27)


def test_full_masks_fill_their_boxes_in_both_forms():
    boxes = np.array([[2, 3, 10, 9], [np.nan] * 4], np.float32)
    for form, corner in (("continuous", (9, 10)), ("integer", (10, 11))):
        for paste in (paste_masks, paste_masks_on_host):
            out = np.asarray(paste(np.ones((2, 28, 28), np.float32), boxes, (16, 16), form=form))
            found = np.argwhere(out[0])
            assert (np.abs(found.min(0) - (3, 2)) <= (form == "integer")).all() and not out[1].any()
            assert (np.abs(found.max(0) + 1 - corner) <= (form == "integer")).all()
    with pytest.raises(ValueError, match="form='other'"):
        paste_masks(np.ones((2, 28, 28), np.float32), boxes, (16, 16), form="other")
    with pytest.raises(ValueError, match=r"boxes \(1, 4\)"):
        paste_masks(np.ones((2, 28, 28), np.float32), boxes[:1], (16, 16))
