"""TPU chips and the slices of a pod that are made of them: what a topology's name stands for, without the hardware.

Peak rates are Google's, per chip (docs.cloud.google.com/tpu/docs/v4, v5p, v5e, v6e, as read in 2026):

| chip | bf16 TFLOP/s | memory | its GB/s | ICI, one link, one way |
|---|---|---|---|---|
| v4 | 275 | 32 GiB | 1200 | 50 GB/s: 400 Gbit/s each way (the page has no figure; notes on Jouppi et al. 2023) |
| v5p | 459 | 95 GB | 2765 | 100 GB/s: 4800 Gbit/s of a chip over 6 links |
| v5e | 197 | 16 GB | 819 | 50 GB/s: 1600 Gbit/s of a chip over 4 links, "400 GB/s bidirectional" |
| v6e | 918 | 32 GB | 1640 | 100 GB/s: "800 GB/s bidirectional" over 4 links; older pages: 3584 Gbit/s of a chip |

Pages of different dates give 800 and 819 GB/s of memory for v5e, 1600 and 1640 for v6e; the larger ones stand here.
What a program may use of the memory is less than its size: the figure in `Chip.memory_gib` is the limit that the TPU
compiler of libtpu 0.0.42 names when it refuses a program. A v4 chip counts as one device (its cores as "megacore").

Where links close to rings is a rule here: on v5e and v6e an axis of 16, the pod's whole side; on v4 and v5p every axis
of a slice that consists of whole cubes of 4x4x4 chips. Slices are those of these pages.
"""

import contextlib
import dataclasses
import difflib
import importlib.util
import math
import os
import re
from collections.abc import Iterator, Mapping
from importlib import metadata
from typing import Any

import jax

from jaxvision.errors import SetupError

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """A generation of TPU; see the top for sources.

    Attributes:
      name: as it stands before the colon of a topology.
      flops: peak bf16 operations per second (a multiply-add is two); what XLA's default precision reaches for float32
        products as well, which it computes from operands rounded to bf16.
      memory_gib: memory that a program may use, in GiB.
      memory_bandwidth: of it, in bytes per second.
      link_bandwidth: of one ICI link, one way, in bytes per second.
      slices: shapes that are offered, smallest first, up to 256 chips.
      dimensions: of the torus.
      options: for the TPU compiler's description of the topology.
    """

    name: str
    flops: float
    memory_gib: float
    memory_bandwidth: float
    link_bandwidth: float
    slices: tuple[tuple[int, ...], ...]
    dimensions: int
    options: tuple[tuple[str, Any], ...] = ()


FLAT = ((1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))
CUBIC = ((1, 1, 1), (2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4), (4, 4, 4), (4, 4, 8), (4, 8, 8))
"""A single chip of v4 and v5p is not offered alone; it stands here for what everything is compared with."""
CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v4", 275e12, 30.75, 1200e9, 50e9, CUBIC, 3, (("chip_config_name", "megacore"),)),
        Chip("v5p", 459e12, 95.74, 2765e9, 100e9, CUBIC, 3),
        Chip("v5e", 197e12, 15.75, 819e9, 50e9, FLAT, 2),
        Chip("v6e", 918e12, 31.25, 1640e9, 100e9, FLAT, 2),
    )
}
POD_SIDE = 16
"""Chips along a side of a v5e or v6e pod."""
CUBE_SIDE = 4
"""Chips along a side of the cubes that optical switches join to v4 and v5p pods."""


@dataclasses.dataclass(frozen=True)
class Topology:
    """A slice of a pod.

    Attributes:
      chip: what it is made of.
      shape: chips along each axis.
    """

    chip: Chip
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        return f"{self.chip.name}:{'x'.join(map(str, self.shape))}"

    @property
    def chips(self) -> int:
        return math.prod(self.shape)

    @property
    def rings(self) -> tuple[bool, ...]:
        """Whether the links of each axis close to a ring."""
        if self.chip.dimensions == 2:
            return tuple(side == POD_SIDE for side in self.shape)
        return (all(side % CUBE_SIDE == 0 for side in self.shape),) * len(self.shape)

    @property
    def bandwidth(self) -> float:
        """Bytes per second that a chip sends while all axes take part in one collective; 0 for one chip.

        A ring uses both of its directions; a row of chips is as slow as its ends, which send in one only.
        """
        links = (2 if ring else 1 for side, ring in zip(self.shape, self.rings, strict=True) if side > 1)
        return sum(links) * self.chip.link_bandwidth

    @property
    def hops(self) -> int:
        """Links on the way through all axes, from one end to the other or halfway round."""
        return sum(side // 2 if ring else side - 1 for side, ring in zip(self.shape, self.rings, strict=True))

    def slices(self) -> Iterator["Topology"]:
        """This topology among the slices of this chip that are offered, up to 256 chips, in order of their chips."""
        others = (Topology(self.chip, shape) for shape in self.chip.slices if math.prod(shape) != self.chips)
        yield from sorted((self, *others), key=lambda each: each.chips)

    def larger(self) -> "Topology | None":
        """The next larger slice that is offered, if there is one of at most 256 chips."""
        return next((Topology(self.chip, s) for s in self.chip.slices if math.prod(s) > self.chips), None)


def parse_topology(name: str) -> Topology:
    """ "v5e:16x16" -> `Topology`; "v4:4x4" counts as "v4:4x4x1".

    Raises:
      SetupError: another chip or shape; the text lists what there is.
    """
    found = re.fullmatch(r"(\w+):(\d+(?:x\d+){1,2})", name.strip().lower())
    kind = name.partition(":")[0].strip().lower()
    if kind not in CHIPS:
        close = difflib.get_close_matches(kind, CHIPS, 1, 0.4)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise SetupError(
            f"unknown TPU {kind!r} in topology {name!r}: expected one of {', '.join(CHIPS)}{hint}; {_how()}"
        )
    chip = CHIPS[kind]
    sides = tuple(map(int, found.group(2).split("x"))) if found else ()
    if len(sides) == 2 and chip.dimensions == 3:
        sides = (*sides, 1)
    if len(sides) != chip.dimensions or min(sides) < 1:
        raise SetupError(f"topology {name!r} is no shape of {kind}: expected {chip.dimensions} sides; {_how(chip)}")
    topology = Topology(chip, sides)
    if topology.chips > 1 and any(side % part for side, part in zip(sides, host_of(topology), strict=True)):
        raise SetupError(f"topology {name!r} is no shape of {kind}: hosts have 2x2 chips; {_how(chip)}")
    return topology


def host_of(topology: Topology) -> tuple[int, ...]:
    """The chips of a host: 2x2, or a single chip."""
    return (2, 2, 1)[: len(topology.shape)] if topology.chips > 1 else (1,) * len(topology.shape)


def _how(chip: Chip | None = None) -> str:
    """What a topology's name looks like."""
    chips = CHIPS.values() if chip is None else (chip,)
    shown = (Topology(each, shape).name for each in chips for shape in (each.slices[1], each.slices[-1]))
    offered = ", ".join("x".join(map(str, shape)) for shape in chip.slices) if chip is not None else ""
    return f"a shape looks like {', '.join(shown)}" + (f"; offered are {offered}" if offered else "")


def devices_of(topology: Topology) -> tuple[jax.Device, ...]:
    """Devices that programs can be compiled for and that cannot run any; this process computes on its CPU.

    Raises:
      SetupError: libtpu, the TPU compiler, is not installed or of another version.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise SetupError("the TPU compiler is not installed: pip install 'jaxvision[tpu]' (Linux on x86-64 only)")
    with contextlib.suppress(RuntimeError):  # where JAX has found its devices already, they do as well
        jax.config.update("jax_platforms", "cpu")
    from jax.experimental import topologies

    bounds = (*host_of(topology), 1, 1)[:3]
    options = dict(topology.chip.options)
    try:
        with _environment(NO_MACHINE):
            described = topologies.get_topology_desc(topology.name, "tpu", chips_per_host_bounds=bounds, **options)
    except (RuntimeError, NotImplementedError) as error:
        raise SetupError(f"the TPU compiler does not know topology {topology.name!r}: {error}") from error
    return tuple(described.devices)


NO_MACHINE = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
}
"""For libtpu, which looks for the machine that it is on, complains on standard error where there is none, and lets one
process at a time use it: all of which is about chips that are there."""


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Environment variables that are set within the block, where they are not set already."""
    added = {key: value for key, value in values.items() if key not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for key in added:
            os.environ.pop(key, None)


def compiler_version() -> str:
    """Of the TPU compiler."""
    return f"libtpu {metadata.version('libtpu')}"
