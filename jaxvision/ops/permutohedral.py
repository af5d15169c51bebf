"""Gaussian filter of scattered points by the permutohedral lattice (Adams, Baek and Davis 2010), with static shapes.

Each of `n` points lies in a simplex of the lattice A*_d and has d + 1 corners. Values are spread to the corners,
blurred along the d + 1 axes of the lattice, and read back: O(n d^2) instead of O(n^2). Corners that exist are found by
sorting two 32-bit hashes of their coordinates. A hash is linear in the coordinates, so that of a neighbour is a sum and
no coordinates are kept. Placing is the expensive part, and serves any number of filterings.

Scaling and blur are those of the authors' code and of densecrf, whose constant factors are left out: callers normalise.
It is an approximation: neighbours that are no corner of any point lose what would have flowed through them.
"""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt32

MULTIPLIERS = np.random.default_rng(0).integers(1, 2**32, (2, 16), dtype=np.uint64).astype(np.uint32) | np.uint32(1)
"""Of the two hashes, by coordinate."""


@flax.struct.dataclass
class Lattice:
    """Where points lie in the lattice. Corners are numbered in the order of their hashes; `capacity` stands for none.

    Attributes:
      corners: of each point.
      weights: barycentric coordinates of each point; their sum is 1.
      neighbours: of each corner, one step forwards and backwards on each axis of the lattice.
      count: corners that the points need; those beyond `capacity` are left out, with what points give to them.
    """

    corners: Int[Array, "n d1"]
    weights: Float[Array, "n d1"]
    neighbours: Int[Array, "d1 2 m"]
    count: Int[Array, ""]

    @property
    def capacity(self) -> int:
        """Corners that can be kept."""
        return self.neighbours.shape[-1]


def permutohedral_lattice(features: Float[Array, "n d"], capacity: int | None = None) -> Lattice:
    """The lattice of points with standard deviation 1 in every direction; no gradients flow into `features`.

    Args:
      features: positions in units of the Gaussian's standard deviation.
      capacity: corners that are kept; None: n * (d + 1), as many as there can be. Real images need a fraction.

    Raises:
      ValueError: features of another rank, of no or more than 15 dimensions; a capacity below 1.
    """
    if features.ndim != 2 or not 1 <= features.shape[1] < MULTIPLIERS.shape[1] or not features.shape[0]:
        raise ValueError(
            f"permutohedral_lattice got features of shape {features.shape}; it takes [N, D], D from 1 to 15"
        )
    points, dimensions = features.shape
    capacity = points * (dimensions + 1) if capacity is None else min(capacity, points * (dimensions + 1))
    if capacity < 1:
        raise ValueError(f"permutohedral_lattice got capacity={capacity}; it takes at least 1")
    coordinates, weights = _simplices(jax.lax.stop_gradient(features.astype(jnp.float32)))
    first, second = (_hash(coordinates, m).reshape(-1) for m in MULTIPLIERS)
    order = jnp.arange(first.size, dtype=jnp.int32)
    first, second, order = jax.lax.sort((first, second, order), num_keys=2)
    new = jnp.concatenate(
        [jnp.ones(1, jnp.bool_), (first[1:] != first[:-1]) | (second[1:] != second[:-1])],
    )
    number = jnp.cumsum(new.astype(jnp.int32)) - 1
    corners = jnp.zeros_like(order).at[order].set(jnp.minimum(number, capacity), unique_indices=True)
    kept = jnp.where(new, number, capacity)
    nothing = jnp.full(capacity, np.uint32(2**32 - 1))
    first, second = (nothing.at[kept].set(hashes, mode="drop") for hashes in (first, second))
    count = number[-1] + 1
    return Lattice(corners.reshape(weights.shape), weights, _neighbours(first, second, count, dimensions), count)


def lattice_filter(lattice: Lattice, values: Float[Array, "n c"]) -> Float[Array, "n c"]:
    """Values of the points, spread by the Gaussian and read where the points are; linear in `values`.

    float32 inside, the dtype of `values`. A point's own value comes back, too. Up to a constant factor.
    """
    if values.ndim != 2 or values.shape[0] != lattice.corners.shape[0]:
        raise ValueError(f"lattice_filter got values of shape {values.shape} for {lattice.corners.shape[0]} points")
    y = values.astype(jnp.float32)
    table = jnp.zeros((lattice.capacity, y.shape[1]), jnp.float32)
    for corner in range(lattice.corners.shape[1]):
        table = table.at[lattice.corners[:, corner]].add(lattice.weights[:, corner, None] * y, mode="drop")
    for ahead, behind in lattice.neighbours:
        table = table + np.float32(0.5) * (_rows(table, ahead) + _rows(table, behind))
    out = jnp.zeros_like(y)
    for corner in range(lattice.corners.shape[1]):
        out = out + lattice.weights[:, corner, None] * _rows(table, lattice.corners[:, corner])
    return out.astype(values.dtype)


def _rows(table: Float[Array, "m c"], index: Int[Array, " n"]) -> Float[Array, "n c"]:
    return table.at[index].get(mode="fill", fill_value=0.0)


def _simplices(features: Float[Array, "n d"]) -> tuple[Int[Array, "n corners coordinates"], Float[Array, "n corners"]]:
    """Integer coordinates and weights of the d + 1 corners around each point (section 3.1 and p. 10 of the paper)."""
    size = features.shape[1] + 1
    elevated = jnp.matmul(features, _elevation(size - 1), precision=jax.lax.Precision.HIGHEST)
    nearest = jnp.round(elevated / size)  # of all coordinates that are multiples of d + 1
    rest = elevated - nearest * size
    earlier = np.tril(np.ones((size, size), np.bool_), -1)
    ahead = (rest[:, None, :] > rest[:, :, None]) | ((rest[:, None, :] == rest[:, :, None]) & earlier[None])
    rank = jnp.sum(ahead, axis=-1).astype(jnp.int32)  # 0: the largest
    # Where the roundings do not sum to 0 the point is beside the plane: the coordinates furthest off step back.
    rank = rank + jnp.sum(nearest, axis=-1, keepdims=True).astype(jnp.int32)
    step = (rank < 0).astype(jnp.int32) - (rank >= size).astype(jnp.int32)
    rank = rank + step * size
    origin = (nearest.astype(jnp.int32) + step) * size
    rest = (elevated - origin.astype(jnp.float32)) / size
    corner = np.arange(size, dtype=np.int32)
    # Corner k adds k to the coordinates that rank low and k - (d + 1) to the k that rank last.
    beyond = rank[:, None, :] > (size - 1 - corner)[None, :, None]
    coordinates = origin[:, None, :] + corner[None, :, None] - beyond.astype(jnp.int32) * size
    ordered = jnp.take_along_axis(rest, jnp.argsort(rank, axis=-1), axis=-1)  # the largest first
    falling = ordered[:, :-1] - ordered[:, 1:]
    first = 1 - (ordered[:, :1] - ordered[:, -1:])
    return coordinates, jnp.concatenate([first, falling[:, ::-1]], axis=-1)


def _elevation(dimensions: int) -> Float[np.ndarray, "d d1"]:
    """Maps features to the plane of the lattice; a blur's variance there is 2/3 (d + 1)^2 (p. 5 and 6 of the paper)."""
    matrix = np.zeros((dimensions, dimensions + 1))
    for i in range(dimensions):
        matrix[i, : i + 1], matrix[i, i + 1] = 1, -(i + 1)
        matrix[i] *= np.sqrt(2 / 3) * (dimensions + 1) / np.sqrt((i + 1) * (i + 2))
    return matrix.astype(np.float32)


def _hash(coordinates: Int[Array, "*b d1"], multipliers: UInt32[np.ndarray, " m"]) -> UInt32[Array, "*b"]:
    """Modulo 2^32. The last coordinate follows from the others: their sum is 0."""
    product = jax.lax.bitcast_convert_type(coordinates[..., :-1], jnp.uint32)
    factors = multipliers[: coordinates.shape[-1] - 1].reshape((1,) * (coordinates.ndim - 1) + (-1,))
    return jnp.sum(product * factors, axis=-1, dtype=jnp.uint32)


def _neighbours(
    first: UInt32[Array, " m"], second: UInt32[Array, " m"], count: Int[Array, ""], dimensions: int
) -> Int[Array, "d1 2 m"]:
    """Numbers of the corners one step away on each axis, from the sorted hashes; `m` where there is none."""
    size, capacity = dimensions + 1, first.shape[0]
    steps = np.ones((size, size), np.int32) - np.eye(size, dtype=np.int32) * size
    number = jnp.arange(capacity, dtype=jnp.int32)
    found = []
    for axis in range(size):
        a, b = (
            hashes + _hash(jnp.asarray(steps[axis]), m) for hashes, m in zip((first, second), MULTIPLIERS, strict=True)
        )
        place = jnp.searchsorted(first, a).astype(jnp.int32)
        ahead = jnp.full_like(place, capacity)
        for offset in (1, 0):  # two corners may share the first hash; three practically never do
            at = place + offset
            there = jnp.minimum(at, capacity - 1)
            same = (first[there] == a) & (second[there] == b) & (at < count) & (number < count)
            ahead = jnp.where(same, there, ahead)
        behind = jnp.full_like(ahead, capacity).at[ahead].set(number, mode="drop")
        found.append(jnp.stack([ahead, behind]))
    return jnp.stack(found)
