"""Colour, tone, blur and erasing against torchvision's functions, with the parameters that our transforms drew."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.augment import ColorJitter, GaussianBlur, RandomErasing
from jaxvision.augment.blur import adjust_sharpness, gaussian_blur
from jaxvision.augment.color import adjust_hue, grayscale
from jaxvision.augment.erasing import erase
from jaxvision.augment.tone import autocontrast, equalize, invert, posterize, solarize
from tests.conftest import strict
from tests.parity.torch_weights import load_tool

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def functional():
    load_tool("torchvision_cpu")
    from torchvision.transforms.v2 import functional

    return functional


def image(dtype=np.float32, channels=3, size=(13, 11), seed=0):
    """Noise, a flat region and pure colours."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, channels), np.uint8)
    pixels[:3, :4] = 90
    pixels[3, :6] = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [255] * 3])[:, :channels]
    return pixels if dtype == np.uint8 else (pixels / np.float32(255)).astype(dtype)


def torchvision(function, pixels, *args, **kwargs):
    import torch

    return function(torch.from_numpy(pixels.transpose(2, 0, 1).copy()), *args, **kwargs).numpy().transpose(1, 2, 0)


def ours(function, pixels, *args):
    with strict():
        return np.asarray(function(jnp.asarray(pixels), *args))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("turn", [-0.5, -0.31, -0.02, 0.0, 0.11, 0.5])
def test_hue(turn, channels, functional):
    pixels = image(channels=channels)
    theirs = torchvision(functional.adjust_hue, pixels, turn)
    np.testing.assert_allclose(ours(adjust_hue, pixels, jnp.float32(turn)), theirs, atol=2e-6)
    pixels = image(np.uint8, channels)
    theirs = torchvision(functional.adjust_hue, pixels, turn).astype(int)
    assert abs(ours(adjust_hue, pixels, jnp.float32(turn)).astype(int) - theirs).max() <= 1


@pytest.mark.parametrize("seed", range(12))
def test_jitter_with_its_drawn_order_and_factors(seed, functional):
    jitter = ColorJitter(0.4, 0.5, 0.6, 0.2)
    pixels, key = image(seed=seed), jax.random.key(seed)
    with strict():
        order, factors = jitter.draw(key)
        result = jitter({"image": jnp.asarray(pixels)}, key)["image"]
    theirs = pixels
    for i in np.asarray(order):
        name = ("brightness", "contrast", "saturation", "hue")[i]
        theirs = torchvision(getattr(functional, f"adjust_{name}"), theirs, float(factors[i]))
    np.testing.assert_allclose(result, theirs, atol=5e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
@pytest.mark.parametrize("channels", [1, 3])
def test_grayscale(channels, dtype, functional):
    pixels = image(dtype, channels)
    theirs = torchvision(functional.rgb_to_grayscale, pixels, num_output_channels=channels)
    np.testing.assert_allclose(
        ours(grayscale, pixels).astype(float), theirs.astype(float), atol=1 if dtype == np.uint8 else 1e-6
    )


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
@pytest.mark.parametrize("channels", [1, 3])
def test_tones(channels, dtype, functional):
    pixels = image(dtype, channels)
    white = 255 if dtype == np.uint8 else 1.0
    np.testing.assert_array_equal(ours(invert, pixels), torchvision(functional.invert, pixels))
    for threshold in (0.0, 0.2, 0.5, 1.0):
        theirs = torchvision(functional.solarize, pixels, threshold * white)
        np.testing.assert_array_equal(ours(solarize, pixels, threshold), theirs)
    for bits in range(1, 9):
        np.testing.assert_array_equal(ours(posterize, pixels, bits), torchvision(functional.posterize, pixels, bits))
    theirs = torchvision(functional.autocontrast, pixels)
    difference = abs(ours(autocontrast, pixels).astype(float) - theirs.astype(float)).max()
    assert difference <= (1 if dtype == np.uint8 else 1e-6)


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (16, 16), (17, 31), (64, 80)])
@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_equalize_bit_for_bit(dtype, size, functional):
    for seed in range(3):
        pixels = np.random.default_rng(seed).normal(90, 30, (*size, 3)).clip(0, 255).astype(np.uint8)
        pixels[..., 1] = 7
        pixels = pixels if dtype == np.uint8 else (pixels / np.float32(255)).astype(np.float32)
        theirs = torchvision(functional.equalize, pixels)
        np.testing.assert_allclose(ours(equalize, pixels), theirs, atol=0 if dtype == np.uint8 else 1e-7)


@pytest.mark.parametrize("kernel_size", [1, 3, 9, 21])
@pytest.mark.parametrize("sigma", [0.1, 0.9, 2.0])
def test_blur(sigma, kernel_size, functional):
    pixels = image()
    theirs = torchvision(functional.gaussian_blur, pixels, [kernel_size] * 2, [sigma] * 2)
    np.testing.assert_allclose(ours(gaussian_blur, pixels, kernel_size, jnp.float32(sigma)), theirs, atol=2e-6)
    key = jax.random.key(1)
    blur = GaussianBlur(kernel_size, (sigma / 2, sigma))
    theirs = torchvision(functional.gaussian_blur, pixels, [kernel_size] * 2, [float(blur.draw(key))] * 2)
    np.testing.assert_allclose(blur({"image": jnp.asarray(pixels)}, key)["image"], theirs, atol=2e-6)


@pytest.mark.parametrize("factor", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("size", [(13, 11), (4, 6), (3, 6), (7, 7)])
def test_sharpness(factor, size, functional):
    pixels = np.random.default_rng(0).random((*size, 3), np.float32)
    theirs = torchvision(functional.adjust_sharpness, pixels, factor)
    np.testing.assert_allclose(ours(adjust_sharpness, pixels, jnp.float32(factor)), theirs, atol=1e-6)


def test_erasing_of_the_drawn_rectangle(functional):
    import torch

    pixels, erasing = image(), RandomErasing(1.0)
    for seed in range(10):
        top, left, height, width = (int(x) for x in erasing.draw(jax.random.key(seed), pixels.shape[:2]))
        value = torch.tensor([0.3, 0.2, 0.1])[:, None, None]
        theirs = torchvision(functional.erase, pixels, top, left, height, width, value)
        rectangle = jnp.asarray([top, left, height, width], jnp.int32)
        result = ours(erase, pixels, rectangle, jnp.asarray([[[0.3, 0.2, 0.1]]], jnp.float32))
        np.testing.assert_array_equal(result, theirs)


def test_erased_areas_are_distributed_as_torchvisions(functional):
    import torch
    from torchvision.transforms import RandomErasing as Theirs

    size, n = (40, 60), 1500
    draw = jax.jit(jax.vmap(lambda key: RandomErasing().draw(key, size)))
    mine = np.asarray(draw(jax.random.split(jax.random.key(0), n)), float)
    torch.manual_seed(0)
    blank = torch.zeros(3, *size)
    theirs = np.array([Theirs.get_params(blank, (0.02, 0.33), (0.3, 3.3), [0.0])[:4] for _ in range(n)], float)
    for column in range(4):
        spread = theirs[:, column].std()
        assert abs(mine[:, column].mean() - theirs[:, column].mean()) < 0.12 * spread
        assert abs(mine[:, column].std() - spread) < 0.08 * spread
