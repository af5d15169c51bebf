"""Deformable convolution as a layer: an ordinary convolution says where the taps of another one read.

v1: Dai et al. 2017 (arXiv:1703.06211), section 2.1; with `modulated`, v2: Zhu et al. 2019 (arXiv:1811.11168), section
3.2, it also says with which factor. Names of parameters and order of channels are mmcv's (`DeformConv2dPack`,
`ModulatedDeformConv2dPack`).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer
from jaxtyping import Array, Float

from jaxvision.layers.conv import Conv, torch_kernel_init
from jaxvision.ops.deform_conv import deform_conv2d


class DeformConv(nn.Module):
    """2-d convolution without bias whose taps move. Parameters: `kernel` [k, k, in / groups, features], `conv_offset`.

    It starts as the plain convolution (v1), or as half of it (v2): `conv_offset` is zero.

    Attributes:
      features, kernel_size, strides, dilation, groups, kernel_init: as in `Conv`; zeros around the map keep its size at
        stride 1, as there.
      deform_groups: groups of input channels, each of which has shifts of its own.
      modulated: v2, each tap with a factor in [0, 1].
    """

    features: int
    kernel_size: int = 3
    strides: int = 1
    dilation: int = 1
    groups: int = 1
    deform_groups: int = 1
    modulated: bool = False
    kernel_init: Initializer = torch_kernel_init

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        """Raises ValueError unless `groups` divides channels and `features`, and `deform_groups` the channels."""
        channels, size = x.shape[-1], self.kernel_size
        if channels % self.groups or self.features % self.groups or channels % self.deform_groups:
            raise ValueError(
                f"DeformConv {self.name!r} got groups={self.groups}, deform_groups={self.deform_groups} for {channels} "
                f"input and {self.features} output channels; choose numbers that divide them"
            )
        taps, zeros = self.deform_groups * size**2, nn.initializers.zeros
        said = Conv(
            (3 if self.modulated else 2) * taps,
            size,
            self.strides,
            dilation=self.dilation,
            kernel_init=zeros,
            bias_init=zeros,
            name="conv_offset",
        )(x)
        shape = (size, size, channels // self.groups, self.features)
        return deform_conv2d(
            x,
            said[..., : 2 * taps],
            self.param("kernel", self.kernel_init, shape, jnp.float32),
            jax.nn.sigmoid(said[..., 2 * taps :]) if self.modulated else None,
            strides=self.strides,
            padding=self.dilation * (size - 1) // 2,
            dilation=self.dilation,
        )
