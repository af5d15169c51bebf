"""Mirrored pictures keep their annotations; the padding of the canvas stays where it is."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxvision.augment import RandomFlip, warp
from jaxvision.ops.masks import mask_areas, mask_boxes
from tests.augment import drawing
from tests.augment.test_affine import run
from tests.conftest import strict


@pytest.mark.parametrize("direction", ["horizontal", "vertical"])
@pytest.mark.parametrize("size", [(80, 90), (96, 96), (79, 83)])
def test_a_mirror_takes_every_annotation_along(direction, size, unoptimized):
    before = drawing.scene(size=size)
    sample = run(RandomFlip(1.0, direction=direction), before, [0])[0]
    axis = 1 if direction == "horizontal" else 0
    height, width = size
    for key in ("image", "semantic", "panoptic"):
        expected = before[key].copy()
        expected[:height, :width] = np.flip(before[key][:height, :width], axis)
        np.testing.assert_array_equal(sample[key], expected)
    masks = np.zeros((drawing.ROWS, *drawing.CANVAS), bool)
    masks[:, :height, :width] = np.flip(drawing.unpack(before["targets"].masks, 96)[:, :height, :width], axis + 1)
    np.testing.assert_array_equal(drawing.unpack(sample["targets"].masks, 96), masks)
    drawing.assert_consistent(sample, before=before, box_tolerance=0)
    np.testing.assert_array_equal(sample["size"], before["size"])
    np.testing.assert_array_equal(sample["targets"].area, before["targets"].area)
    twice = run(RandomFlip(1.0, direction=direction), sample, [0])[0]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), twice, before)
    for box, mask in zip(sample["targets"].rotated_boxes[1:3], masks[1:3], strict=True):
        drawn = drawing.rectangle_mask(box[:2], box[2:4], box[4])
        assert (drawn != mask).sum() <= 12  # a mirrored rectangle is the turned one


def test_directions_of_objects_follow_a_mirror():
    """What stood upright still stands upright after a mirror left to right, and on its head after the other."""
    before = drawing.scene(((30, 30, 20, 10, 0.3),))
    across, down = (run(RandomFlip(1.0, direction=d), before, [0])[0] for d in ("horizontal", "vertical"))
    np.testing.assert_allclose(across["targets"].rotated_boxes[1], [60, 30, 20, 10, -0.3], atol=1e-5)
    np.testing.assert_allclose(down["targets"].rotated_boxes[1], [30, 50, 20, 10, np.pi - 0.3], atol=1e-5)


@pytest.mark.parametrize("direction", ["horizontal", "vertical"])
def test_keypoints_change_roles_in_a_mirror(direction):
    sample = drawing.scene(((30, 30, 20, 10, 0.3),))
    keypoints = np.zeros((drawing.ROWS, 3, 3), np.float32)
    keypoints[1] = [[10, 20, 2], [12, 22, 1], [0, 0, 0]]
    sample["targets"] = sample["targets"].replace(keypoints=keypoints)
    out = run(RandomFlip(1.0, ((0, 2),), direction), sample, [0])[0]["targets"].keypoints
    expected = (
        [[0, 0, 0], [78, 22, 1], [80, 20, 2]] if direction == "horizontal" else [[0] * 3, [12, 58, 1], [10, 60, 2]]
    )
    np.testing.assert_array_equal(out[1], expected)


def test_one_sample_is_flipped_whole_or_not_at_all(unoptimized):
    before = drawing.scene()
    flipped = run(RandomFlip(1.0), before, [0])[0]
    counts = [0, 0]
    for sample in run(RandomFlip(), before, range(40)):
        which = int((sample["image"] != before["image"]).any())
        jax.tree.map(np.testing.assert_array_equal, sample, flipped if which else before)
        counts[which] += 1
    assert min(counts) > 8


def test_degenerate_pictures_stay_as_they_are():
    padding = {**drawing.scene(objects=()), "size": np.zeros(2, np.float32)}
    pixel = drawing.scene(objects=(), canvas=(1, 1), size=(1, 1))
    for before in (padding, pixel):
        for direction in ("horizontal", "vertical"):
            sample = run(RandomFlip(1.0, direction=direction), before, [0])[0]
            for key in ("image", "semantic", "panoptic", "targets"):
                jax.tree.map(np.testing.assert_array_equal, sample[key], before[key])


MIRROR = jax.jit(lambda masks, length: warp.mirror(masks, 2, length, bits=True))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 40), st.integers(0, 2**32 - 1))
def test_bits_are_mirrored_within_any_width(length, seed):
    flags = np.random.default_rng(seed).random((2, 3, 40)) < 0.5
    flags[..., length:] = False
    with strict():
        mirrored = MIRROR(np.packbits(flags, axis=-1), np.int32(length))
    flags[..., :length] = flags[..., :length][..., ::-1]
    np.testing.assert_array_equal(drawing.unpack(mirrored, 40), flags)


@pytest.mark.parametrize("count,width", [(1, 21), (33, 5), (70, 8)])
def test_bit_fields_hold_all_masks(count, width, unoptimized):
    flags = np.random.default_rng(0).random((count, 4, width)) < 0.5
    packed = np.packbits(flags, axis=-1)
    with strict():
        words = warp.pixel_words(packed)
        np.testing.assert_array_equal(warp.moved_masks(packed, lambda word: word, width), packed)
    for i in range(count):
        np.testing.assert_array_equal(
            (np.asarray(words[i // 32]) >> (i % 32)) & 1, drawing.unpack(packed, 8 * packed.shape[2])[i]
        )
    np.testing.assert_array_equal(mask_areas(packed), flags.sum((1, 2)))
    np.testing.assert_array_equal(mask_boxes(packed), [drawing.tight_box(flag) for flag in flags])
    chosen = np.random.default_rng(2).random(count) < 0.5
    np.testing.assert_array_equal(drawing.unpack(warp.any_of(packed, chosen), width), flags[chosen].any(0))


def test_settings_that_make_no_sense_are_refused():
    for make, message in (
        (lambda: RandomFlip(direction="diagonal"), "direction is 'diagonal'"),
        (lambda: RandomFlip(flip_pairs=((0, 1), (1, 2))), "without a common keypoint"),
        (lambda: run(RandomFlip(flip_pairs=((0, 1),)), drawing.scene()), "there are 1 keypoints"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
