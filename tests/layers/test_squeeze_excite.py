"""Squeeze-and-excitation against numpy."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxvision import layers
from tests.backbones.fill import fill
from tests.conftest import strict


def test_channels_are_scaled_by_a_gate_of_their_means():
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 6), np.float32)
    module = layers.SqueezeExcite(2)
    variables = fill(module, jnp.asarray(x))
    with strict():
        y = jax.jit(module.apply)(variables, jnp.asarray(x))
        half = jax.jit(module.apply)(variables, jnp.asarray(x, jnp.bfloat16))
    p = jax.tree.map(np.asarray, variables["params"])
    hidden = np.maximum(x.mean(axis=(1, 2)) @ p["fc1"]["kernel"][0, 0] + p["fc1"]["bias"], 0)
    gate = 1 / (1 + np.exp(-(hidden @ p["fc2"]["kernel"][0, 0] + p["fc2"]["bias"])))
    np.testing.assert_allclose(y, x * gate[:, None, None], rtol=1e-5, atol=1e-6)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(jnp.float32), y, rtol=0.05, atol=0.02)
