"""Minimum-cost bipartite matching inside the program (the Hungarian matching of DETR and its kin)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def linear_sum_assignment(
    cost: Float[Array, "n m"],
    row_valid: Bool[Array, " n"] | None = None,
    column_valid: Bool[Array, " m"] | None = None,
) -> tuple[Int[Array, " n"], Bool[Array, " n"]]:
    """Pairs as many rows with columns as there are of the fewer, each at most once, at the lowest total cost.

    Exact, by shortest augmenting paths (Jonker and Volgenant 1987; in the form of Crouse 2016, which scipy has): the
    valid rows of the shorter axis join the matching one by one, each along a cheapest alternating path. The total
    equals scipy.optimize.linear_sum_assignment's up to float32 rounding; of equally cheap matchings it may be another.

    With r <= c the lengths of the two axes and k valid rows of the shorter: O(k r c) time in the worst case, usually
    little more than k steps of O(c) work, one after the other, and O(r c) memory. Padding of the shorter axis costs
    nothing. `vmap` it over images: the loops then run as long as the slowest image needs. No gradient passes.

    Args:
      cost: any sign. A cost that is not finite (inf, NaN) forbids its pair; of the rows or columns of the shorter axis
        that then cannot be matched, those given later stay alone.
      row_valid, column_valid: which rows and columns take part; None takes all.

    Returns:
      For each row its column (int32), and whether it has one. The others are padding: column 0, not matched.

    Raises:
      ValueError: a cost that is no matrix, or masks of other lengths.
    """
    row_valid, column_valid = _check(cost, row_valid, column_valid)
    n, m = cost.shape
    if 0 in cost.shape:
        return jnp.zeros(n, jnp.int32), jnp.zeros(n, bool)
    cost = jax.lax.stop_gradient(cost).astype(jnp.float32)
    if n > m:
        _, partner = _augment_all(cost.T, column_valid, row_valid)
        matched = (partner >= 0) & row_valid
    else:
        partner, _ = _augment_all(cost, row_valid, column_valid)
        matched = (partner >= 0) & column_valid[partner]
    return jnp.where(matched, partner, 0), matched


def _augment_all(cost: Array, row_valid: Array, column_valid: Array) -> tuple[Array, Array]:
    """For rows <= columns: the column of each row and the row of each column; -1 for none.

    Valid rows beyond the number of valid columns find free places in as many columns that are not valid.
    """
    surplus = row_valid.sum() - column_valid.sum()
    spare = ~column_valid & (jnp.cumsum(~column_valid) <= surplus)
    free = jnp.where(spare, 0.0, jnp.inf)[None, :]
    cost = jnp.where(column_valid[None, :] & jnp.isfinite(cost), cost, free)
    # A constant per row changes no choice; less of it leaves more bits for the differences.
    lowest = jnp.min(cost, axis=1, keepdims=True)
    cost = cost - jnp.where(jnp.isfinite(lowest), lowest, 0.0)
    order = jnp.argsort(~row_valid)

    def add_row(k, state):
        column_of, row_of, price = state
        row = order[k].astype(jnp.int32)
        sink, length, distance, scanned, previous = _shortest_path(cost, row, column_of, row_of, price)
        found = jnp.isfinite(length)
        price = jnp.where(scanned & found, price - (length - distance), price)
        column_of, row_of = _flip(row, sink, found, previous, column_of, row_of)
        return column_of, row_of, price

    nobody = (
        jnp.full_like(cost, -1, jnp.int32, shape=cost.shape[0]),
        jnp.full_like(cost, -1, jnp.int32, shape=cost.shape[1]),
    )
    price = jnp.zeros_like(cost, shape=cost.shape[1])
    column_of, row_of, _ = jax.lax.fori_loop(0, row_valid.sum(), add_row, (*nobody, price))
    return column_of, row_of


def _shortest_path(
    cost: Array, row: Array, column_of: Array, row_of: Array, price: Array
) -> tuple[Array, Array, Array, Array, Array]:
    """Dijkstra from a free row over reduced costs to the nearest free column.

    Returns:
      that column, its distance (inf: there is none), the distance of each column, which of them are settled, and the
      row before each column on its path.
    """

    def unfinished(state):
        _, column, length, *_ = state
        return (row_of[column] >= 0) & jnp.isfinite(length)

    def settle(state):
        row, _, length, distance, scanned, previous = state
        # The cost of a matched pair is price of its row plus price of its column, so the row's needs no storing.
        matched = column_of[row]
        own = jnp.where(matched >= 0, cost[row, matched] - price[matched], 0.0)
        through = length + (cost[row] - price - own)
        shorter = ~scanned & (through < distance)
        distance = jnp.where(shorter, through, distance)
        previous = jnp.where(shorter, row, previous)
        length = jnp.min(jnp.where(scanned, jnp.inf, distance))
        nearest = ~scanned & (distance == length)
        column = jnp.argmax(nearest.astype(jnp.int32) * jnp.where(row_of < 0, 2, 1)).astype(jnp.int32)
        return row_of[column], column, length, distance, scanned | (jnp.arange(len(price)) == column), previous

    far = jnp.full_like(price, jnp.inf)
    start = (row, jnp.zeros_like(row), jnp.zeros_like(price, shape=()), far, jnp.zeros_like(price, bool), row_of)
    state = jax.lax.while_loop(unfinished, settle, settle(start))
    return state[1], *state[2:]


def _flip(
    row: Array, column: Array, found: Array, previous: Array, column_of: Array, row_of: Array
) -> tuple[Array, Array]:
    """Matches along the path back from `column` to `row`, each row letting go of the column it had."""

    def unfinished(state):
        return state[1]

    def step(state):
        column, _, column_of, row_of = state
        owner = previous[column]
        before = column_of[owner]
        return before, owner != row, column_of.at[owner].set(column), row_of.at[column].set(owner)

    return jax.lax.while_loop(unfinished, step, (column, found, column_of, row_of))[2:]


def _check(cost: Array, row_valid: Array | None, column_valid: Array | None) -> tuple[Array, Array]:
    masks = row_valid, column_valid
    if cost.ndim != 2 or any(
        mask is not None and mask.shape != (n,) for mask, n in zip(masks, cost.shape, strict=True)
    ):
        shapes = [cost.shape, *(None if mask is None else mask.shape for mask in masks)]
        raise ValueError(
            "linear_sum_assignment takes a cost [N, M] of one image (vmap it over images) and masks [N] and [M], and "
            f"got the shapes {shapes}"
        )
    rows, columns = (
        jnp.ones_like(cost, bool, shape=n) if mask is None else mask for mask, n in zip(masks, cost.shape, strict=True)
    )
    return rows, columns
