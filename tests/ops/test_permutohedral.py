"""The permutohedral lattice: corners and neighbours by a dictionary, its Gaussian against the exact one."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.ops.permutohedral import _elevation, _simplices, lattice_filter, permutohedral_lattice
from tests.conftest import strict


@pytest.mark.parametrize("dimensions", [1, 2, 5])
def test_corners_surround_each_point_and_neighbours_are_those_of_a_dictionary(dimensions):
    features = jnp.asarray(np.random.default_rng(0).normal(size=(60, dimensions)) * 2, jnp.float32)
    with strict():
        coordinates, weights = (np.asarray(a) for a in _simplices(features))
        lattice = permutohedral_lattice(features)
    size = dimensions + 1
    np.testing.assert_array_equal(coordinates.sum(-1), 0)
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-5)
    assert weights.min() > -1e-5
    place = np.einsum("nkd,nk->nd", coordinates, weights)
    np.testing.assert_allclose(place, np.asarray(features) @ _elevation(dimensions), atol=1e-4)
    known = {}
    for i, k in itertools.product(range(60), range(size)):
        known[tuple(coordinates[i, k])] = int(lattice.corners[i, k])
    assert len(known) == len(set(known.values())) == int(lattice.count)
    neighbours = np.asarray(lattice.neighbours)
    for (key, number), axis in itertools.product(known.items(), range(size)):
        step = np.ones(size, int)
        step[axis] -= size
        for sign, way in ((1, 0), (-1, 1)):
            expected = known.get(tuple(np.array(key) + sign * step), lattice.capacity)
            assert neighbours[axis, way, number] == expected


def test_it_is_close_to_the_gaussian_of_a_plane():
    grid = np.stack(np.meshgrid(np.arange(20), np.arange(20)), -1).reshape(-1, 2) / 4.0
    rng = np.random.default_rng(0)
    values = (np.sin(grid).sum(1, keepdims=True) + rng.normal(size=(400, 3)) * 0.1).astype(np.float32)
    kernel = np.exp(-0.5 * ((grid[:, None] - grid[None]) ** 2).sum(-1))
    scale = 1 / np.sqrt(kernel.sum(1, keepdims=True))
    expected = scale * (kernel @ (scale * values))

    @jax.jit
    def smooth(features, values):
        lattice = permutohedral_lattice(features)
        scale = jax.lax.rsqrt(lattice_filter(lattice, jnp.ones((len(values), 1))))
        return scale * lattice_filter(lattice, scale * values)

    with strict():
        found = np.asarray(smooth(jnp.asarray(grid, jnp.float32), jnp.asarray(values)))
    error = np.sqrt(np.mean((found - expected) ** 2)) / expected.std()
    assert error < 0.1


def test_corners_beyond_the_capacity_are_counted_and_left_out():
    features = jnp.asarray(np.random.default_rng(0).normal(size=(40, 3)) * 10, jnp.float32)
    lattice = permutohedral_lattice(features, 16)
    assert lattice.capacity == 16 < int(lattice.count)
    out = lattice_filter(lattice, jnp.ones((40, 2)))
    assert np.isfinite(out).all() and (np.asarray(out) == 0).any()


def test_shapes_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"takes \[N, D\]"):
        permutohedral_lattice(jnp.ones((2, 3, 4)))
    with pytest.raises(ValueError, match="capacity=0"):
        permutohedral_lattice(jnp.ones((2, 3)), 0)
    with pytest.raises(ValueError, match="for 2 points"):
        lattice_filter(permutohedral_lattice(jnp.ones((2, 3))), jnp.ones((3, 1)))
