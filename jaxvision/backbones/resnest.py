"""ResNeSt (Zhang et al. 2022, "ResNeSt: split-attention networks", arXiv:2004.08955), timm's sizes 14 to 269.

A deep-stemmed ResNet with averaged shortcuts whose 3x3 convolution is split into `radix` branches, which a softmax over
the branches weights channel by channel; strides are done by 3x3 average pooling beside that convolution (section 3.2).
Submodules carry timm's names. With stochastic depth timm drops the shortcut's input; here, as in the paper, the
residual branch is dropped.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxvision import layers
from jaxvision.backbones import pyramid
from jaxvision.backbones.resnet import KEYS as RESNET_KEYS
from jaxvision.backbones.resnet import Block, Bottleneck, ResNet, conv
from jaxvision.ops import pool

SIZES: Mapping[str, Mapping[str, Any]] = {
    **{f"resnest{depth}d": {"depth": depth} for depth in (14, 26, 50)},
    **{f"resnest{depth}e": {"depth": depth, "stem_width": 128} for depth in (101, 200, 269)},
    "resnest50d_4s2x40d": {"depth": 50, "radix": 4, "groups": 2, "width_per_group": 40, "avg_first": True},
    "resnest50d_1s4x24d": {"depth": 50, "radix": 1, "groups": 4, "width_per_group": 24, "avg_first": True},
}
"""Name -> fields of `ResNeSt`; the suffix of the last two is (radix)s(groups)x(width)d (table 2)."""


class SplitAttention(nn.Module):
    """Grouped 3x3 convolution into `radix` branches, and their sum weighted by attention (fig. 2).

    Attributes:
      features: output channels.
      radix: number of branches; 1 is squeeze-and-excitation.
    """

    features: int
    radix: int = 2
    groups: int = 1
    dilation: int = 1
    norm: layers.Norm = layers.Norm()

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 d"]:
        channels, groups = self.features * self.radix, self.groups * self.radix
        splits = conv(channels, 3, dilation=self.dilation, groups=groups, name="conv")(x)
        splits = nn.relu(self.norm(name="bn0")(splits, train=train))
        b, h, w, _ = splits.shape
        splits = splits.reshape(b, h, w, self.radix, self.features)
        pooled = jnp.mean(splits.sum(axis=3).astype(jnp.float32), axis=(1, 2), keepdims=True).astype(x.dtype)

        inner = pyramid.make_divisible(x.shape[-1] * self.radix * 0.25, least=32, lowest_share=0.9)
        y = layers.Conv(inner, 1, groups=self.groups, name="fc1")(pooled)
        y = nn.relu(self.norm(name="bn1")(y, train=train))
        y = layers.Conv(channels, 1, groups=self.groups, name="fc2")(y)
        if self.radix == 1:
            weights = nn.sigmoid(y)[:, :, :, None, :]
        else:  # the channels of `fc2` are ordered by group, those of `conv` by branch
            y = y.reshape(b, self.groups, self.radix, self.features // self.groups)
            weights = jax.nn.softmax(y, axis=2).transpose(0, 2, 1, 3).reshape(b, 1, 1, self.radix, self.features)
        return jnp.sum(splits * weights, axis=3)


class ResNeStBottleneck(Bottleneck):
    """A bottleneck around split attention; fields as there, and:

    Attributes:
      radix: branches of the split attention.
      avg_first: the average pooling that has the stride stands before the split attention, not behind it.
    """

    radix: int = 2
    avg_first: bool = False

    @nn.nowrap
    def spatial(self, y: Float[Array, "b h w c"], strides: int, train: bool) -> Float[Array, "b h2 w2 d"]:
        if strides > 1 and self.avg_first:
            y = pool.avg_pool(y, 3, strides, 1)
        attention = SplitAttention(
            self.middle, self.radix, self.groups, dilation=self.first_dilation, norm=self.norm, name="conv2"
        )
        y = attention(y, train)
        return pool.avg_pool(y, 3, strides, 1) if strides > 1 and not self.avg_first else y


class ResNeSt(ResNet):
    """Levels and fields as those of `ResNet`, with a deep stem and averaged shortcuts as defaults, and:

    Attributes:
      radix, avg_first: see `ResNeStBottleneck`.
    """

    stem: str = "deep"
    shortcut: str = "avg"
    radix: int = 2
    avg_first: bool = False

    def __post_init__(self) -> None:
        if self.style != "pytorch":
            raise ValueError(f"ResNeSt got style={self.style!r}; its strides are done by pooling")
        if self.deformable:
            raise ValueError(f"ResNeSt got deformable={self.deformable}; its 3x3 convolutions are split attention")
        super().__post_init__()

    @property
    def blocks(self) -> Mapping[str, type[Block]]:
        return {"bottleneck": ResNeStBottleneck}

    @nn.nowrap
    def block_options(self, features: int) -> dict[str, Any]:
        return {**super().block_options(features), "radix": self.radix, "avg_first": self.avg_first}


KEYS = {source: rules for source, rules in RESNET_KEYS.items() if source.startswith(("timm", "openmmlab"))}
"""Names of published weights, see `jaxvision/pretrained/keymaps.py`."""
