"""Run lengths and polygons of masks come back as the masks."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from jaxvision.data.maps import instance_masks
from jaxvision.data.run_lengths import encode_masks, mask_polygons


@pytest.mark.parametrize("shape", [(1, 1), (7, 40), (30, 5)])
def test_encoded_masks_come_back_through_json(shape):
    masks = np.random.default_rng(0).random((4, *shape)) < np.array([0, 0.3, 0.7, 1])[:, None, None]
    texts = json.loads(json.dumps(encode_masks(masks)))
    assert texts[0]["size"] == list(shape)
    np.testing.assert_array_equal(instance_masks(texts, shape), masks)
    assert encode_masks(masks[:0]) == []
    with pytest.raises(ValueError, match="takes bool"):
        encode_masks(masks.astype(np.uint8))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.floats(0, 1), st.integers(0, 1000))
def test_polygons_are_the_mask_with_its_holes_filled(height, width, share, seed):
    mask = np.random.default_rng(seed).random((height, width)) < share
    parts, count = ndimage.label(mask)
    filled = np.zeros_like(mask)
    for part in range(1, count + 1):  # a hole is what no way around the part leads to, corners included
        filled |= ndimage.binary_fill_holes(parts == part, np.ones((3, 3)))
    polygons = mask_polygons(mask)
    np.testing.assert_array_equal(instance_masks([polygons], mask.shape)[0], filled)


def test_the_outline_of_a_rectangle_has_four_corners():
    mask = np.zeros((8, 9), bool)
    mask[2:5, 3:7] = True
    assert mask_polygons(mask) == [[3, 2, 7, 2, 7, 5, 3, 5]] and mask_polygons(mask & False) == []
