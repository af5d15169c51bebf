"""Random erasing: where, how large, and what is written."""

import jax
import numpy as np
import pytest

from jaxvision.augment import RandomErasing
from jaxvision.augment.erasing import MODES, erase
from tests.augment.test_color import call, noise, run

pytestmark = pytest.mark.usefixtures("unoptimized")


def rectangles(erasing, size, n=1000):
    draw = jax.jit(jax.vmap(lambda key: erasing.draw(key, size)))
    return np.asarray(draw(jax.random.split(jax.random.key(0), n)))


def test_the_rectangle_is_overwritten_and_nothing_else():
    image = noise(7, 9, 3)
    expected = image.copy()
    expected[2:5, 1:8] = (1, 2, 3)
    rectangle, values = np.int32([2, 1, 3, 7]), np.uint8([[[1, 2, 3]]])
    np.testing.assert_array_equal(call(erase, image, rectangle, values), expected)
    np.testing.assert_array_equal(call(erase, image, np.int32([0, 0, 0, 0]), values), image)


def test_rectangles_lie_inside_and_have_the_area_and_aspect_asked_for():
    size = (60, 100)
    top, left, height, width = rectangles(RandomErasing(area=(0.05, 0.2), aspect=(0.5, 2.0)), size).T
    assert (top >= 0).all() and (left >= 0).all() and (top + height <= 60).all() and (left + width <= 100).all()
    share, aspect = height * width / 6000, height / width
    assert share.min() > 0.045 and share.max() < 0.21 and 0.11 < share.mean() < 0.14
    assert 0.46 < aspect.min() < 0.55 and 1.8 < aspect.max() < 2.2 and abs(np.log(aspect).mean()) < 0.05
    assert top.min() == 0 and (left + width).max() == 100


def test_where_no_rectangle_fits_nothing_is_erased():
    drawn = rectangles(RandomErasing(area=(0.3, 1.0)), (1, 50))
    assert (drawn[:, 2] * drawn[:, 3] == 0).all()
    image = noise(4, 1, 1, 3)
    np.testing.assert_array_equal(run((RandomErasing(1.0, area=(0.9, 1.0)),), image)["image"], image)


@pytest.mark.parametrize("mode", MODES)
def test_values(mode):
    image = noise(20, 16, 16, 3) / np.float32(255)
    erasing = RandomErasing(1.0, area=(0.3, 0.3), aspect=(1.0, 1.0), mode=mode, fill=(0.1, 0.2, 0.3))
    out = np.asarray(run((erasing,), image)["image"])
    changed = [new[(new != old).all(-1)] for new, old in zip(out, image, strict=True)]
    assert min(map(len, changed)) > 60
    if mode == "constant":
        np.testing.assert_allclose(np.concatenate(changed), np.tile([0.1, 0.2, 0.3], (sum(map(len, changed)), 1)))
    elif mode == "mean":
        for values, old in zip(changed, image, strict=True):
            np.testing.assert_allclose(values, np.tile(old.mean((0, 1)), (len(values), 1)), atol=1e-5)
    else:
        values = np.concatenate(changed)
        mean, deviation = (0.5, 12**-0.5) if mode == "uniform" else (0, 1)
        assert abs(values.mean() - mean) < 0.05 and abs(values.std() - deviation) < 0.05
        assert abs(np.corrcoef(values[:-1, 0], values[1:, 0])[0, 1]) < 0.1


def test_uniform_values_of_uint8_cover_its_range():
    out = np.asarray(
        run((RandomErasing(1.0, area=(0.8, 0.8), mode="uniform"),), np.full((8, 32, 32, 1), 128, np.uint8))["image"]
    )
    assert len(np.unique(out)) == 256


def test_settings_that_make_no_sense_are_refused():
    image = noise(2, 8, 8, 3)
    for make, message in (
        (lambda: RandomErasing(area=(0.5, 0.1)), "area is"),
        (lambda: RandomErasing(area=(0.5, 1.1)), "area is"),
        (lambda: RandomErasing(aspect=(0.0, 1.0)), "more than 0"),
        (lambda: RandomErasing(mode="pixel"), "mode is 'pixel', expected one of constant, mean, uniform, normal"),
        (lambda: run((RandomErasing(fill=(1, 2)),), image), "fill has 2 values for images of 3 channels"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
    with pytest.raises(TypeError, match="for normalised images"):
        run((RandomErasing(mode="normal"),), image)
