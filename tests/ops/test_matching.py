"""Assignment on device against scipy.optimize.linear_sum_assignment."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec
from scipy.optimize import linear_sum_assignment as scipy_assignment

from jaxvision.ops.matching import linear_sum_assignment
from tests.conftest import strict


@functools.cache
def program():
    return jax.jit(jax.vmap(linear_sum_assignment))


def assign(costs, rows=None, columns=None):
    """A batch of problems of one shape."""
    b, n, m = costs.shape
    rows = np.ones((b, n), bool) if rows is None else rows
    columns = np.ones((b, m), bool) if columns is None else columns
    with strict():
        partner, matched = map(np.asarray, program()(costs, rows, columns))
    assert partner.dtype == np.int32 and partner.shape == matched.shape == (b, n) and (partner[~matched] == 0).all()
    for i in range(b):
        used = partner[i][matched[i]]
        assert len(set(used)) == len(used) and rows[i][matched[i]].all() and columns[i][used].all()
        assert len(used) == min(rows[i].sum(), columns[i].sum())
        want = costs[i][rows[i]][:, columns[i]].astype(np.float64)
        total = costs[i][np.flatnonzero(matched[i]), used].astype(np.float64).sum()
        np.testing.assert_allclose(total, want[scipy_assignment(want)].sum(), rtol=1e-5, atol=1e-5)
    return partner, matched


SHAPES = [(12, 12), (5, 17), (17, 5), (1, 6), (6, 1)]


@pytest.mark.parametrize("n,m", SHAPES)
def test_the_total_equals_scipys_on_random_tied_and_masked_costs(n, m):
    rng = np.random.default_rng(n * m)
    costs = np.stack(
        [
            *rng.normal(size=(6, n, m)),
            *rng.integers(0, 3, (6, n, m)),  # ties
            np.zeros((n, m)),
            rng.normal(size=(n, m)) - 1e3,
            np.add.outer(np.arange(n), np.arange(m)) ** 2,
            np.multiply.outer(np.arange(1, n + 1), np.arange(1, m + 1)),  # long alternating paths
        ]
    ).astype(np.float32)
    assign(costs)
    for share in (0.7, 0.3):
        rows, columns = rng.uniform(size=(16, n)) < share, rng.uniform(size=(16, m)) < 0.5
        rows[0], columns[1] = False, False
        assign(costs, rows, columns)


def test_more_valid_rows_than_valid_columns_choose_the_cheapest_rows():
    costs = np.array([[[5, 1, 9, 9], [1, 5, 9, 9], [0, 0, 9, 9]]], np.float32)
    partner, matched = assign(costs, columns=np.array([[True, False, False, False]]))
    np.testing.assert_array_equal(matched, [[False, False, True]])
    np.testing.assert_array_equal(partner, [[0, 0, 0]])


def test_what_padding_holds_does_not_matter():
    costs = np.full((1, 12, 12), np.nan, np.float32)
    costs[0, :3, :2] = [[1, 2], [2, 1], [-9, 9]]
    inside = np.arange(12) < np.array([[3], [2]])
    partner, matched = assign(costs, inside[:1], inside[1:])
    np.testing.assert_array_equal(matched[0], [False, True, True] + [False] * 9)
    np.testing.assert_array_equal(partner[0][:3], [0, 1, 0])


def test_costs_that_are_not_finite_forbid_their_pairs():
    inf, nan = np.inf, np.nan
    costs = np.full((2, 12, 12), 7, np.float32)
    costs[0, :3, :3] = [[1, inf, inf], [0, 5, inf], [0, 1, 9]]
    costs[1, :3, :3] = [[nan, 3, nan], [nan, 2, nan], [nan, nan, -inf]]
    three = np.tile(np.arange(12) < 3, (2, 1))
    with strict():
        partner, matched = map(np.asarray, program()(costs, three, three))
    np.testing.assert_array_equal(partner[0][:3], [0, 1, 2])
    np.testing.assert_array_equal(matched[1][:4], [True, False, False, False])
    assert partner[1][0] == 1


@pytest.mark.parametrize("n,m", [(0, 3), (3, 0), (0, 0)])
def test_empty_problems_match_nothing(n, m):
    partner, matched = linear_sum_assignment(jnp.zeros((n, m)))
    assert partner.shape == matched.shape == (n,) and not matched.any()


@pytest.mark.parametrize("check_vma", [False, True])
def test_works_under_shard_map_and_in_a_gradient(check_vma):
    mesh = jax.make_mesh((2,), ("batch",), axis_types=(AxisType.Auto,))
    costs = np.random.default_rng(0).normal(size=(2, 5, 4)).astype(np.float32)

    def step(costs):
        def loss(costs):
            partner, matched = jax.vmap(linear_sum_assignment)(costs)
            pairs = jnp.take_along_axis(costs, partner[..., None], axis=-1)[..., 0]
            return jnp.where(matched, pairs, 0.0).sum(), (partner, matched)

        gradient, outputs = jax.grad(loss, has_aux=True)(costs)
        return *outputs, gradient

    spec = PartitionSpec("batch")
    mapped = jax.shard_map(step, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=check_vma)
    with strict():
        partner, matched, gradient = map(np.asarray, jax.jit(mapped)(costs))
    for i in range(2):
        rows, columns = scipy_assignment(costs[i])
        np.testing.assert_array_equal(np.flatnonzero(matched[i]), rows)
        np.testing.assert_array_equal(partner[i][rows], columns)
        assert (gradient[i][rows, columns] == 1).all() and gradient[i].sum() == 4


def test_errors_name_what_was_given():
    with pytest.raises(ValueError, match=r"vmap it over images.*got the shapes \[\(2, 3, 4\), None, None\]"):
        linear_sum_assignment(jnp.zeros((2, 3, 4)))
    with pytest.raises(ValueError, match=r"\[\(3, 4\), \(4,\), None\]"):
        linear_sum_assignment(jnp.zeros((3, 4)), jnp.ones(4, bool))
