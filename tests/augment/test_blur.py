"""Blur, sharpness and noise on the device against scipy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from jaxvision.augment import GaussianBlur, GaussianNoise, RandomSharpness
from jaxvision.augment.blur import adjust_sharpness, gaussian_blur
from tests.augment.test_color import call, noise, run

pytestmark = pytest.mark.usefixtures("unoptimized")


@pytest.mark.parametrize("size", [(9, 7), (1, 1), (1, 5), (2, 3)])
@pytest.mark.parametrize("kernel_size,sigma", [(1, 1.0), (3, 0.1), (5, 0.8), (11, 2.0), (11, 50.0)])
def test_blur_mirrors_at_the_edges(kernel_size, sigma, size):
    """Also where the kernel is wider than the image, which torch refuses."""
    image = np.random.default_rng(0).random((*size, 3), np.float32)
    taps = np.exp(-0.5 * ((np.arange(kernel_size) - kernel_size // 2) / sigma) ** 2)
    expected = image.astype(float)
    for axis in (0, 1):
        expected = ndimage.convolve1d(expected, taps / taps.sum(), axis=axis, mode="mirror")
    result = call(lambda x, s: gaussian_blur(x, kernel_size, s), image, np.float32(sigma))
    np.testing.assert_allclose(result, expected, atol=2e-6)


def test_blur_keeps_one_colour_and_draws_its_width():
    flat = np.full((2, 9, 7, 3), 77, np.uint8)
    np.testing.assert_array_equal(run((GaussianBlur(5),), flat)["image"], flat)
    sigmas = jax.jit(jax.vmap(GaussianBlur(5, (0.1, 2.0)).draw))(jax.random.split(jax.random.key(0), 500))
    assert 0.1 <= sigmas.min() < 0.15 and 1.95 < sigmas.max() <= 2.0


@pytest.mark.parametrize("factor", [0.0, 0.5, 1.0, 3.0])
def test_sharpness_leaves_the_border(factor):
    image = np.random.default_rng(0).random((6, 5, 3), np.float32)
    kernel = np.ones((3, 3)) / 13
    kernel[1, 1] = 5 / 13
    smooth = np.stack([ndimage.convolve(image[..., c].astype(float), kernel) for c in range(3)], -1)
    expected = image.astype(float)
    expected[1:-1, 1:-1] = (factor * image + (1 - factor) * smooth).clip(0, 1)[1:-1, 1:-1]
    np.testing.assert_allclose(call(adjust_sharpness, image, np.float32(factor)), expected, atol=1e-6)
    small = image[:2]
    np.testing.assert_array_equal(call(adjust_sharpness, small, np.float32(factor)), small)


def test_noise_has_its_deviation_and_no_bias():
    grey = np.full((4, 40, 40, 3), 0.5, np.float32)
    out = np.asarray(run((GaussianNoise((0.05, 0.05)),), grey)["image"]) - 0.5
    assert abs(out.mean()) < 0.002 and abs(out.std() - 0.05) < 0.002
    assert abs(np.corrcoef(out[0].ravel(), out[1].ravel())[0, 1]) < 0.05
    np.testing.assert_array_equal(run((GaussianNoise((0.0, 0.0)),), noise(2, 4, 4, 1))["image"], noise(2, 4, 4, 1))


def test_settings_that_make_no_sense_are_refused():
    for make, message in (
        (lambda: GaussianBlur(4), "kernel_size is 4, expected an odd number"),
        (lambda: GaussianBlur(3, (0.0, 1.0)), "expected more than 0 pixels"),
        (lambda: GaussianBlur(3, (2.0, 1.0)), "sigma is .2.0, 1.0."),
        (lambda: RandomSharpness(-1.0), "factor is -1.0"),
        (lambda: GaussianNoise((-0.1, 0.1)), "sigma is .-0.1, 0.1."),
    ):
        with pytest.raises(ValueError, match=message):
            make()
    assert adjust_sharpness(jnp.zeros((1, 1, 3)), jnp.float32(0.5)).shape == (1, 1, 3)
