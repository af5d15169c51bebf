"""The linear layer of whole maps is a convolution whose kernel covers the map."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision import layers
from tests.conftest import strict


def test_it_equals_a_convolution_of_the_size_of_the_map_with_the_same_parameters():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 3, 4, 5), np.float32))
    dense, conv = layers.FlatDense(6), layers.Conv(6, (3, 4), padding=0)
    with strict():
        variables = dense.init(jax.random.key(0), x)
        ours, half = dense.apply(variables, x), dense.apply(variables, x.astype(jnp.bfloat16))
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, conv.init(jax.random.key(1), x))
    np.testing.assert_allclose(ours, conv.apply(variables, x)[:, 0, 0], atol=1e-5)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(jnp.float32), ours, atol=5e-2)


def test_an_array_that_is_no_map_is_an_error():
    with pytest.raises(ValueError, match=r"shape \(2, 3\); it takes \[B, H, W, C\]"):
        layers.FlatDense(4).init(jax.random.key(0), jnp.zeros((2, 3)))
