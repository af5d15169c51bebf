"""Darknet-53 (Redmon and Farhadi 2018, arXiv:1804.02767) and CSPDarknet-53 (Wang et al. 2020, arXiv:1911.11929).

A stage halves the resolution with a 3x3 convolution and adds residual blocks of a 1x1 and a 3x3 convolution. In the
cross-stage partial form ("csp"), half of the channels pass by the blocks and are joined behind them (fig. 3). Numbers
are timm's, whose leaky ReLU has torch's default slope 0.01; Darknet's own and OpenMMLab's is 0.1 (`darknet53_yolov3`).
The CSPDarknet of YOLOX is another network: `csp_darknet`. Submodules carry timm's names.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxvision import layers
from jaxvision.backbones import pyramid
from jaxvision.layers.activations import LeakyReLU
from jaxvision.ops import pool

_53 = (1, 2, 8, 8, 4)

SIZES: Mapping[str, Mapping[str, Any]] = {
    "darknet17": {"depths": (1, 1, 1, 1, 1)},
    "darknet21": {"depths": (1, 1, 1, 2, 2)},
    "sedarknet21": {"depths": (1, 1, 1, 2, 2), "reduction": 16},
    "darknet53": {"depths": _53},
    "darknet53_yolov3": {"depths": _53, "slope": 0.1},
    "darknetaa53": {"depths": _53, "downsample": "avg"},
    "cspdarknet53": {"depths": _53, "stage": "csp"},
}
"""Name -> fields of `Darknet`, in timm's names; `darknet53_yolov3` is OpenMMLab's and the original's."""

LEVELS = ("c0", "c1", "c2", "c3", "c4", "c5")


class Block(nn.Module):
    """A 1x1 convolution to `middle` channels and a 3x3 one back, around the identity.

    Attributes:
      features, middle: channels.
      reduction: divides `middle` into the channels inside the squeeze-and-excitation between the two; 0: none.
      drop_path: probability of dropping the residual branch while training.
    """

    features: int
    middle: int
    dilation: int = 1
    reduction: int = 0
    slope: float = 0.01
    norm: layers.Norm = layers.Norm()
    drop_path: float = 0.0

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w c"]:
        act = LeakyReLU(self.slope)
        y = layers.ConvNorm(self.middle, norm=self.norm, activation=act, name="conv1")(x, train)
        if self.reduction:
            squeezed = pyramid.make_divisible(self.middle / self.reduction)
            y = layers.SqueezeExcite(squeezed, activation=act, name="attn")(y)
        y = layers.ConvNorm(self.features, 3, dilation=self.dilation, norm=self.norm, activation=act, name="conv2")(
            y, train
        )
        return x + layers.DropPath(self.drop_path, name="drop_path")(y, train=train)


class Stage(nn.Module):
    """Halves the resolution, then applies blocks to all channels ("dark") or to half of them ("csp").

    Attributes:
      features: output channels.
      rates: probability of dropping each block's residual branch.
      geometry: strides and dilations.
      kind: "dark" or "csp".
      wide: both halves of a "csp" stage have all `features` (its first stage).
      downsample: "conv" (3x3 with stride), or "avg" (2x2 means, then 1x1).
      reduction, slope, norm: see `Block`.
      remat: recompute blocks in the backward pass.
    """

    features: int
    rates: tuple[float, ...]
    geometry: pyramid.Stage
    kind: str = "dark"
    wide: bool = False
    downsample: str = "conv"
    reduction: int = 0
    slope: float = 0.01
    norm: layers.Norm = layers.Norm()
    remat: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 d"]:
        options: dict[str, Any] = {"norm": self.norm, "activation": LeakyReLU(self.slope)}
        if self.downsample == "avg":
            x = pool.avg_pool(x, 2) if self.geometry.strides == 2 else x
            x = layers.ConvNorm(self.features, name="conv_down_1", **options)(x, train)
        else:
            down = (self.features, 3, self.geometry.strides, self.geometry.first_dilation)
            x = layers.ConvNorm(*down, name="conv_down", **options)(x, train)
        if self.kind == "dark":
            return self.blocks(x, self.features, self.features // 2, train)
        half = self.features if self.wide else self.features // 2
        # As if the stage's first 1x1 convolution were two, one for each path; timm's is one.
        aside, x = jnp.split(layers.ConvNorm(2 * half, name="conv_exp", **options)(x, train), 2, axis=-1)
        x = self.blocks(x, half, self.features // 2, train)
        x = layers.ConvNorm(half, name="conv_transition_b", **options)(x, train)
        x = jnp.concatenate([aside, x], axis=-1)
        return layers.ConvNorm(self.features, name="conv_transition", **options)(x, train)

    @nn.nowrap
    def blocks(self, x: Float[Array, "b h w c"], features: int, middle: int, train: bool) -> Float[Array, "b h w c"]:
        block = pyramid.block_class(Block, self.remat)
        for i, rate in enumerate(self.rates):
            x = block(
                features=features,
                middle=middle,
                dilation=self.geometry.dilation,
                reduction=self.reduction,
                slope=self.slope,
                norm=self.norm,
                drop_path=rate,
                name=f"blocks_{i}",
            )(x, train)
        return x


class Darknet(pyramid.Pyramid):
    """Feature levels "c1" ... "c5", the outputs of the five stages, and "c0", that of the stem.

    Attributes:
      depths: blocks of each stage.
      width: channels of the stem; doubles with each stage.
      stage, downsample: see `Stage`.
      reduction, slope: see `Block`.
      norm, out_levels, frozen_stages, output_stride, drop_path_rate, remat: see `pyramid`.
    """

    levels = LEVELS
    parts = (r"stem_conv1/.*", *(rf"stages_{i}/.*" for i in range(5)))
    stage_strides = (2, 2, 2, 2, 2)
    stem_stride = 1

    depths: tuple[int, ...] = _53
    width: int = 32
    stage: str = "dark"
    downsample: str = "conv"
    reduction: int = 0
    slope: float = 0.01
    norm: layers.Norm = layers.Norm()
    out_levels: tuple[str, ...] = LEVELS[2:]
    frozen_stages: int = 0
    output_stride: int = 32
    drop_path_rate: float = 0.0
    remat: bool = False

    def __post_init__(self) -> None:
        pyramid.check(self, LEVELS, stages=5)
        if len(self.depths) != 5:
            raise ValueError(f"Darknet got depths={self.depths}; it takes one number for each of 5 stages")
        for name, known in (("stage", ("dark", "csp")), ("downsample", ("conv", "avg"))):
            if getattr(self, name) not in known:
                raise ValueError(f"Darknet got {name}={getattr(self, name)!r}; it knows {', '.join(known)}")
        super().__post_init__()

    @property
    def level_channels(self) -> tuple[int, ...]:
        """Channels of every level, built or not."""
        return tuple(self.width * 2**i for i in range(len(LEVELS)))

    @nn.compact
    def __call__(self, images: Float[Array, "b h w c"], *, train: bool) -> dict[str, Float[Array, "b _ _ _"]]:
        rates = pyramid.drop_path_rates(self.drop_path_rate, self.depths)
        stem = layers.ConvNorm(self.width, 3, norm=self.norm, activation=LeakyReLU(self.slope), name="stem_conv1")
        x = stem(images, train and not self.frozen_stages)
        x = pyramid.freeze(x, self.frozen_stages > 0)
        levels = {"c0": x}
        for i, geometry in enumerate(self.stages):
            frozen = i < self.frozen_stages
            x = Stage(
                features=self.width * 2 ** (i + 1),
                rates=rates[i],
                geometry=geometry,
                kind=self.stage,
                wide=i == 0,
                downsample=self.downsample,
                reduction=self.reduction,
                slope=self.slope,
                norm=self.norm,
                remat=self.remat,
                name=f"stages_{i}",
            )(x, train and not frozen)
            levels[LEVELS[i + 1]] = x = pyramid.freeze(x, frozen)
        return pyramid.select(levels, self.out_levels)


# Names of published weights, see `jaxvision/pretrained/keymaps.py`.
KEYS = {
    "timm": ((r"^backbone\.", ""), (r"^stem_conv1\.", "stem.conv1."), (r"^head\.", "head.fc.")),
    "openmmlab": (
        (r"^backbone\.stem_conv1\.", "backbone.conv1."),
        *((rf"^backbone\.stages\.{i}\.", f"backbone.conv_res_block{i + 1}.") for i in range(5)),
        (r"\.conv_down\.", ".conv."),
        (r"\.blocks\.(\d+)\.", r".res\1."),
        (r"^head\.", "head.fc."),
    ),
}
