"""Inverted residual blocks: narrow ends, a wide depthwise middle, the last convolution without activation.

Depthwise separable block: Howard et al. 2017 (arXiv:1704.04861); inverted residual: Sandler et al. 2018
(arXiv:1801.04381), fig. 4b; with squeeze-and-excitation behind the depthwise convolution: Tan et al. 2019
(arXiv:1807.11626), fig. 7. Submodules carry timm's names.
"""

import flax.linen as nn
from jaxtyping import Array, Float

from jaxvision.layers.activations import activation
from jaxvision.layers.conv import Conv, kaiming_normal_fan_out
from jaxvision.layers.drop_path import DropPath
from jaxvision.layers.norm import Norm
from jaxvision.layers.squeeze_excite import SqueezeExcite

depthwise_normal_fan_out = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
"""He et al. 2015, eq. 14, for one filter per channel: its fan-out is the kernel's area, which jax calls the fan-in."""


class DepthwiseSeparable(nn.Module):
    """A depthwise and a 1x1 convolution, and the input added where the shape is kept.

    Submodules `conv_dw`, `bn1`, `se`, `conv_pw`, `bn2`.

    Attributes:
      features: output channels.
      kernel_size, strides, dilation, padding: of the depthwise convolution, see `Conv`.
      squeeze: channels inside the squeeze-and-excitation; 0: none.
      activation: name in `activations.ACTIVATIONS`, behind every convolution but the last.
      squeeze_activation, gate: of the squeeze-and-excitation.
      shortcut: add the input where strides are 1 and channels are kept.
      drop_path: probability of dropping the residual branch while training.
    """

    features: int
    kernel_size: int = 3
    strides: int = 1
    dilation: int = 1
    padding: str | None = None
    squeeze: int = 0
    activation: str = "relu6"
    squeeze_activation: str = "relu"
    gate: str = "sigmoid"
    norm: Norm = Norm()
    shortcut: bool = True
    drop_path: float = 0.0

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 d"]:
        y = self.depthwise(x, "bn1", train)
        y = pointwise(self.features, name="conv_pw")(y)
        return self.join(x, self.norm(name="bn2")(y, train=train), train)

    @nn.nowrap
    def depthwise(self, x: Float[Array, "b h w c"], norm: str, train: bool) -> Float[Array, "b h2 w2 c"]:
        """The depthwise convolution, its norm of this name, activation and squeeze-and-excitation."""
        y = Conv(
            x.shape[-1],
            self.kernel_size,
            self.strides,
            padding=self.padding,
            dilation=self.dilation,
            groups=x.shape[-1],
            use_bias=False,
            kernel_init=depthwise_normal_fan_out,
            name="conv_dw",
        )(x)
        y = activation(self.activation)(self.norm(name=norm)(y, train=train))
        if not self.squeeze:
            return y
        return SqueezeExcite(
            self.squeeze,
            activation(self.squeeze_activation),
            activation(self.gate),
            names=("conv_reduce", "conv_expand"),
            name="se",
        )(y)

    @nn.nowrap
    def join(self, x: Float[Array, "b h w c"], y: Float[Array, "b h2 w2 d"], train: bool) -> Float[Array, "b h2 w2 d"]:
        if not self.shortcut or self.strides > 1 or x.shape[-1] != self.features:
            return y
        return x + DropPath(self.drop_path, name="drop_path")(y, train=train)


class InvertedResidual(DepthwiseSeparable):
    """The same behind a 1x1 convolution that widens the input.

    Submodules `conv_pw`, `bn1`, `conv_dw`, `bn2`, `se`, `conv_pwl`, `bn3`.

    Attributes:
      expanded: channels of the depthwise convolution.
    """

    expanded: int = 0

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 d"]:
        y = pointwise(self.expanded, name="conv_pw")(x)
        y = activation(self.activation)(self.norm(name="bn1")(y, train=train))
        y = self.depthwise(y, "bn2", train)
        y = pointwise(self.features, name="conv_pwl")(y)
        return self.join(x, self.norm(name="bn3")(y, train=train), train)


class ConvNormAct(nn.Module):
    """A 1x1 convolution with norm and activation. Submodules `conv`, `bn1`."""

    features: int
    activation: str = "relu"
    norm: Norm = Norm()

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w d"]:
        y = pointwise(self.features, name="conv")(x)
        return activation(self.activation)(self.norm(name="bn1")(y, train=train))


def pointwise(features: int, *, name: str) -> Conv:
    """A 1x1 convolution without bias, initialised for ReLU."""
    return Conv(features, 1, use_bias=False, kernel_init=kaiming_normal_fan_out, name=name)
