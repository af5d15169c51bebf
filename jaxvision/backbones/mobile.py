"""What MobileNet v2, v3 and EfficientNet share: a stem, stages of inverted residuals from a table, scaled in two ways.

A family gives the table of its paper's network (`table`); `width` multiplies its channels and `depth` its repeats
(Tan and Le 2019, arXiv:1905.11946, section 3.3). Levels are the outputs of the last block of each resolution.
Submodules carry timm's names: `conv_stem`, `bn1`, `blocks_<stage>_<block>`, `conv_head`.
"""

import dataclasses
import functools
import math
from typing import Any

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from jaxvision import layers
from jaxvision.backbones import pyramid
from jaxvision.layers.activations import activation
from jaxvision.layers.conv import kaiming_normal_fan_out
from jaxvision.layers.inverted_residual import ConvNormAct, DepthwiseSeparable, InvertedResidual

LEVELS = ("c1", "c2", "c3", "c4", "c5", "pooled")

make_divisible = functools.partial(pyramid.make_divisible, lowest_share=0.9)

TENSORFLOW = layers.Norm(epsilon=1e-3)
"""The authors' epsilon; with timm's momentum."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a table: blocks that are alike but for the strides of the first.

    Attributes:
      repeats: number of blocks, before scaling.
      kernel: size of the depthwise convolution.
      strides: of the first block, if the row begins a stage.
      expansion: depthwise channels per input channel; 0: a depthwise separable block without expansion.
      channels: of the output, before scaling.
      squeeze: share of channels inside the squeeze-and-excitation; 0: none.
      activation: None: the network's.
      plain: nothing but a 1x1 convolution.
    """

    repeats: int
    kernel: int
    strides: int
    expansion: float
    channels: int
    squeeze: float = 0.0
    activation: str | None = None
    plain: bool = False


Table = tuple[tuple[Row, ...], ...]


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stage that is built: its geometry, the row of each block, and the level that its output is.

    Attributes:
      first_level: the level that the output of its first block is, where that is asked for.
    """

    geometry: pyramid.Stage
    blocks: tuple[Row, ...]
    level: str | None
    first_level: str | None = None


class MobileNet(nn.Module):
    """Feature levels "c1" ... "c5", and "pooled" [B, C], what the last linear layer of the classifier sees.

    Attributes:
      width, depth: multiply channels and numbers of blocks.
      padding: None: symmetric; "same": TensorFlow's, of every convolution that has strides (see `layers.Conv`).
      norm: normalisation of every convolution.
      out_levels: which levels are returned; stages beyond the last one are not built.
      frozen_stages: the stem and this many stages (`blocks_<stage>`) pass no gradient and use running statistics.
        A run keeps `frozen_paths` out of the optimizer, whose weight decay would move them.
      output_stride: 32, or 16 or 8: later stages dilate instead.
      contract_dilation: the first block of a dilated stage keeps the former dilation, as in timm (the segmenters of
        torchvision, OpenMMLab and segmentation-models do not).
      first_levels: of the returned levels those that are the first map of their resolution, not the last: of "c1" the
        output of the stem (as segmentation-models takes it from EfficientNets), of others of the first block (as
        torchvision's segmenters take "c3").
      first_of_width: of the returned levels those that are the first map of their last stage, so of their resolution
        and width (as segmentation-models takes "c4" of `efficientnet-b0`, and of no other size).
      drop_path_rate: stochastic depth: block i of n drops its residual branch with probability rate * i / n, as in
        timm and torchvision (so the last one stays a little below the rate).
      remat: recompute blocks in the backward pass.
    """

    width: float = 1.0
    depth: float = 1.0
    padding: str | None = None
    norm: layers.Norm = layers.Norm()
    out_levels: tuple[str, ...] = ("c2", "c3", "c4", "c5")
    frozen_stages: int = 0
    output_stride: int = 32
    contract_dilation: bool = True
    first_levels: tuple[str, ...] = ()
    first_of_width: tuple[str, ...] = ()
    drop_path_rate: float = 0.0
    remat: bool = False

    def __post_init__(self) -> None:
        family = type(self).__name__
        for field in ("first_levels", "first_of_width"):
            if not {*getattr(self, field)} <= {*self.out_levels} - {"pooled"}:
                raise ValueError(
                    f"{family} got {field}={getattr(self, field)}; it takes some of out_levels={self.out_levels}, but "
                    "not 'pooled'"
                )
        if self.padding not in (None, "same"):
            raise ValueError(f"{family} got padding={self.padding!r}; it takes None or 'same'")
        if self.width <= 0 or self.depth <= 0:
            raise ValueError(f"{family} got width={self.width}, depth={self.depth}; it takes positive factors")
        pyramid.check(self, LEVELS, stages=len(self.table))
        super().__post_init__()

    # What a family gives.

    @property
    def table(self) -> Table:
        """The stages of the network of width and depth 1."""
        raise NotImplementedError

    @property
    def stem_channels(self) -> int:
        """Output channels of the stem."""
        return self.scaled(32)

    @property
    def head_channels(self) -> int:
        """Channels of "pooled"."""
        raise NotImplementedError

    @property
    def activation(self) -> str:
        """Of every convolution whose row names none."""
        raise NotImplementedError

    @nn.nowrap
    def squeezed(self, expanded: int, row: Row) -> int:
        """Channels inside the squeeze-and-excitation of a block with this many depthwise channels."""
        raise NotImplementedError

    @property
    def block_options(self) -> dict[str, Any]:
        """Fields of all blocks; without `squeeze_activation` that is the block's own activation."""
        return {}

    @nn.nowrap
    def has_shortcut(self, row: Row) -> bool:
        """Whether blocks of this row add their input where the shape is kept."""
        return True

    @nn.nowrap
    def head(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b d"]:
        """The level "pooled"."""
        raise NotImplementedError

    # What follows from it.

    @nn.nowrap
    def scaled(self, channels: int) -> int:
        """Channels at this width, in multiples of 8."""
        return make_divisible(channels * self.width)

    @nn.nowrap
    def repeats(self, index: int) -> tuple[int, ...]:
        """Number of blocks of each row of a stage at this depth."""
        return _repeats(tuple(row.repeats for row in self.table[index]), self.depth)

    @property
    def counts(self) -> tuple[int, ...]:
        """Number of blocks of each stage, built or not."""
        return tuple(sum(self.repeats(i)) for i in range(len(self.table)))

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages that are built."""
        strides = [stage[0].strides for stage in self.table]
        geometries = pyramid.dilate(strides, 2, self.output_stride, contract=self.contract_dilation)
        stages, level = [], 1
        for i, rows in enumerate(self.table):
            starts = strides[i] > 1
            level += starts
            ends = i + 1 == len(self.table) or strides[i + 1] > 1
            blocks = tuple(row for row, n in zip(rows, self.repeats(i), strict=True) for _ in range(n))
            name = f"c{level}"
            first = (name in self.first_levels and starts) or (name in self.first_of_width and ends)
            last = ends and name not in {*self.first_levels, *self.first_of_width}
            stages.append(Stage(geometries[i], blocks, name if last else None, name if first else None))
        if "pooled" in self.out_levels:
            return tuple(stages)
        needed = [i + 1 for i, stage in enumerate(stages) if {stage.level, stage.first_level} & {*self.out_levels}]
        return tuple(stages[: max(needed, default=0)])

    @property
    def channels(self) -> dict[str, int]:
        """Channels of each returned level."""
        every = {"c1": self.stem_channels}
        for stage in self.stages:
            every |= {stage.first_level: self.scaled(stage.blocks[0].channels)} if stage.first_level else {}
            every |= {stage.level: self.scaled(stage.blocks[-1].channels)} if stage.level else {}
        return pyramid.select({**every, "pooled": self.head_channels}, self.out_levels)

    @property
    def strides(self) -> dict[str, int]:
        """Input pixels per output pixel of each returned level; for "pooled", of the map that is averaged."""
        every = {"c1": 2}
        every |= {
            level: stage.geometry.total for stage in self.stages for level in (stage.first_level, stage.level) if level
        }
        return pyramid.select({**every, "pooled": max(every.values())}, self.out_levels)

    @property
    def frozen_paths(self) -> tuple[str, ...]:
        """Regular expressions, each for whole paths below this module, of the parameters that `frozen_stages` names."""
        if not self.frozen_stages:
            return ()
        count = min(self.frozen_stages, len(self.stages))
        return (r"(conv_stem|bn1)/.*", *(rf"blocks_{i}_\d+/.*" for i in range(count)))

    @nn.compact
    def __call__(self, images: Float[Array, "b h w c"], *, train: bool) -> dict[str, Float[Array, "b ..."]]:
        x = layers.Conv(
            self.stem_channels,
            3,
            2,
            padding=self.padding,
            use_bias=False,
            kernel_init=kaiming_normal_fan_out,
            name="conv_stem",
        )(images)
        x = activation(self.activation)(self.norm(name="bn1")(x, train=train and not self.frozen_stages))
        x = jax.lax.stop_gradient(x) if self.frozen_stages else x
        levels = {"c1": x}
        number, total = 0, sum(self.counts)
        for i, stage in enumerate(self.stages):
            frozen = i < self.frozen_stages
            for j, row in enumerate(stage.blocks):
                rate = self.drop_path_rate * number / total
                block = self.block(row, stage.geometry, x.shape[-1], j == 0, rate, f"blocks_{i}_{j}")
                x = block(x, train and not frozen)
                number += 1
                if j == 0 and stage.first_level:
                    levels[stage.first_level] = pyramid.freeze(x, frozen)
            x = jax.lax.stop_gradient(x) if frozen else x
            if stage.level:
                levels[stage.level] = x
        if "pooled" in self.out_levels:
            levels["pooled"] = self.head(x, train)
        return pyramid.select(levels, self.out_levels)

    @nn.nowrap
    def block(self, row: Row, geometry: pyramid.Stage, channels: int, first: bool, rate: float, name: str) -> nn.Module:
        """The block of a row for an input of so many channels."""
        shared: dict[str, Any] = {
            "features": self.scaled(row.channels),
            "activation": row.activation or self.activation,
            "norm": self.norm,
            "name": name,
        }
        if row.plain:
            return pyramid.block_class(ConvNormAct, self.remat)(**shared)
        expanded = make_divisible(channels * row.expansion) if row.expansion else channels
        shared |= {
            "kernel_size": row.kernel,
            "strides": geometry.strides if first else 1,
            "dilation": geometry.first_dilation if first else geometry.dilation,
            "padding": self.padding,
            "squeeze": self.squeezed(expanded, row) if row.squeeze else 0,
            "drop_path": rate,
            "shortcut": self.has_shortcut(row),
            "squeeze_activation": shared["activation"],
        }
        shared |= self.block_options
        if not row.expansion:
            return pyramid.block_class(DepthwiseSeparable, self.remat)(**shared)
        return pyramid.block_class(InvertedResidual, self.remat)(expanded=expanded, **shared)


def _repeats(repeats: tuple[int, ...], depth: float) -> tuple[int, ...]:
    """Numbers of blocks of a stage's rows: the stage's sum is scaled and rounded up, and shared out from the last row
    to the first, each row with at least one block (timm's rule for stages of several rows)."""
    left, scaled = sum(repeats), math.ceil(sum(repeats) * depth)
    counts = []
    for repeat in reversed(repeats):
        counts.append(max(1, round(repeat / left * scaled)))
        left, scaled = left - repeat, scaled - counts[-1]
    return tuple(reversed(counts))


# Names of published weights, see `jaxvision/pretrained/keymaps.py`.

ROLES = (
    *(
        (rf"^(backbone\.blocks\.0\.\d+)\.{ours}\.", rf"\1.{role}.")
        for ours, role in (
            ("conv_dw", "depthwise.conv"),
            ("bn1", "depthwise.norm"),
            ("conv_pw", "project.conv"),
            ("bn2", "project.norm"),
        )
    ),
    *(
        (rf"^(backbone\.blocks\.[1-9]\.\d+)\.{ours}\.", rf"\1.{role}.")
        for ours, role in (
            ("conv_pw", "expand.conv"),
            ("bn1", "expand.norm"),
            ("conv_dw", "depthwise.conv"),
            ("bn2", "depthwise.norm"),
            ("conv_pwl", "project.conv"),
            ("bn3", "project.norm"),
        )
    ),
)
"""timm's names of the layers of a block, which differ between the first stage and the others -> the same for both."""


def flat(counts: tuple[int, ...], replacement: str, start: int = 0) -> tuple[tuple[str, str], ...]:
    """Rules that number the blocks of all stages through: "backbone.blocks.<i>.<j>." -> `replacement` with its {}."""
    places = [(i, j) for i, count in enumerate(counts) for j in range(count)]
    return tuple((rf"^backbone\.blocks\.{i}\.{j}\.", replacement.format(start + n)) for n, (i, j) in enumerate(places))
