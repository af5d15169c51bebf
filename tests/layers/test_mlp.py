"""The perceptron of transformer blocks and layer scale."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import norm

from jaxvision import layers
from tests.conftest import strict


def test_gelu_is_the_exact_one():
    x = np.linspace(-6, 6, 101, dtype=np.float32)
    np.testing.assert_allclose(layers.gelu(x), x * norm.cdf(x), atol=2e-6)
    assert np.isfinite(jax.vmap(jax.grad(layers.gelu))(jnp.float32([-1e4, 0, 1e4]))).all()


def test_mlp_equals_numpy_and_keeps_the_type():
    x = np.random.default_rng(0).standard_normal((2, 3, 4), np.float32)
    model = layers.Mlp(8, out=5)
    with strict():
        y, variables = model.init_with_output(jax.random.key(0), jnp.asarray(x))
        half = model.apply(variables, jnp.asarray(x, jnp.bfloat16))
    p = jax.tree.map(np.asarray, variables["params"])
    hidden = x @ p["fc1"]["kernel"] + p["fc1"]["bias"]
    want = hidden * norm.cdf(hidden) @ p["fc2"]["kernel"] + p["fc2"]["bias"]
    np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-5)
    assert half.dtype == jnp.bfloat16


def test_layer_scale_multiplies_channels_by_its_initial_value():
    x = jnp.ones((2, 3, 4), jnp.bfloat16)
    with strict():
        y, variables = layers.LayerScale(0.5).init_with_output(jax.random.key(0), x)
    assert y.dtype == jnp.bfloat16 and variables["params"]["gamma"].shape == (4,)
    np.testing.assert_array_equal(y, 0.5)
