"""Weighted gathers and grid sampling against loops in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.ops import gather
from jaxvision.ops.gather import weighted_gather
from jaxvision.ops.grid_sample import grid_sample
from tests.conftest import strict

RNG = np.random.default_rng(0)
START = RNG.bit_generator.state


@pytest.fixture(autouse=True)
def _same_numbers_in_any_order():
    RNG.bit_generator.state = START


def random(shape):
    return RNG.standard_normal(shape, np.float32)


@pytest.mark.parametrize("taps,rows", [(4, 7), (34, 3), (5, 100)])
def test_a_weighted_gather_and_its_gradients_are_the_product_with_a_sparse_matrix(taps, rows, monkeypatch):
    monkeypatch.setattr(gather, "_UPDATES", 200)  # several blocks, the last one not full
    values, weights, g = random((11, 3)), random((rows, taps)), random((rows, 3))
    index = RNG.integers(0, 11, (rows, taps)).astype(np.int32)
    matrix = np.zeros((rows, 11))
    np.add.at(matrix, (np.arange(rows)[:, None], index), weights)
    with strict():
        out, pullback = jax.vjp(lambda v, w: weighted_gather(v, index, w), values, weights)
        to_values, to_weights = pullback(g)
    np.testing.assert_allclose(out, matrix @ values, atol=1e-5)
    np.testing.assert_allclose(to_values, matrix.T @ g, atol=1e-5)
    np.testing.assert_allclose(to_weights, np.einsum("nc,ntc->nt", g, values[index]), atol=1e-5)


def test_a_weighted_gather_is_batched_and_keeps_bfloat16():
    values, weights = random((2, 5, 3)), random((2, 4, 2))
    index = RNG.integers(0, 5, (2, 4, 2)).astype(np.int32)
    with strict():
        out = jax.vmap(weighted_gather)(values, index, weights)
        half, pullback = jax.vjp(lambda v: weighted_gather(v, index[0], weights[0]), values[0].astype(jnp.bfloat16))
        assert half.dtype == jnp.bfloat16 and pullback(half)[0].dtype == jnp.bfloat16
        assert weighted_gather(values[0], index[0, :0], weights[0, :0]).shape == (0, 3)
    np.testing.assert_allclose(out[1], np.einsum("ntc,nt->nc", values[1][index[1]], weights[1]), atol=1e-5)


def oracle(x, grid, method, padding, align_corners):
    height, width, channels = x.shape[1:]
    out = np.zeros((*grid.shape[:3], channels))
    for b, i, j in np.ndindex(*grid.shape[:3]):
        place = [(float(v) + 1) / 2 for v in grid[b, i, j]]
        sides = (width, height)
        u, v = (p * (n - 1) if align_corners else p * n - 0.5 for p, n in zip(place, sides, strict=True))
        if padding == "border":
            u, v = (min(max(p, 0), n - 1) for p, n in zip((u, v), sides, strict=True))
        if method == "nearest":
            u, v = np.round(u), np.round(v)
        for row in (int(np.floor(v)), int(np.floor(v)) + 1):
            for column in (int(np.floor(u)), int(np.floor(u)) + 1):
                if 0 <= row < height and 0 <= column < width:
                    out[b, i, j] += (1 - abs(v - row)) * (1 - abs(u - column)) * x[b, row, column]
    return out


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("padding", ["zeros", "border"])
@pytest.mark.parametrize("method", ["bilinear", "nearest"])
def test_grid_sample_equals_a_loop_also_outside(method, padding, align_corners):
    x, grid = random((2, 4, 5, 3)), (RNG.uniform(-1.6, 1.6, (2, 6, 3, 2))).astype(np.float32)
    grid[0, 0] = [[-1, -1], [1, 1], [0, 1e30]]
    options = dict(method=method, padding=padding, align_corners=align_corners)
    with strict():
        out = jax.jit(lambda x, grid: grid_sample(x, grid, **options))(x, grid)
    np.testing.assert_allclose(out, oracle(x, grid, method, padding, align_corners), atol=1e-5)


@pytest.mark.parametrize("padding", ["zeros", "border"])
def test_places_that_are_not_numbers_give_zeros_and_finite_gradients(padding):
    grid = np.full((1, 1, 3, 2), [[np.nan, 0], [np.inf, 0], [0, -np.inf]], np.float32)
    with strict():
        out, pullback = jax.vjp(
            lambda x, g: grid_sample(x, g, padding=padding), np.ones((1, 1, 1, 2), np.float32), grid
        )
        gradients = pullback(np.ones_like(out))
    assert not out.any() and all(np.isfinite(g).all() for g in gradients)


def test_bad_arguments_are_told():
    with pytest.raises(ValueError, match=r"takes \[B, H, W, C\]"):
        grid_sample(jnp.ones((1, 2, 2, 1)), jnp.ones((2, 2, 2, 2)))
    with pytest.raises(ValueError, match="method='cubic'"):
        grid_sample(jnp.ones((1, 2, 2, 1)), jnp.ones((1, 2, 2, 2)), method="cubic")
