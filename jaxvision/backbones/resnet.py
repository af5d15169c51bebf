"""ResNet (He et al. 2016, arXiv:1512.03385) and its wide, deep-stemmed, caffe-style, CIFAR and ResNeXt forms.

Numbers are torchvision's and timm's: in a bottleneck the 3x3 convolution carries the stride ("v1.5"; in the paper, and
with `style="caffe"`, it is the first 1x1), and the shortcut of a changed shape is a strided 1x1 projection. Wide
ResNet: Zagoruyko and Komodakis 2016 (arXiv:1605.07146); ResNeXt: Xie et al. 2017 (arXiv:1611.05431); deep stem ("C")
and averaged shortcut ("D"): He et al. 2019 (arXiv:1812.01187), fig. 2. The CIFAR stem (OpenMMLab's `ResNet_CIFAR`)
keeps the four stages; the paper's own CIFAR networks (section 4.2) have three narrower ones. Deformable 3x3
convolutions in chosen stages: Dai et al. 2017 (arXiv:1703.06211) and, modulated, Zhu et al. 2019 (arXiv:1811.11168),
with OpenMMLab's numbers. Submodules carry timm's names.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
from jaxtyping import Array, Float

from jaxvision import layers
from jaxvision.backbones import pyramid
from jaxvision.layers.conv import kaiming_normal_fan_out
from jaxvision.ops import pool

STAGES = {
    10: ("basic", (1, 1, 1, 1)),
    14: ("bottleneck", (1, 1, 1, 1)),
    18: ("basic", (2, 2, 2, 2)),
    26: ("bottleneck", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    101: ("bottleneck", (3, 4, 23, 3)),
    152: ("bottleneck", (3, 8, 36, 3)),
    200: ("bottleneck", (3, 24, 36, 3)),
    269: ("bottleneck", (3, 30, 48, 8)),
}
"""Table 1: block type and number of blocks per stage; 10, 14, 26, 200 and 269 are timm's."""

DEEP = {"stem": "deep"}
DEEP_AVG = {"stem": "deep", "shortcut": "avg"}
TIERED_AVG = {"stem": "tiered", "shortcut": "avg"}

SIZES: Mapping[str, Mapping[str, Any]] = {
    **{f"resnet{depth}": {"depth": depth} for depth in (18, 26, 34, 50, 101, 152, 200)},
    **{f"resnet{depth}c": {"depth": depth, **DEEP} for depth in (50, 101, 152)},
    **{f"resnet{depth}d": {"depth": depth, **DEEP_AVG} for depth in (18, 26, 34, 50, 101, 152, 200)},
    **{f"resnet{depth}s": {"depth": depth, **DEEP, "stem_width": 128} for depth in (50, 101, 152)},
    **{f"resnet{depth}t": {"depth": depth, **TIERED_AVG} for depth in (10, 14, 26, 50)},
    **{f"resnet{depth}_caffe": {"depth": depth, "style": "caffe"} for depth in (50, 101)},
    **{f"resnet{depth}_cifar": {"depth": depth, "stem": "cifar"} for depth in (18, 34, 50, 101, 152)},
    "resnet50_gn": {"depth": 50, "norm": layers.Norm("gn")},
    **{f"wide_resnet{depth}_2": {"depth": depth, "width_per_group": 128} for depth in (50, 101)},
    "resnext50_32x4d": {"depth": 50, "groups": 32, "width_per_group": 4},
    "resnext50d_32x4d": {"depth": 50, "groups": 32, "width_per_group": 4, **DEEP_AVG},
    **{
        f"resnext101_{groups}x{width}d": {"depth": 101, "groups": groups, "width_per_group": width}
        for groups, width in ((32, 4), (32, 8), (32, 16), (32, 32), (64, 4))
    },
    "resnext152_32x4d": {"depth": 152, "groups": 32, "width_per_group": 4},
}
"""Name -> fields of `ResNet`, in the names of timm, which include torchvision's; the caffe and CIFAR forms and the last
ResNeXt are OpenMMLab's."""

LEVELS = ("c1", "c2", "c3", "c4", "c5")


class Block(nn.Module):
    """What both kinds of block have: a residual branch joined to a shortcut.

    Attributes:
      features: width of the block; the output has `features * expansion` channels.
      strides: of the block.
      dilation, first_dilation: of its 3x3 convolutions; the first one of a basic block takes `first_dilation`, and so
        does the only one of a bottleneck.
      norm: makes the normalisation layers.
      shortcut: how a changed shape is projected: "conv" (strided) or "avg" (2x2 means, then 1x1).
      shortcut_kernel: of the "conv" projection where it has a stride or dilation.
      squeeze: channels inside the squeeze-and-excitation that ends the residual branch; 0: none.
      drop_path: probability of dropping the residual branch while training.
      zero_init_last: the last norm starts with scale 0, so that the block starts as the identity.
    """

    features: int
    strides: int = 1
    dilation: int = 1
    first_dilation: int = 1
    norm: layers.Norm = layers.Norm()
    shortcut: str = "conv"
    shortcut_kernel: int = 1
    squeeze: int = 0
    drop_path: float = 0.0
    zero_init_last: bool = False

    expansion: ClassVar[int] = 1

    @property
    def out(self) -> int:
        """Output channels."""
        return self.features * self.expansion

    @nn.nowrap
    def last_norm(self, name: str) -> nn.Module:
        return self.norm(name=name, scale_init=nn.initializers.zeros if self.zero_init_last else nn.initializers.ones)

    @nn.nowrap
    def join(self, x: Float[Array, "b h w c"], y: Float[Array, "b h2 w2 d"], train: bool) -> Float[Array, "b h2 w2 d"]:
        """The activated sum of the input and the residual branch."""
        if self.squeeze:
            y = layers.SqueezeExcite(self.squeeze, name="se")(y)
        y = layers.DropPath(self.drop_path, name="drop_path")(y, train=train)
        return nn.relu(y + self.project(x, train))

    @nn.nowrap
    def project(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 d"]:
        """The input, projected where the block changes its shape (option B of section 3.3).

        Where dilation replaces the stride, OpenMMLab's averaged shortcut pools nothing, and so does this one (timm
        averages 2x2 at stride 1).
        """
        if self.strides == 1 and x.shape[-1] == self.out:
            return x
        if self.shortcut == "avg":
            if self.strides > 1:
                x = pool.avg_pool(x, self.strides, ceil_mode=True, count_include_pad=False)
            x = conv(self.out, 1, name="downsample_1")(x)
            return self.norm(name="downsample_2")(x, train=train)
        size = 1 if self.strides == 1 and self.dilation == 1 else self.shortcut_kernel
        dilation = self.first_dilation if size > 1 else 1
        x = conv(self.out, size, self.strides, dilation=dilation, name="downsample_0")(x)
        return self.norm(name="downsample_1")(x, train=train)


class BasicBlock(Block):
    """Two 3x3 convolutions around a shortcut (fig. 5, left)."""

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 d"]:
        y = conv(self.features, 3, self.strides, dilation=self.first_dilation, name="conv1")(x)
        y = nn.relu(self.norm(name="bn1")(y, train=train))
        y = conv(self.out, 3, dilation=self.dilation, name="conv2")(y)
        return self.join(x, self.last_norm("bn2")(y, train=train), train)


class Bottleneck(Block):
    """1x1, 3x3 and 1x1 convolutions around a shortcut (fig. 5, right).

    Attributes:
      groups: of the 3x3 convolution (ResNeXt's cardinality).
      width_per_group: channels of one group at a block width of 64.
      style: "pytorch" (the 3x3 convolution has the stride) or "caffe" (the first 1x1).
      reduce_first: divides the channels of the first 1x1 convolution.
      deformable: whether the taps of the 3x3 convolution move.
      modulated, deform_groups: of a deformable one, see `layers.DeformConv`.
    """

    groups: int = 1
    width_per_group: int = 64
    style: str = "pytorch"
    reduce_first: int = 1
    deformable: bool = False
    modulated: bool = False
    deform_groups: int = 1

    expansion: ClassVar[int] = 4

    @property
    def middle(self) -> int:
        """Channels of the 3x3 convolution."""
        return max(self.features * self.width_per_group // 64, 1) * self.groups

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 d"]:
        y = conv(self.middle // self.reduce_first, 1, self.strides if self.style == "caffe" else 1, name="conv1")(x)
        y = nn.relu(self.norm(name="bn1")(y, train=train))
        y = self.spatial(y, 1 if self.style == "caffe" else self.strides, train)
        y = conv(self.out, 1, name="conv3")(y)
        return self.join(x, self.last_norm("bn3")(y, train=train), train)

    @nn.nowrap
    def spatial(self, y: Float[Array, "b h w c"], strides: int, train: bool) -> Float[Array, "b h2 w2 d"]:
        """The 3x3 convolution with its norm and activation."""
        if self.deformable:
            y = layers.DeformConv(
                self.middle,
                strides=strides,
                dilation=self.first_dilation,
                groups=self.groups,
                deform_groups=self.deform_groups,
                modulated=self.modulated,
                kernel_init=kaiming_normal_fan_out,
                name="conv2",
            )(y)
        else:
            y = conv(self.middle, 3, strides, dilation=self.first_dilation, groups=self.groups, name="conv2")(y)
        return nn.relu(self.norm(name="bn2")(y, train=train))


class ResNet(pyramid.Pyramid):
    """Feature levels "c2" ... "c5", the outputs of the four stages, and "c1", that of the stem before its pooling.

    Attributes:
      depth: a key of `STAGES`.
      stem: "imagenet" (7x7 stride 2), "deep" (three 3x3, "C" and "D"), "tiered" (timm's "t": deep with rising widths),
        each before max pooling (strides 4 ... 32); or "cifar" (3x3 stride 1, no pooling; strides 1 ... 8).
      width: channels of the first stage's blocks; doubles with each stage.
      stem_width: channels of "c1"; None: `width`.
      groups, width_per_group, style: of bottlenecks, see there.
      shortcut: see `Block`.
      norm: normalisation of every convolution.
      out_levels: which levels are returned; stages beyond the last one are not built.
      frozen_stages: the stem and this many stages pass no gradient and use running statistics (0: nothing is frozen).
        A run keeps `frozen_paths` out of the optimizer, whose weight decay would move them.
      output_stride: 32, or 16 or 8: later stages dilate instead (torchvision's `replace_stride_with_dilation`).
      contract_dilation: the first block of a dilated stage keeps the former dilation, as in torchvision and
        OpenMMLab's segmenters (its detectors' DC5 does not).
      drop_path_rate: stochastic depth of the last block, rising linearly from 0.
      remat: recompute blocks in the backward pass.
      zero_init_last: residual branches start at zero (Goyal et al. 2017, arXiv:1706.02677, section 5.1).
      deformable: levels whose stages have deformable 3x3 convolutions ("c3", "c4", "c5" in most detectors).
      modulated, deform_groups: of these, see `layers.DeformConv`.
      first_stage: 1, or a later one, for a network that takes the level before it in place of images (see `rest`).
    """

    levels = LEVELS
    parts = (r"(conv1|bn1)(_\d+)?/.*", *(rf"layer{i}_\d+/.*" for i in range(1, 5)))

    depth: int = 50
    stem: str = "imagenet"
    width: int = 64
    stem_width: int | None = None
    groups: int = 1
    width_per_group: int = 64
    style: str = "pytorch"
    shortcut: str = "conv"
    norm: layers.Norm = layers.Norm()
    out_levels: tuple[str, ...] = LEVELS[1:]
    frozen_stages: int = 0
    output_stride: int = 32
    contract_dilation: bool = True
    drop_path_rate: float = 0.0
    remat: bool = False
    zero_init_last: bool = False
    deformable: tuple[str, ...] = ()
    modulated: bool = False
    deform_groups: int = 1
    first_stage: int = 1

    def __post_init__(self) -> None:
        family = type(self).__name__
        if self.depth not in STAGES:
            raise ValueError(f"{family} got depth={self.depth}; it knows {', '.join(map(str, STAGES))}")
        for name, known in (
            ("stem", ("imagenet", "deep", "tiered", "cifar")),
            ("style", ("pytorch", "caffe")),
            ("shortcut", ("conv", "avg")),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{family} got {name}={getattr(self, name)!r}; it knows {', '.join(known)}")
        kind = STAGES[self.depth][0]
        if kind not in self.blocks:
            raise ValueError(
                f"{family} got depth={self.depth}, whose blocks are {kind}; it has only {', '.join(self.blocks)}"
            )
        if kind == "basic" and (self.groups, self.width_per_group, self.style) != (1, 64, "pytorch"):
            raise ValueError(
                f"{family} got groups, width_per_group or style for basic blocks: take a depth of bottlenecks"
            )
        for level in self.deformable:
            if level not in LEVELS[1:] or kind == "basic":
                raise ValueError(
                    f"{family} got deformable={self.deformable}, depth={self.depth}: deformable are the stages of "
                    f"{', '.join(LEVELS[1:])} in networks of bottlenecks"
                )
        pyramid.check(self, LEVELS, stages=4)
        if self.first_stage > 1 and min(map(LEVELS.index, self.out_levels)) < self.first_stage:
            raise ValueError(f"{family} got first_stage={self.first_stage}, out_levels={self.out_levels}: not built")
        super().__post_init__()

    @property
    def blocks(self) -> Mapping[str, type[Block]]:
        """The class of each kind of block."""
        return {"basic": BasicBlock, "bottleneck": Bottleneck}

    @nn.nowrap
    def block_options(self, features: int) -> dict[str, Any]:
        """What blocks of this width get beyond their geometry."""
        if STAGES[self.depth][0] == "basic":
            return {}
        return {"groups": self.groups, "width_per_group": self.width_per_group, "style": self.style}

    @nn.nowrap
    def deform_options(self, level: str) -> dict[str, Any]:
        """What the blocks of this level's stage get where they are deformable."""
        if level not in self.deformable:
            return {}
        return {"deformable": True, "modulated": self.modulated, "deform_groups": self.deform_groups}

    @property
    def stages(self) -> tuple[pyramid.Stage, ...]:
        """Strides and dilations of the stages that are built."""
        start = 1 if self.stem == "cifar" else 4
        every = pyramid.dilate((1, 2, 2, 2), start, self.output_stride, contract=self.contract_dilation)
        return every[: self.built]

    @property
    def level_channels(self) -> tuple[int, ...]:
        """Channels of every level, built or not."""
        expansion = self.blocks[STAGES[self.depth][0]].expansion
        return (self.stem_width or self.width, *(self.width * 2**i * expansion for i in range(4)))

    @property
    def strides(self) -> dict[str, int]:
        """Input pixels per output pixel of each returned level."""
        every = (1 if self.stem == "cifar" else 2, *(stage.total for stage in self.stages))
        return pyramid.select(dict(zip(LEVELS, every, strict=False)), self.out_levels)

    @nn.nowrap
    def rest(self) -> "ResNet":
        """The stages beyond the returned levels as a network of its own, from the last of these to "c5".

        What a two-stage detector of the C4 form runs on the features of each region. Nothing in it is frozen but norms.

        Raises:
          ValueError: no stage is left.
        """
        if self.built == len(LEVELS) - 1:
            raise ValueError(
                f"{type(self).__name__} got out_levels={self.out_levels}, so that no stage is left for the regions: "
                "a C4 detector has out_levels=('c4',)"
            )
        return self.clone(name=None, first_stage=self.built + 1, out_levels=LEVELS[-1:], frozen_stages=0)

    @nn.compact
    def __call__(self, images: Float[Array, "b h w c"], *, train: bool) -> dict[str, Float[Array, "b _ _ _"]]:
        kind, counts = STAGES[self.depth]
        block = pyramid.block_class(self.blocks[kind], self.remat)
        rates = pyramid.drop_path_rates(self.drop_path_rate, counts)
        x, levels = images, {}
        if self.first_stage == 1:
            x = self.stem_layers(x, train and not self.frozen_stages)
            levels["c1"] = pyramid.freeze(x, self.frozen_stages > 0)
            x = self.stem_pool(x)
        for i, stage in list(enumerate(self.stages))[self.first_stage - 1 :]:
            frozen = i < self.frozen_stages
            for j in range(counts[i]):
                x = block(
                    features=self.width * 2**i,
                    **stage.block(j),
                    norm=self.norm,
                    shortcut=self.shortcut,
                    drop_path=rates[i][j],
                    zero_init_last=self.zero_init_last,
                    name=f"layer{i + 1}_{j}",
                    **self.block_options(self.width * 2**i),
                    **self.deform_options(LEVELS[i + 1]),
                )(x, train and not frozen)
            levels[LEVELS[i + 1]] = x = pyramid.freeze(x, frozen)
        return pyramid.select(levels, self.out_levels)

    @nn.nowrap
    def stem_layers(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b _ _ d"]:
        """Everything in front of the pooling."""
        width = self.stem_width or self.width
        if self.stem in ("deep", "tiered"):
            first = width // 2 if self.stem == "deep" else width // 8 * 3
            x = conv(first, 3, 2, name="conv1_0")(x)
            x = nn.relu(self.norm(name="conv1_1")(x, train=train))
            x = conv(width // 2, 3, name="conv1_3")(x)
            x = nn.relu(self.norm(name="conv1_4")(x, train=train))
            x = conv(width, 3, name="conv1_6")(x)
        else:
            x = conv(width, 3, name="conv1")(x) if self.stem == "cifar" else conv(width, 7, 2, name="conv1")(x)
        return nn.relu(self.norm(name="bn1")(x, train=train))

    @nn.nowrap
    def stem_pool(self, x: Float[Array, "b h w c"]) -> Float[Array, "b _ _ c"]:
        return x if self.stem == "cifar" else pool.max_pool(x, 3, 2, 1)


def conv(features: int, kernel_size: int, strides: int = 1, *, name: str, **options: Any) -> layers.Conv:
    """A convolution without bias, initialised for ReLU."""
    return layers.Conv(
        features, kernel_size, strides, use_bias=False, kernel_init=kaiming_normal_fan_out, name=name, **options
    )


# Names of published weights, see `jaxvision/pretrained/keymaps.py`. OpenMMLab has two layouts of the deep stem (of
# mmpretrain and of mmsegmentation), and where a projection pools nothing it counts no pooling layer.
_TORCHVISION = ((r"^backbone\.", ""), (r"^head\.", "fc."))
_OPENMMLAB = ((r"^head\.", "head.fc."), (r"\.se\.fc([12])\.", r".se_layer.conv\1.conv."))
_NO_POOLING = tuple((rf"\.layer1\.0\.downsample\.{i + 1}\.", rf".layer1.0.downsample.{i}.") for i in range(2))
_CONV_MODULES = (
    *((rf"^backbone\.conv1\.{i}\.", f"backbone.stem.{i // 3}.{'bn' if i % 3 else 'conv'}.") for i in (0, 1, 3, 4, 6)),
    (r"^backbone\.bn1\.", "backbone.stem.2.bn."),
)
_SEQUENTIAL = ((r"^backbone\.conv1\.(\d)\.", r"backbone.stem.\1."), (r"^backbone\.bn1\.", "backbone.stem.7."))
KEYS = {
    "torchvision": _TORCHVISION,
    "timm": _TORCHVISION,
    "openmmlab": _OPENMMLAB,
    "openmmlab/v1c": (*_OPENMMLAB, *_CONV_MODULES),
    "openmmlab/v1d": (*_OPENMMLAB, *_CONV_MODULES, *_NO_POOLING),
    "openmmlab/v1c sequential": (*_OPENMMLAB, *_SEQUENTIAL),
    "openmmlab/v1d sequential": (*_OPENMMLAB, *_SEQUENTIAL, *_NO_POOLING),
    "smp": ((r"^backbone\.", "encoder."), (r"^head\.", "classification_head.3.")),
    "huggingface": (
        (r"^backbone\.(conv|bn)1\.", r"backbone.embedder.embedder.\g<1>0."),
        *((rf"^backbone\.layer{i + 1}\.(\d+)\.", rf"backbone.encoder.stages.{i}.layers.\1.") for i in range(4)),
        *((rf"\.(conv|bn){i + 1}\.", rf".layer.{i}.\g<1>0.") for i in range(3)),
        (r"\.downsample\.0\.", ".shortcut.conv0."),
        (r"\.downsample\.1\.", ".shortcut.bn0."),
        (r"\.conv0\.", ".convolution."),
        (r"\.bn0\.", ".normalization."),
        (r"^backbone\.", "resnet."),
        (r"^head\.", "classifier.1."),
    ),
}
FRESH = (r"/conv_offset/",)
"""Classifiers have no deformable convolutions: these start as plain ones."""
