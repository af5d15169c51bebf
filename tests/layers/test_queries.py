"""What detectors with queries are made of: attention to another sequence, position embeddings, deformable attention."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.layers import DeformableAttention, MultiHeadAttention, sine_position_embedding
from tests.conftest import strict

pytestmark = pytest.mark.usefixtures("unoptimized")


def test_attention_is_that_of_loops_and_sees_no_padding():
    rng = np.random.default_rng(0)
    query, key, value = (rng.normal(size=(2, n, 6)).astype(np.float32) for n in (3, 4, 4))
    real = np.array([[True, True, False, True], [False] * 4])
    layer = MultiHeadAttention(heads=2)
    with strict():
        variables = layer.init(jax.random.key(0), *map(jnp.asarray, (query, key, value)))
        variables = jax.tree.map(lambda x: x + 0.1, variables)
        outputs = layer.apply(variables, *map(jnp.asarray, (query, key, value, real)))
    into, out = (variables["params"][name] for name in ("in_proj", "out_proj"))
    kernels, biases = np.split(np.asarray(into["kernel"]), 3, axis=1), np.split(np.asarray(into["bias"]), 3)
    q, k, v = (x @ w + b for x, w, b in zip((query, key, value), kernels, biases, strict=True))
    expected = np.zeros((3, 6))
    for head, row in np.ndindex(2, 3):
        own = slice(3 * head, 3 * head + 3)
        scores = np.exp(k[0][real[0], own] @ q[0, row, own] / math.sqrt(3))
        expected[row, own] = scores / scores.sum() @ v[0][real[0], own]
    expected = expected @ np.asarray(out["kernel"]) + np.asarray(out["bias"])
    np.testing.assert_allclose(outputs[0], expected, atol=1e-5)
    assert np.isfinite(outputs[1]).all()
    with pytest.raises(ValueError, match="heads=4 for 6 channels"):
        MultiHeadAttention(heads=4).init(jax.random.key(0), *map(jnp.asarray, (query, key, value)))


def test_attention_weights_are_dropped_in_training_alone():
    x = jnp.ones((1, 4, 4))
    layer = MultiHeadAttention(heads=2, dropout=0.5)
    variables = layer.init(jax.random.key(0), x, x, x)
    plain = layer.apply(variables, x, x, x)
    dropped = layer.apply(variables, x, x, x, train=True, rngs={"dropout": jax.random.key(1)})
    assert np.abs(np.asarray(plain - dropped)).max() > 1e-3


@pytest.mark.parametrize("offset", [0.0, -0.5])
def test_positions_are_shares_of_the_real_cells(offset):
    real = np.zeros((1, 3, 5), bool)
    real[:, :2, :4] = True
    with strict():
        embedding = sine_position_embedding(jnp.asarray(real), 8, offset=offset)
    assert embedding.shape == (1, 3, 5, 8) and embedding.dtype == jnp.float32
    for row, column in np.ndindex(2, 4):
        angles = 2 * math.pi * (row + 1 + offset) / 2, 2 * math.pi * (column + 1 + offset) / 4
        waves = [wave(a / period) for a in angles for period in (1, 100) for wave in (math.sin, math.cos)]
        np.testing.assert_allclose(embedding[0, row, column], waves, atol=1e-5)
    assert jnp.isfinite(sine_position_embedding(jnp.zeros((1, 2, 2), bool), 4)).all()
    with pytest.raises(ValueError, match="channels=6: expected a multiple of 4"):
        sine_position_embedding(jnp.asarray(real), 6)


def test_deformable_attention_begins_with_a_ring_around_each_place():
    """Four heads look right, down, left and up; with identity projections each finds the mean of what lies there."""
    shapes, rng = ((8, 8),), np.random.default_rng(0)
    values = rng.normal(size=(1, 64, 4)).astype(np.float32)
    layer = DeformableAttention(heads=4, points=2)
    place = jnp.full((1, 1, 1, 2), 3.5 / 8)  # the centre of the fourth row and column
    arguments = jnp.zeros((1, 1, 4)), place, jnp.asarray(values), shapes
    variables = layer.init(jax.random.key(0), *arguments)
    for name in ("value_proj", "output_proj"):
        variables["params"][name]["kernel"] = jnp.eye(4)
    with strict():
        outputs = layer.apply(variables, *arguments)
        empty = layer.apply(variables, *arguments, jnp.zeros((1, 64), bool))
    cells = values.reshape(8, 8, 4)
    ways = [(0, 1), (1, 0), (0, -1), (-1, 0)]
    expected = [np.mean([cells[3 + y * n, 3 + x * n, head] for n in (1, 2)]) for head, (y, x) in enumerate(ways)]
    np.testing.assert_allclose(outputs[0, 0], expected, atol=1e-5)
    np.testing.assert_array_equal(empty, np.zeros((1, 1, 4)))
    with pytest.raises(ValueError, match="heads=3 for 4 channels"):
        DeformableAttention(heads=3).init(jax.random.key(0), *arguments)
