"""Devices: the only file that knows how a per-device function becomes a program on all of them.

One process maps with `jax.pmap`, several with `jit(shard_map)` over a mesh; both run the same program (in jax >= 0.10
`pmap` is a wrapper of exactly that). `jit` runs the whole batch as one program without a mapped axis: the way to debug,
and the third opinion of the equality tests.
"""

import dataclasses
import difflib
from collections.abc import Callable
from functools import cached_property
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

PyTree = Any
AXIS = "batch"
KINDS = ("auto", "pmap", "shard_map", "jit")
SHARED, SPLIT = "shared", "split"
"""How an argument or result lies on the devices: the same on each, or its leading axis split over them."""


@dataclasses.dataclass(frozen=True)
class Parallel:
    """A choice of devices and of the map over them.

    Attributes:
      kind: "pmap", "shard_map" or "jit" ("auto" is resolved by `make_parallel`).
      devices: all devices of all processes that take part.
    """

    kind: str
    devices: tuple[jax.Device, ...]

    @cached_property
    def mesh(self) -> Mesh:
        return Mesh(np.array(self.devices), (AXIS,))

    @property
    def axis_name(self) -> str | None:
        """Name of the mapped axis inside a mapped function; None under plain jit."""
        return None if self.kind == "jit" else AXIS

    @property
    def shares(self) -> int:
        """Number of parts that a global batch is split into."""
        return len(self.devices)

    def sharding(self, place: str) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec(AXIS) if place == SPLIT else PartitionSpec())

    def map(
        self,
        function: Callable[..., Any],
        *,
        inputs: tuple[str, ...],
        outputs: tuple[str, ...],
        donate: tuple[int, ...] = (),
        check: bool = False,
    ) -> Any:
        """Maps a per-device function that returns a tuple; the result has `.lower(...)` like any jitted function.

        Args:
          function: sees its device's share of SPLIT arguments.
          inputs, outputs: SHARED or SPLIT for each argument and each element of the result.
          donate: arguments whose memory the results may take.
          check: let JAX verify that SHARED results are equal on all devices (shard_map only; rejects some loops).
        """
        if self.kind == "pmap":
            axes = {SHARED: None, SPLIT: 0}
            return jax.pmap(
                function,
                axis_name=AXIS,
                in_axes=tuple(axes[place] for place in inputs),
                out_axes=tuple(axes[place] for place in outputs),
                donate_argnums=donate,
                devices=list(self.devices),
            )
        if self.kind == "shard_map":
            spec = {SHARED: PartitionSpec(), SPLIT: PartitionSpec(AXIS)}
            mapped = jax.shard_map(
                function,
                mesh=self.mesh,
                in_specs=tuple(spec[place] for place in inputs),
                out_specs=tuple(spec[place] for place in outputs),
                check_vma=check,
            )
            return jax.jit(mapped, donate_argnums=donate)
        return jax.jit(
            function,
            in_shardings=tuple(self.sharding(place) for place in inputs),
            out_shardings=tuple(self.sharding(place) for place in outputs),
            donate_argnums=donate,
        )

    def create(self, function: Callable[..., PyTree], *args: Any) -> PyTree:
        """Runs `function` once under jit and leaves its result replicated; works across processes."""
        return jax.jit(function, out_shardings=self.sharding(SHARED))(*args)

    def place(self, batch: PyTree) -> PyTree:
        """This process's rows of a batch (a tree of arrays) as device arrays for a SPLIT argument."""
        sharding = self.sharding(SPLIT)
        if self.kind == "pmap":
            local = jax.tree.map(lambda x: x.reshape(self.shares, x.shape[0] // self.shares, *x.shape[1:]), batch)
            return jax.device_put(local, sharding)
        return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)

    def abstract_batch(self, batch: PyTree) -> PyTree:
        """Shapes of what `place` returns for this process's rows, without placing anything."""
        sharding, processes = self.sharding(SPLIT), jax.process_count()

        def abstract(x: np.ndarray) -> jax.ShapeDtypeStruct:
            rows = x.shape[0] * processes
            shape = (self.shares, rows // self.shares) if self.kind == "pmap" else (rows,)
            return jax.ShapeDtypeStruct((*shape, *x.shape[1:]), x.dtype, sharding=sharding)

        return jax.tree.map(abstract, batch)

    def gather(self, tree: PyTree) -> PyTree:
        """SPLIT results of all processes as numpy arrays with one leading axis, in the order of the global batch."""
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            return multihost_utils.process_allgather(tree, tiled=True)
        rows = jax.device_get(tree)
        if self.kind == "pmap":
            rows = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), rows)
        return rows


def make_parallel(kind: str = "auto", devices: int | None = None) -> Parallel:
    """Chooses devices and map.

    Args:
      kind: "auto" takes pmap in one process and shard_map in several; or one of them, or "jit".
      devices: how many devices to use (one process only); None takes all.
    """
    if kind not in KINDS:
        close = difflib.get_close_matches(kind, KINDS, 1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"unknown parallel.map {kind!r}: expected one of {', '.join(KINDS)}{hint}")
    processes, available = jax.process_count(), jax.devices()
    if kind == "auto":
        kind = "pmap" if processes == 1 else "shard_map"
    if kind == "pmap" and processes > 1:
        raise ValueError("parallel.map='pmap' cannot donate memory across processes; use 'auto' or 'shard_map'")
    if devices is None:
        return Parallel(kind, tuple(available))
    if processes > 1:
        raise ValueError(f"parallel.devices={devices} with {processes} processes: choose devices when launching them")
    if not 1 <= devices <= len(available):
        raise ValueError(f"parallel.devices={devices}, but there are {len(available)}: {available}")
    return Parallel(kind, tuple(available[:devices]))


def check_batch_size(batch_size: int, shares: int, accumulate: int = 1, name: str = "data.batch_size") -> None:
    """Raises unless the global batch splits evenly; names the nearest sizes that do."""
    parts = shares * accumulate
    if batch_size > 0 and batch_size % parts == 0:
        return
    lower, upper = batch_size // parts * parts, (batch_size // parts + 1) * parts
    nearest = f"{lower} or {upper}" if lower > 0 else f"{upper}"
    micro = f" x {accumulate} micro-batches" if accumulate > 1 else ""
    raise ValueError(f"{name}={batch_size} does not split over {shares} devices{micro}; the nearest sizes: {nearest}")
