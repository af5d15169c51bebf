"""How fast a step can be at best: the roofline of one chip, and a model of collectives on slices of a pod.

A chip is busy for at least `flops / peak`, its memory for `traffic / bandwidth` (Williams et al. 2009), its links for
what a collective must send over them. An all-reduce of V bytes over n chips sends 2 V (n - 1) / n bytes from each, a
gather or scatter half of that, over all axes of the slice at once (`Topology.bandwidth`); each link on the way adds
`HOP`. Whether the chip computes while its links are busy is left open: a step takes at least the longest of the three
(all overlap) and, by this model, at most the longer of compute and memory plus the links (none overlap).

This is a model, not a measurement: no program reaches every peak, so that real steps are longer.
"""

import dataclasses
from collections.abc import Sequence

from jaxvision.deploy.hlo import Collective
from jaxvision.deploy.topology import Topology

HOP = 1e-6
"""Seconds of a link: an assumed order of magnitude; no published figure was found."""
SENT = {"all-reduce": 2.0, "all-gather": 1.0, "reduce-scatter": 1.0, "collective-permute": 1.0}
"""How often the arrays of a collective leave each chip, for many chips."""


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Seconds of a step that each side needs at least."""

    compute: float
    memory: float
    network: float

    @property
    def chip(self) -> float:
        """Seconds of one chip by itself."""
        return max(self.compute, self.memory)

    @property
    def overlapped(self) -> float:
        return max(self.chip, self.network)

    @property
    def in_turns(self) -> float:
        return self.chip + self.network

    @property
    def bound(self) -> str:
        """The side that takes longest."""
        sides = {"compute": self.compute, "memory": self.memory, "interconnect": self.network}
        return max(sides, key=lambda side: sides[side])


def roofline(flops: float, traffic: float, collectives: Sequence[Collective], topology: Topology) -> Roofline:
    """Of one step.

    Args:
      flops: operations of one chip.
      traffic: bytes between one chip and its memory.
      collectives: of the step.
      topology: what it runs on.
    """
    chip = topology.chip
    network = sum(each.count * seconds(each, topology) for each in collectives)
    return Roofline(flops / chip.flops, traffic / chip.memory_bandwidth, network)


def seconds(collective: Collective, topology: Topology) -> float:
    """Of one collective over all chips; 0 on a single chip.

    What is gathered grows with the chips: its size is taken as that of one chip's part times their number.
    """
    chips = topology.chips
    if chips == 1:
        return 0.0
    size = collective.size
    if collective.operation == "all-gather":
        size = size * chips // collective.group
    # Everyone's part goes to everyone: as far as half the longest way on average.
    sent = SENT.get(collective.operation, topology.hops / 2)
    ways = 2 if collective.operation == "all-reduce" else 1
    return sent * size * (chips - 1) / chips / topology.bandwidth + ways * topology.hops * HOP


@dataclasses.dataclass(frozen=True)
class Scale:
    """A row of weak scaling: the same share of the batch on each of more and more chips.

    Attributes:
      topology: the slice.
      batch: global.
      roofline: of a step.
    """

    topology: Topology
    batch: int
    roofline: Roofline

    @property
    def efficiency(self) -> tuple[float, float]:
        """Time of one chip by itself over that of a step: nothing overlaps, everything does."""
        own = self.roofline.chip
        return own / self.roofline.in_turns, own / self.roofline.overlapped

    @property
    def rates(self) -> tuple[float, float]:
        """Images per second: nothing overlaps, everything does."""
        return self.batch / self.roofline.in_turns, self.batch / self.roofline.overlapped


def scaling(
    flops: float, traffic: float, collectives: Sequence[Collective], topology: Topology, batch_per_chip: int
) -> tuple[Scale, ...]:
    """From one chip to 256, or to more where the topology has more; a program of one chip says nothing of others.

    Args:
      flops, traffic, collectives: of one chip in one step, see `roofline`.
      topology: that the program was compiled for.
      batch_per_chip: images.
    """
    slices = topology.slices() if topology.chips > 1 else (topology,)
    return tuple(
        Scale(part, part.chips * batch_per_chip, roofline(flops, traffic, collectives, part)) for part in slices
    )
