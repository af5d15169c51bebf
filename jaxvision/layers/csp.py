"""Cross-stage partial layers (Wang et al. 2019, arXiv:1911.11929) in YOLOX's form (Ge et al. 2021, arXiv:2107.08430).

Half of the channels goes through residual blocks, the other half past them, and a 1x1 convolution joins both. Names of
submodules are OpenMMLab's.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxvision.layers.conv_norm import ConvNorm
from jaxvision.layers.drop_path import DropPath
from jaxvision.layers.norm import Norm

YOLOX_NORM = Norm("bn", epsilon=1e-3, momentum=0.97)


class SeparableConv(nn.Module):
    """A 3x3 convolution of each channel, then a 1x1 one over channels, each normalised and activated."""

    features: int
    strides: int = 1
    norm: Norm = YOLOX_NORM

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 d"]:
        channels = x.shape[-1]
        options: dict[str, Any] = {"norm": self.norm, "activation": nn.silu}
        x = ConvNorm(channels, 3, self.strides, groups=channels, name="depthwise_conv", **options)(x, train)
        return ConvNorm(self.features, name="pointwise_conv", **options)(x, train)


def spatial_conv(
    features: int, strides: int = 1, *, depthwise: bool, norm: Norm, name: str
) -> SeparableConv | ConvNorm:
    """A 3x3 convolution, normalised and activated: `SeparableConv` if `depthwise`."""
    if depthwise:
        return SeparableConv(features, strides, norm, name=name)
    return ConvNorm(features, 3, strides, norm=norm, activation=nn.silu, name=name)


class Block(nn.Module):
    """A 1x1 and a 3x3 convolution, with the input added if `residual`."""

    features: int
    residual: bool = True
    depthwise: bool = False
    norm: Norm = YOLOX_NORM
    drop_path: float = 0.0

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w c"]:
        y = ConvNorm(self.features, norm=self.norm, activation=nn.silu, name="conv1")(x, train)
        y = spatial_conv(self.features, depthwise=self.depthwise, norm=self.norm, name="conv2")(y, train)
        return x + DropPath(self.drop_path, name="drop_path")(y, train=train) if self.residual else y


class CSPLayer(nn.Module):
    """Half of the channels through blocks, the other half past them, joined by a 1x1 convolution.

    Attributes:
      features: output channels.
      rates: probability of dropping each block's residual branch.
      residual: blocks add their input.
      depthwise: see `SeparableConv`.
      remat: recompute blocks in the backward pass.
    """

    features: int
    rates: tuple[float, ...]
    residual: bool = True
    depthwise: bool = False
    norm: Norm = YOLOX_NORM
    remat: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w d"]:
        options: dict[str, Any] = {"norm": self.norm, "activation": nn.silu}
        block = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
        half = self.features // 2
        aside = ConvNorm(half, name="short_conv", **options)(x, train)
        x = ConvNorm(half, name="main_conv", **options)(x, train)
        for i, rate in enumerate(self.rates):
            x = block(half, self.residual, self.depthwise, self.norm, rate, name=f"blocks_{i}")(x, train)
        return ConvNorm(self.features, name="final_conv", **options)(jnp.concatenate([x, aside], -1), train)
