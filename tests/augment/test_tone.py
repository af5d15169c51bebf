"""Tones on the device against Pillow."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageOps

from jaxvision.augment import RandomPosterize, RandomSolarize
from jaxvision.augment.tone import autocontrast, equalize, invert, posterize, solarize
from tests.augment.test_color import call, noise

pytestmark = pytest.mark.usefixtures("unoptimized")


def pillow(function, image, *args):
    return np.array(function(Image.fromarray(image), *args))


def test_invert():
    image = noise(6, 5, 3)
    np.testing.assert_array_equal(call(invert, image), pillow(ImageOps.invert, image))
    np.testing.assert_array_equal(call(invert, call(invert, image)), image)
    with pytest.raises(TypeError, match="image is int32"):
        invert(jnp.zeros((2, 2, 3), jnp.int32))


@pytest.mark.parametrize("threshold", [0, 1, 64, 128, 255])
def test_solarize(threshold):
    image = noise(16, 16, 3)
    result = call(lambda x: solarize(x, threshold / 255), image)
    np.testing.assert_array_equal(result, pillow(ImageOps.solarize, image, threshold))
    np.testing.assert_array_equal(call(lambda x: solarize(x, 0.5), image), pillow(ImageOps.solarize, image, 128))


@pytest.mark.parametrize("bits", range(9))
def test_posterize(bits):
    image = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    step = 2 ** (8 - bits)
    np.testing.assert_array_equal(
        call(lambda x: posterize(x, bits), image), image // step * step if bits else 0 * image
    )
    values = np.float32([0, 0.1, 0.5, 0.999, 1]).reshape(1, 5, 1)
    result = call(lambda x: posterize(x, bits), values)
    np.testing.assert_allclose(result, np.minimum(np.floor(values * 2**bits), 2**bits - 1) / 2**bits)


@pytest.mark.parametrize("spread", [0, 1, 5, 40])
def test_equalize_bit_for_bit(spread):
    for size in ((1, 1), (2, 200), (30, 25)):
        image = np.random.default_rng(0).normal(100, spread, (*size, 3)).clip(0, 255).astype(np.uint8)
        np.testing.assert_array_equal(call(equalize, image), pillow(ImageOps.equalize, image))


@pytest.mark.parametrize("spread", [0, 1, 5, 40])
def test_autocontrast(spread):
    image = np.random.default_rng(0).normal(100, spread, (9, 8, 3)).clip(0, 255).astype(np.uint8)
    image[..., 1] = 3
    result = call(autocontrast, image)
    assert abs(result.astype(int) - pillow(ImageOps.autocontrast, image)).max() <= 1  # Pillow truncates
    np.testing.assert_array_equal(result[..., 1], image[..., 1])
    if spread:
        assert result[..., 0].min() == 0 and result[..., 0].max() == 255


def test_settings_that_make_no_sense_are_refused():
    for make, message in (
        (lambda: RandomSolarize(128), "threshold is 128, expected 0..1"),
        (lambda: RandomPosterize(9), "bits is 9, expected 0..8"),
        (lambda: RandomPosterize(4, 1.2), "random_posterize: probability is 1.2"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
