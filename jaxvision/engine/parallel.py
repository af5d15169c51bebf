"""Devices: the only file that knows how a per-device function becomes a program on all of them.

One process maps with `jax.pmap`, several with `jit(shard_map)` over a mesh; both run the same program (in jax >= 0.10
`pmap` is a wrapper of exactly that). `jit` runs the whole batch as one program without a mapped axis: the way to debug,
and the third opinion of the equality tests.
"""

import dataclasses
import difflib
import os
from collections.abc import Callable
from functools import cached_property
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxvision.errors import SetupError

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


HOW_TO = {
    "gpu": "NVIDIA GPUs need `pip install 'jaxvision[cuda]'` (Linux) and a driver that `nvidia-smi` finds",
    "tpu": "TPUs need `pip install 'jaxvision[tpu]'` on a TPU VM",
}


def find_device(name: str) -> jax.Device:
    """The device of a name: "cpu", "gpu", "tpu", or one of several, "gpu:1".

    Raises:
      SetupError: no such kind or number; says what was asked for, what there is, and how to get it.
    """
    kind, _, number = name.partition(":")
    kind = {"cuda": "gpu"}.get(kind.lower(), kind.lower())
    if kind not in ("cpu", *HOW_TO) or (number and not number.isdecimal()):
        raise SetupError(f"unknown device {name!r}: expected cpu, gpu or tpu, or one of several as gpu:1")
    try:
        devices = jax.devices(kind)
    except RuntimeError as error:
        there = ", ".join(f"{device.platform}:{device.id}" for device in jax.devices())
        chosen = os.environ.get("JAX_PLATFORMS")
        hidden = f"; JAX_PLATFORMS={chosen} hides others" if chosen else ""
        raise SetupError(f"no {kind} for device={name!r}: JAX has {there}{hidden}. {HOW_TO.get(kind, '')}") from error
    if int(number or 0) >= len(devices):
        raise SetupError(f"no device {name!r}: JAX has {kind}:0 to {kind}:{len(devices) - 1}")
    return devices[int(number or 0)]


def check_batch_size(batch_size: int, shares: int, accumulate: int = 1, name: str = "data.batch_size") -> None:
    """Raises unless the global batch splits evenly; names the nearest sizes that do."""
    parts = shares * accumulate
    if batch_size > 0 and batch_size % parts == 0:
        return
    lower, upper = batch_size // parts * parts, (batch_size // parts + 1) * parts
    nearest = f"{lower} or {upper}" if lower > 0 else f"{upper}"
    micro = f" x {accumulate} micro-batches" if accumulate > 1 else ""
    raise ValueError(f"{name}={batch_size} does not split over {shares} devices{micro}; the nearest sizes: {nearest}")
