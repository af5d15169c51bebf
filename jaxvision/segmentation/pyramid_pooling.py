"""Pyramid pooling (Zhao et al. 2017, arXiv:1612.01105, section 3.2): what a region and the whole picture say of a cell.

Variables: "branches_<i>" and "bottleneck", a convolution "conv" and its norm "bn" each.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxvision import layers
from jaxvision.ops import pool
from jaxvision.ops.interpolate import interpolate


class PyramidPooling(nn.Module):
    """The map beside its means over ever smaller regions, fused by a 3x3 convolution.

    Attributes:
      width: channels of each branch and of the output.
      scales: regions along a side, of each branch.
      norm: of each convolution.
      align_corners: of the enlargement of the branches.
    """

    width: int
    scales: tuple[int, ...] = (1, 2, 3, 6)
    norm: layers.Norm = layers.Norm()
    align_corners: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h w width"]:
        size = (x.shape[1], x.shape[2])
        parts = [x]
        for i, scale in enumerate(self.scales):
            y = pool.adaptive_avg_pool(x, scale)
            y = layers.ConvNorm(self.width, norm=self.norm, activation=nn.relu, name=f"branches_{i}")(y, train)
            parts.append(interpolate(y, size, align_corners=self.align_corners))
        fuse = layers.ConvNorm(self.width, 3, norm=self.norm, activation=nn.relu, name="bottleneck")
        return fuse(jnp.concatenate(parts, axis=-1), train)
