"""Shifted and scaled pictures keep their annotations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxvision.augment import LargeScaleJitter, RandomCropPad, warp
from tests.augment import drawing
from tests.augment.test_affine import run
from tests.conftest import strict


def test_a_shifted_picture_keeps_its_annotations(unoptimized):
    before = drawing.scene()
    height, width = drawing.SIZE
    offsets = set()
    for sample in run(RandomCropPad(25, fill=3), before, range(20)):
        drawing.assert_consistent(sample, before=before, box_tolerance=0)
        left, top = (sample["to_original"][:2, 2] / 2).astype(int)
        padded = np.pad(before["image"][:height, :width], ((25, 25), (25, 25), (0, 0)), constant_values=3)
        window = padded[25 + top : 25 + top + height, 25 + left : 25 + left + width]
        np.testing.assert_array_equal(sample["image"][:height, :width], window)
        assert (sample["image"][height:] == drawing.PADDING).all() and (sample["semantic"][height:] == 255).all()
        offsets.add((left, top))
    assert len(offsets) > 15


def test_large_scale_jitter_keeps_annotations_and_fills_the_rest(unoptimized):
    before = drawing.scene()
    sizes = set()
    for sample in run(LargeScaleJitter((0.8, 1.6), fill=5), before, range(24)):
        drawing.assert_consistent(sample, before=before)
        height, width = sample["size"].astype(int)
        assert (sample["image"][height:] == 5).all() and (sample["image"][:, width:] == 5).all()
        assert (sample["semantic"][height:] == 255).all() and (sample["semantic"][:height, :width] != 255).all()
        scale = 2 / sample["to_original"][0, 0]
        assert 0.8 * 96 / 90 <= scale <= 1.6 * 96 / 90 + 1e-5
        np.testing.assert_array_equal([height, width], np.minimum(np.round(scale * before["size"]), 96))
        sizes.add((height, width))
    assert (96, 96) in sizes and len(sizes) > 5


def test_a_scale_of_one_changes_nothing(unoptimized):
    before = drawing.scene(size=(96, 80))
    sample = run(LargeScaleJitter((1.0, 1.0), fill=drawing.PADDING), before, [0])[0]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), sample, before)


@pytest.mark.parametrize("size", [(10, 14), (30, 42)])
def test_scaling_smooths_as_pillow_does(size):
    picture = np.random.default_rng(0).random((20, 28), np.float32)
    canvas = np.full((48, 48, 1), 9.0, np.float32)
    canvas[:20, :28, 0] = picture
    with strict():
        scale, offset = jnp.float32(size[0] / 20), jnp.zeros(2, jnp.float32)
        ours = warp.resize_window(canvas, scale, offset, (jnp.int32(20), jnp.int32(28)))
    theirs = np.asarray(Image.fromarray(picture).resize(size[::-1], Image.Resampling.BILINEAR))
    np.testing.assert_allclose(ours[: size[0], : size[1], 0], theirs, atol=1e-5)


def test_pictures_without_pixels_or_objects_stay_finite(unoptimized):
    padding = {**drawing.scene(objects=()), "size": np.zeros(2, np.float32)}
    for transform in (RandomCropPad(3), LargeScaleJitter()):
        for before in (padding, drawing.scene(objects=(), canvas=(1, 1), size=(1, 1))):
            sample = run(transform, before, [0])[0]
            assert not sample["targets"].valid.any()
            assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(sample))


def test_settings_that_make_no_sense_are_refused():
    for make, message in (
        (lambda: LargeScaleJitter((0.0, 1.0)), "scale is"),
        (lambda: LargeScaleJitter((2.0, 1.0)), "scale is"),
        (lambda: RandomCropPad(2, min_area_ratio=2.0), "min_area_ratio is"),
        (lambda: run(LargeScaleJitter(), {"image": np.zeros((4, 4, 1), np.uint8)}), "no `size`"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
