"""RegNet X and Y (Radosavovic et al. 2020, arXiv:2003.13678): networks from a line of block widths.

The width of block j is `w0 + wa * j`, rounded to a power of `wm` times `w0` and to a multiple of 8; blocks of one width
are a stage (section 3.3). A block is a residual bottleneck without a bottle: 1x1, grouped 3x3 with the stride, 1x1. Y
has squeeze-and-excitation behind the 3x3 convolution, squeezed to a quarter of the block's *input* channels. Widths
that the group width does not divide are moved to the nearest multiple, or in torchvision's way ("_tv"), which adds one
where that loses more than a tenth; the two differ in three sizes. Submodules carry timm's names.
"""

import collections
import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float

from jaxvision import layers
from jaxvision.backbones import pyramid

_X = {
    "002": (13, 24, 36.44, 2.49, 8),
    "004": (22, 24, 24.48, 2.54, 16),
    "006": (16, 48, 36.97, 2.24, 24),
    "008": (16, 56, 35.73, 2.28, 16),
    "016": (18, 80, 34.01, 2.25, 24),
    "032": (25, 88, 26.31, 2.25, 48),
    "040": (23, 96, 38.65, 2.43, 40),
    "064": (17, 184, 60.83, 2.07, 56),
    "080": (23, 80, 49.56, 2.88, 120),
    "120": (19, 168, 73.36, 2.37, 112),
    "160": (22, 216, 55.59, 2.1, 128),
    "320": (23, 320, 69.86, 2.0, 168),
}
_Y = {
    "002": (13, 24, 36.44, 2.49, 8),
    "004": (16, 48, 27.89, 2.09, 8),
    "006": (15, 48, 32.54, 2.32, 16),
    "008": (14, 56, 38.84, 2.4, 16),
    "016": (27, 48, 20.71, 2.65, 24),
    "032": (21, 80, 42.63, 2.66, 24),
    "040": (22, 96, 31.41, 2.24, 64),
    "064": (25, 112, 33.22, 2.27, 72),
    "080": (17, 192, 76.82, 2.19, 56),
    "120": (19, 168, 73.36, 2.37, 112),
    "160": (18, 200, 106.23, 2.48, 112),
    "320": (20, 232, 115.89, 2.53, 232),
    "640": (20, 352, 147.48, 2.4, 328),
    "1280": (27, 456, 160.83, 2.52, 264),
    "2560": (27, 640, 230.83, 2.53, 373),
}
"""Appendix, tables of RegNetX and RegNetY: hundreds of MFLOPs -> d, w0, wa, wm, g; the last three of Y are those of
SEER and SWAG (Goyal et al. 2021, arXiv:2103.01988)."""

_NAMES = ("depth", "w0", "wa", "wm", "group_width")

SIZES: Mapping[str, Mapping[str, Any]] = {
    **{f"regnetx_{size}": dict(zip(_NAMES, row, strict=True)) for size, row in _X.items()},
    **{f"regnety_{size}": {**dict(zip(_NAMES, row, strict=True)), "squeeze": 0.25} for size, row in _Y.items()},
    "regnetx_004_tv": {**dict(zip(_NAMES, _X["004"], strict=True)), "lowest_share": 0.9},
    **{
        f"regnety_{size}_tv": {**dict(zip(_NAMES, _Y[size], strict=True)), "squeeze": 0.25, "lowest_share": 0.9}
        for size in ("008", "080")
    },
}
"""Name -> fields of `RegNet`, in timm's names."""

LEVELS = ("c1", "c2", "c3", "c4", "c5")


class Block(nn.Module):
    """The residual bottleneck of fig. 4, with a projected shortcut where the shape changes.

    Attributes:
      features: output channels, and those in between.
      strides, first_dilation: of the 3x3 convolution.
      groups: of the 3x3 convolution.
      squeeze: channels inside the squeeze-and-excitation behind the 3x3 convolution, as a share of the input's; 0:
        there is none.
      dilation: of the blocks that follow; a shortcut is projected where it differs from `first_dilation`.
      drop_path: probability of dropping the residual branch while training.
    """

    features: int
    strides: int = 1
    dilation: int = 1
    first_dilation: int = 1
    groups: int = 1
    squeeze: float = 0.0
    norm: layers.Norm = layers.Norm()
    drop_path: float = 0.0

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 d"]:
        y = layers.ConvNorm(self.features, norm=self.norm, activation=nn.relu, name="conv1")(x, train)
        y = layers.ConvNorm(
            self.features,
            3,
            self.strides,
            self.first_dilation,
            self.groups,
            norm=self.norm,
            activation=nn.relu,
            name="conv2",
        )(y, train)
        if self.squeeze:
            y = layers.SqueezeExcite(round(x.shape[-1] * self.squeeze), name="se")(y)
        y = layers.ConvNorm(self.features, norm=self.norm, name="conv3")(y, train)
        y = layers.DropPath(self.drop_path, name="drop_path")(y, train=train)
        if x.shape[-1] != self.features or self.strides > 1 or self.first_dilation != self.dilation:
            x = layers.ConvNorm(self.features, 1, self.strides, norm=self.norm, name="downsample")(x, train)
        return nn.relu(y + x)


class RegNet(pyramid.Pyramid):
    """Feature levels "c2" ... "c5", the outputs of the four stages, and "c1", that of the stem.

    Attributes:
      depth: number of blocks, d in the paper.
      w0, wa, wm: first width, slope, and the factor between widths.
      group_width: channels per group of the 3x3 convolutions, g in the paper.
      squeeze: 0 (X), or the share of Y's squeeze-and-excitation.
      lowest_share: widths may not shrink below this share when they are fitted to `group_width` (0.9: torchvision).
      stem_width: channels of "c1".
      norm, out_levels, frozen_stages, output_stride, drop_path_rate, remat: see `pyramid`.
    """

    levels = LEVELS
    parts = (r"stem/.*", *(rf"s{i}_b\d+/.*" for i in range(1, 5)))
    stage_strides = (2, 2, 2, 2)

    depth: int = 22
    w0: int = 24
    wa: float = 24.48
    wm: float = 2.54
    group_width: int = 16
    squeeze: float = 0.0
    lowest_share: float = 0.0
    stem_width: int = 32
    norm: layers.Norm = layers.Norm()
    out_levels: tuple[str, ...] = LEVELS[1:]
    frozen_stages: int = 0
    output_stride: int = 32
    drop_path_rate: float = 0.0
    remat: bool = False

    def __post_init__(self) -> None:
        pyramid.check(self, LEVELS, stages=4)
        if self.w0 < 1 or self.wa < 0 or self.wm <= 1 or self.w0 % 8:
            raise ValueError(
                f"RegNet got w0={self.w0}, wa={self.wa}, wm={self.wm}; it takes a multiple of 8, a slope of at least 0 "
                "and a factor above 1"
            )
        if len(self.widths) != 4:
            raise ValueError(
                f"RegNet got depth={self.depth}, w0={self.w0}, wa={self.wa}, wm={self.wm}, which make "
                f"{len(self.widths)} stages; choose them so that there are 4"
            )
        super().__post_init__()

    @property
    def widths(self) -> tuple[tuple[int, int], ...]:
        """(channels, number of blocks) of each stage, before channels are fitted to the group width (section 3.3)."""
        powers = (round(math.log((self.w0 + self.wa * j) / self.w0) / math.log(self.wm)) for j in range(self.depth))
        widths = (round(self.w0 * self.wm**power / 8) * 8 for power in powers)
        return tuple(sorted(collections.Counter(widths).items()))

    @property
    def stage_channels(self) -> tuple[int, ...]:
        """Channels of the four stages."""
        fitted = []
        for width, _ in self.widths:
            group = min(self.group_width, width)
            if self.lowest_share:
                fitted.append(pyramid.make_divisible(width, group, lowest_share=self.lowest_share))
            else:
                fitted.append(round(width / group) * group)
        return tuple(fitted)

    @property
    def level_channels(self) -> tuple[int, ...]:
        """Channels of every level, built or not."""
        return (self.stem_width, *self.stage_channels)

    @nn.compact
    def __call__(self, images: Float[Array, "b h w c"], *, train: bool) -> dict[str, Float[Array, "b _ _ _"]]:
        block = pyramid.block_class(Block, self.remat)
        counts = [count for _, count in self.widths]
        rates = pyramid.drop_path_rates(self.drop_path_rate, counts)
        stem = layers.ConvNorm(self.stem_width, 3, 2, norm=self.norm, activation=nn.relu, name="stem")
        x = stem(images, train and not self.frozen_stages)
        x = pyramid.freeze(x, self.frozen_stages > 0)
        levels = {"c1": x}
        for i, stage in enumerate(self.stages):
            frozen = i < self.frozen_stages
            width = self.stage_channels[i]
            for j in range(counts[i]):
                x = block(
                    features=width,
                    **stage.block(j),
                    groups=width // min(self.group_width, self.widths[i][0]),
                    squeeze=self.squeeze,
                    norm=self.norm,
                    drop_path=rates[i][j],
                    name=f"s{i + 1}_b{j + 1}",
                )(x, train and not frozen)
            levels[LEVELS[i + 1]] = x = pyramid.freeze(x, frozen)
        return pyramid.select(levels, self.out_levels)


# Names of published weights, see `jaxvision/pretrained/keymaps.py`. torchvision, OpenMMLab and transformers count the
# blocks from 0.
_FROM_ZERO = tuple((rf"_b{j}\.", rf"_b<{j - 1}>.") for j in range(1, 32))
_TIMM = ((r"^backbone\.", ""), (r"\bs(\d)_b(\d+)\.", r"s\1.b\2."), (r"^head\.", "head.fc."))
KEYS = {
    "timm": _TIMM,
    "torchvision": (
        (r"^backbone\.", ""),
        *_FROM_ZERO,
        (r"^stem\.conv\.", "stem.0."),
        (r"^stem\.bn\.", "stem.1."),
        (r"^s(\d)_b<(\d+)>\.", r"trunk_output.block\1.block\1-\2."),
        (r"\.downsample\.conv\.", ".proj.0."),
        (r"\.downsample\.bn\.", ".proj.1."),
        *((rf"\.conv{i + 1}\.conv\.", f".f.{name}.0.") for i, name in enumerate("abc")),
        *((rf"\.conv{i + 1}\.bn\.", f".f.{name}.1.") for i, name in enumerate("abc")),
        (r"\.se\.", ".f.se."),
        (r"^head\.", "fc."),
    ),
    "openmmlab": (
        *_FROM_ZERO,
        (r"^backbone\.stem\.conv\.", "backbone.conv1."),
        (r"^backbone\.stem\.bn\.", "backbone.bn1."),
        (r"\.s(\d)_b<(\d+)>\.", r".layer\1.\2."),
        (r"\.conv(\d)\.conv\.", r".conv\1."),
        (r"\.conv(\d)\.bn\.", r".bn\1."),
        (r"\.downsample\.conv\.", ".downsample.0."),
        (r"\.downsample\.bn\.", ".downsample.1."),
        (r"^head\.", "head.fc."),
    ),
}
_HUGGINGFACE = (
    *_FROM_ZERO,
    (r"^backbone\.stem\.", "regnet.embedder.embedder."),
    *((rf"^backbone\.s{i + 1}_b<(\d+)>\.", rf"regnet.encoder.stages.{i}.layers.\1.") for i in range(4)),
    (r"\.downsample\.", ".shortcut."),
    (r"\.conv1\.", ".layer.0."),
    (r"\.conv2\.", ".layer.1."),
    (r"\.conv\.", ".convolution."),
    (r"\.bn\.", ".normalization."),
    (r"^head\.", "classifier.1."),
)
KEYS |= {
    "huggingface": (*_HUGGINGFACE, (r"\.conv3\.", ".layer.2.")),
    "huggingface/y": (
        *_HUGGINGFACE,
        (r"\.conv3\.", ".layer.3."),
        (r"\.se\.fc1\.", ".layer.2.attention.0."),
        (r"\.se\.fc2\.", ".layer.2.attention.2."),
    ),
}
