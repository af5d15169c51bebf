"""Atrous spatial pyramid pooling (Chen et al. 2017, arXiv:1706.05587, section 3.3): one map seen with several fields.

Variables: "image_pool", "branches_<i>" and "bottleneck", a convolution "conv" and its norm "bn" each; of separable
branches that lies under "depthwise" and "pointwise".
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxvision import layers
from jaxvision.ops import pool


class SeparableConvNorm(nn.Module):
    """A depthwise 3x3 convolution and a 1x1 convolution, each with a norm and ReLU.

    Attributes:
      features: output channels.
      dilation: of the depthwise convolution.
      norm: of both.
    """

    features: int
    dilation: int = 1
    norm: layers.Norm = layers.Norm()

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w features"]:
        options: dict[str, Any] = {"norm": self.norm, "activation": nn.relu}
        channels = x.shape[-1]
        x = layers.ConvNorm(channels, 3, dilation=self.dilation, groups=channels, name="depthwise", **options)(x, train)
        return layers.ConvNorm(self.features, name="pointwise", **options)(x, train)


class ASPP(nn.Module):
    """The mean of the map beside convolutions of several dilations, fused by one more.

    Attributes:
      width: channels of each branch and of the output.
      dilations: of each branch; a branch of 1 is a 1x1 convolution, the others are 3x3.
      separable: 3x3 convolutions are depthwise, with a 1x1 convolution behind them (DeepLabv3+).
      kernel: of the fusing convolution.
      norm: of each convolution.
    """

    width: int
    dilations: tuple[int, ...] = (1, 12, 24, 36)
    separable: bool = False
    kernel: int = 3
    norm: layers.Norm = layers.Norm()

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h w width"]:
        options: dict[str, Any] = {"norm": self.norm, "activation": nn.relu}
        mean = pool.global_avg_pool(x)[:, None, None]
        mean = layers.ConvNorm(self.width, name="image_pool", **options)(mean, train)
        parts = [jnp.broadcast_to(mean, (*x.shape[:3], self.width))]
        for i, dilation in enumerate(self.dilations):
            name = f"branches_{i}"
            if self.separable and dilation > 1:
                branch: nn.Module = SeparableConvNorm(self.width, dilation, self.norm, name=name)
            else:
                kernel = 1 if dilation == 1 else 3
                branch = layers.ConvNorm(self.width, kernel, dilation=dilation, name=name, **options)
            parts.append(branch(x, train))
        fuse = layers.ConvNorm(self.width, self.kernel, name="bottleneck", **options)
        return fuse(jnp.concatenate(parts, axis=-1), train)
