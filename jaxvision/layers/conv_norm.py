"""A convolution without bias, its normalisation and an activation: the unit of many convolutional networks."""

from collections.abc import Callable

import flax.linen as nn
from jaxtyping import Array, Float

from jaxvision.layers.conv import Conv, kaiming_normal_fan_out
from jaxvision.layers.norm import Norm


class ConvNorm(nn.Module):
    """Convolution `conv`, then norm `bn`, then the activation.

    Attributes:
      features, kernel_size, strides, dilation, groups, padding: of the convolution, see `layers.Conv`.
      norm: makes the normalisation.
      activation: None: the identity. A function must be hashable by value, so no `functools.partial`.
    """

    features: int
    kernel_size: int = 1
    strides: int = 1
    dilation: int = 1
    groups: int = 1
    norm: Norm = Norm()
    activation: Callable[[Array], Array] | None = None
    padding: int | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 d"]:
        y = Conv(
            self.features,
            self.kernel_size,
            self.strides,
            self.padding,
            self.dilation,
            self.groups,
            use_bias=False,
            kernel_init=kaiming_normal_fan_out,
            name="conv",
        )(x)
        y = self.norm(name="bn")(y, train=train)
        return y if self.activation is None else self.activation(y)
