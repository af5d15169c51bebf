"""What transforms of pixel values share: units, channel planes, and whether to apply one at all.

Images are `[h, w, c]`, uint8 in 0..255 or floating-point in 0..1. The transforms compute on float32 planes `[c, h, w]`,
0..1, because an inner loop over whole rows is faster than one over three channels: a turn of the hue did 2,900 images
of 224x224 a second in place of 2,200 on two CPU cores.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, Shaped, UInt32

_CHANCE = 0x70726F62
"""Folded into a transform's key to decide whether it is applied; far from the numbers that `jax.random.split` uses."""


def to_float(image: Shaped[Array, "h w c"]) -> Float[Array, "h w c"]:
    """float32; uint8 becomes 0..1, floating-point values stay as they are."""
    if image.dtype == jnp.uint8:
        return image.astype(jnp.float32) / 255.0
    if not jnp.issubdtype(image.dtype, jnp.floating):
        raise TypeError(f"image is {image.dtype}: expected uint8 in 0..255 or floating-point in 0..1")
    return image.astype(jnp.float32)


def from_float(image: Float[Array, "h w c"], dtype: Any) -> Shaped[Array, "h w c"]:
    """Back from 0..1; uint8 is rounded to the nearest."""
    return jnp.round(image * 255.0).astype(dtype) if dtype == jnp.uint8 else image.astype(dtype)


def to_planes(image: Shaped[Array, "h w c"]) -> Float[Array, "c h w"]:
    """`to_float`, one plane per channel."""
    return barrier(jnp.transpose(to_float(image), (2, 0, 1)))


def from_planes(planes: Float[Array, "c h w"], dtype: Any) -> Shaped[Array, "h w c"]:
    """`from_float`, channels last."""
    return jnp.transpose(barrier(from_float(planes, dtype)), (1, 2, 0))


def barrier(x: Array) -> Array:
    """What comes before is computed once, and not again in each thing that reads it."""
    return jax.lax.optimization_barrier(x)


def noise_bits(key: PRNGKeyArray, shape: tuple[int, ...]) -> UInt32[Array, "..."]:
    """Random words for the pixels of one image, about ten times as fast on the CPU as `jax.random.bits`.

    Each is a hash of its place and of two words from the key: twice the integer mixer "lowbias32" (Wellons 2018).
    """
    seeds = jax.random.bits(key, (2,), jnp.uint32)
    words = jnp.arange(math.prod(shape), dtype=jnp.uint32)
    for seed in seeds:
        words = (words ^ seed) * np.uint32(0x9E3779B1)
        words = (words ^ (words >> 16)) * np.uint32(0x7FEB352D)
        words = (words ^ (words >> 15)) * np.uint32(0x846CA68B)
        words = words ^ (words >> 16)
    return words.reshape(shape)


def uniform_noise(key: PRNGKeyArray, shape: tuple[int, ...]) -> Float[Array, "..."]:
    """float32 in [0, 1), in steps of 2**-24."""
    return (noise_bits(key, shape) >> 8).astype(jnp.float32) * np.float32(2**-24)


def normal_noise(key: PRNGKeyArray, shape: tuple[int, ...]) -> Float[Array, "..."]:
    """Standard normal float32, at most about 5.4 deviations from 0."""
    uniform = uniform_noise(key, shape) + np.float32(2**-25)
    return np.float32(2**0.5) * jax.lax.erf_inv(2.0 * uniform - 1.0)


def sometimes(key: PRNGKeyArray, probability: float, changed: Array, image: Array) -> Array:
    """`changed` with the given probability, else `image`."""
    if probability >= 1:
        return changed
    return jnp.where(jax.random.bernoulli(jax.random.fold_in(key, _CHANCE), probability), changed, image)


def check_probability(name: str, probability: float) -> None:
    """Raises ValueError, in the name of a transform."""
    if not 0 <= probability <= 1:
        raise ValueError(f"{name}: probability is {probability}, expected 0..1")


def check_range(name: str, what: str, values: tuple[float, ...], low: float, high: float = float("inf")) -> None:
    """Raises ValueError where `values` is no pair in ascending order within `low`..`high`."""
    if len(values) != 2 or not low <= values[0] <= values[1] <= high:
        raise ValueError(f"{name}: {what} is {values}, expected (smallest, largest) within {low:g}..{high:g}")


def check_channels(name: str, image: Shaped[Array, "h w c"]) -> None:
    """Raises ValueError where an image is neither grey nor RGB."""
    if image.shape[-1] not in (1, 3):
        raise ValueError(f"{name}: the image has {image.shape[-1]} channels, expected 1 (grey) or 3 (RGB)")
