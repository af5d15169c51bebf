"""Self-attention against its definition, gated perceptrons, position embeddings on their own grid."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision import layers
from tests.backbones.fill import fill
from tests.conftest import strict


def normal(*shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def test_attention_equals_its_definition_with_a_bias_and_leading_axes():
    query, key, value, bias = normal(2, 3, 4, 5, 8), normal(2, 3, 4, 6, 8), normal(2, 3, 4, 6, 7), normal(3, 4, 5, 6)
    weights = np.exp(np.einsum("abhnd,abhmd->abhnm", query, key) / np.sqrt(8) + bias)
    expected = np.einsum("abhnm,abhme->abhne", weights / weights.sum(-1, keepdims=True), value)
    with strict():
        ours = jax.jit(layers.attend)(*map(jnp.asarray, (query, key, value, bias)))
        half = jax.jit(layers.attend)(*(jnp.asarray(x, jnp.bfloat16) for x in (query, key, value)), jnp.asarray(bias))
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)
    assert half.dtype == jnp.bfloat16
    assert np.linalg.norm(np.asarray(half, np.float32) - expected) < 2e-2 * np.linalg.norm(expected)


def test_self_attention_is_that_of_jax_after_one_joint_projection():
    x = jnp.asarray(normal(2, 7, 12))
    model = layers.SelfAttention(3)
    variables = fill(model, x)
    qkv, proj = variables["params"]["qkv"], variables["params"]["proj"]
    with strict():
        ours = jax.jit(model.apply)(variables, x)
    query, key, value = jnp.split((x @ qkv["kernel"] + qkv["bias"][None, None]).reshape(2, 7, 9, 4), 3, axis=2)
    y = jax.nn.dot_product_attention(query, key, value).reshape(2, 7, 12)
    np.testing.assert_allclose(ours, y @ proj["kernel"] + proj["bias"][None, None], rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="heads=5 for 12 channels: not divisible"):
        layers.SelfAttention(5).init(jax.random.key(0), x)


def test_a_gated_perceptron_multiplies_the_halves_of_its_first_layer():
    x = jnp.asarray(normal(2, 6))
    model = layers.GatedMlp(4)
    variables = fill(model, x)
    first, second = variables["params"]["fc1"], variables["params"]["fc2"]
    gate, y = jnp.split(x @ first["kernel"] + first["bias"][None], 2, axis=-1)
    expected = (gate / (1 + jnp.exp(-gate)) * y) @ second["kernel"] + second["bias"][None]
    np.testing.assert_allclose(jax.jit(model.apply)(variables, x), expected, rtol=1e-4, atol=1e-5)


def test_positions_on_their_own_grid_are_untouched_and_a_wrong_grid_is_told():
    embedding = jnp.asarray(normal(1, 13, 4))
    assert layers.resample_position_embedding(embedding, (3, 4), (3, 4), prefix=1) is embedding
    with pytest.raises(ValueError, match=r"shape \(1, 13, 4\); a grid of \(3, 4\) with 0 entries"):
        layers.resample_position_embedding(embedding, (3, 4), (6, 8))
