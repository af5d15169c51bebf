"""What convolutional families share: levels by name, dilation instead of stride, frozen stages, checkpointing.

A family is a module with these fields, as far as they make sense for it, and reads top to bottom as its paper does:

  out_levels      names of the returned levels, always in the order of the pyramid; level "c<k>" has stride 2**k unless
                  the network is dilated. What only deeper levels need is not built and has no parameters.
  frozen_stages   the stem and this many stages pass no gradient and use running statistics.
  output_stride   largest stride: stages beyond it keep their resolution and dilate their kernels instead
                  (Chen et al. 2017, arXiv:1706.05587, section 3.1).
  norm            normalisation of every convolution.
  drop_path_rate  stochastic depth of the last block; falls linearly to 0 at the first one.
  remat           recomputes the inside of each block in the backward pass: less memory for more time.

It calls `check` in `__post_init__`, and has the properties `channels` and `strides` (of the returned levels) and
`frozen_paths`: from `Pyramid`, if each of its stages makes one level.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import flax.linen as nn
import jax

from jaxvision.registry import hint

T = TypeVar("T")


def check(module: Any, levels: Sequence[str], stages: int) -> None:
    """Raises ValueError for a field of `module` that its family, with these levels, cannot have."""
    family = type(module).__name__
    for level in module.out_levels:
        if level not in levels:
            raise ValueError(f"{family} got the level {level!r} in out_levels: {hint(level, levels)}")
    if not module.out_levels:
        raise ValueError(f"{family} got no out_levels; choose from {', '.join(levels)}")
    if not 0 <= module.frozen_stages <= stages:
        raise ValueError(f"{family} got frozen_stages={module.frozen_stages}; it takes 0 to {stages}")
    if getattr(module, "output_stride", 32) not in (8, 16, 32):
        raise ValueError(f"{family} got output_stride={module.output_stride}; it takes 8, 16 or 32")
    if not 0 <= getattr(module, "drop_path_rate", 0.0) <= 1:
        raise ValueError(f"{family} got drop_path_rate={module.drop_path_rate}; a probability lies in [0, 1]")


def select(levels: Mapping[str, T], out_levels: Sequence[str]) -> dict[str, T]:
    """Those of `levels` that are asked for, in the order of the pyramid."""
    return {name: value for name, value in levels.items() if name in out_levels}


@dataclasses.dataclass(frozen=True)
class Stage:
    """Geometry of one stage, whose blocks the method `block` describes.

    Attributes:
      strides: of its first block.
      first_dilation: of the first block, whose input still has the former stage's grid.
      dilation: of the other blocks.
      total: input pixels per output pixel of the stage.
    """

    strides: int
    first_dilation: int
    dilation: int
    total: int

    def block(self, index: int) -> dict[str, int]:
        """`strides`, `dilation` and `first_dilation` (the block's own) of a block, from 0."""
        if index == 0:
            return {"strides": self.strides, "dilation": self.dilation, "first_dilation": self.first_dilation}
        return {"strides": 1, "dilation": self.dilation, "first_dilation": self.dilation}


def dilate(strides: Sequence[int], start: int, output_stride: int, *, contract: bool = True) -> tuple[Stage, ...]:
    """Strides and dilations of stages whose total stride must not pass `output_stride`.

    Args:
      strides: of each stage in the plain network.
      start: total stride in front of the first stage.
      contract: the first block of a dilated stage keeps the former stage's dilation (torchvision, timm,
        OpenMMLab's `contract_dilation`); else it has the stage's own.
    """
    stages = []
    total, dilation = start, 1
    for stride in strides:
        before = dilation
        if total * stride > output_stride:
            dilation, stride = dilation * stride, 1
        total *= stride
        stages.append(Stage(stride, before if contract else dilation, dilation, total))
    return tuple(stages)


class Pyramid(nn.Module):
    """Base of families of a stem and stages of which each makes one level; it has no fields of its own.

    A family gives, as attributes of the class or as properties:

      levels          names of all levels; "c<k>" has stride 2**k, "pooled" comes last
      stem_levels     number of those that the stem makes
      level_channels  of all levels
      parts           patterns of the stem's parameters, then of each stage's, for `frozen_paths`
      stage_strides   of each stage in the plain network, if it takes `output_stride`
      stem_stride     total stride in front of the stages, if it takes `output_stride`
    """

    levels: ClassVar[tuple[str, ...]] = ()
    stem_levels: ClassVar[int] = 1
    parts: ClassVar[tuple[str, ...]] = ()
    stage_strides: ClassVar[tuple[int, ...]] = ()
    stem_stride: ClassVar[int] = 2

    @property
    def level_channels(self) -> Sequence[int]:
        """Channels of every level, built or not."""
        raise NotImplementedError

    @property
    def built(self: Any) -> int:
        """Number of stages that the returned levels need."""
        last = max(map(self.levels.index, self.out_levels))
        return min(max(last + 1 - self.stem_levels, 0), len(self.parts) - 1)

    @property
    def stages(self: Any) -> tuple[Stage, ...]:
        """Strides and dilations of the stages that are built."""
        return dilate(self.stage_strides, self.stem_stride, self.output_stride)[: self.built]

    @property
    def channels(self: Any) -> dict[str, int]:
        """Channels of each returned level."""
        return select(dict(zip(self.levels, self.level_channels, strict=True)), self.out_levels)

    @property
    def strides(self: Any) -> dict[str, int]:
        """Input pixels per output pixel of each returned level; of "pooled", those of the map that it comes from."""
        largest = getattr(self, "output_stride", 32)
        every = {level: 32 if level == "pooled" else 2 ** int(level[1:]) for level in self.levels}
        return select({level: min(stride, largest) for level, stride in every.items()}, self.out_levels)

    @property
    def frozen_paths(self: Any) -> tuple[str, ...]:
        """Regular expressions, each for whole paths below this module, of the parameters that `frozen_stages` names."""
        return self.parts[: 1 + min(self.frozen_stages, self.built)] if self.frozen_stages else ()


def freeze(x: T, frozen: bool) -> T:
    """`x`, without a gradient if `frozen`."""
    return jax.lax.stop_gradient(x) if frozen else x


def drop_path_rates(last: float, counts: Sequence[int]) -> tuple[tuple[float, ...], ...]:
    """Rates of each stage's blocks, rising linearly from 0 to `last` over the whole network (Huang et al. 2016)."""
    step = last / max(sum(counts) - 1, 1)
    index = itertools.count()
    return tuple(tuple(step * next(index) for _ in range(count)) for count in counts)


def block_class(block: type[nn.Module], remat: bool) -> type[nn.Module]:
    """`block`, recomputed in the backward pass if `remat`; call its modules with positional `(x, train)`."""
    return nn.remat(block, static_argnums=(2,)) if remat else block


def make_divisible(value: float, divisor: int = 8, *, least: int | None = None, lowest_share: float = 0.0) -> int:
    """The multiple of `divisor` nearest to `value` (halves go up), but at least `least` (None: `divisor`).

    One more `divisor` is added where rounding would fall below `lowest_share` of the value (0.9 in MobileNets).
    """
    rounded = max(divisor if least is None else least, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < lowest_share * value else rounded
