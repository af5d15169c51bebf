"""ShuffleNet v1 (Zhang et al. 2018, arXiv:1707.01083, table 1), as OpenMMLab has it.

Channels are shuffled behind the depthwise convolution instead of in front of it, which is the same network with its
depthwise channels in another order. Submodules carry OpenMMLab's names.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxvision import layers
from jaxvision.backbones import pyramid
from jaxvision.ops import pool
from jaxvision.ops.channel_shuffle import channel_shuffle

CHANNELS = {1: 144, 2: 200, 3: 240, 4: 272, 8: 384}
"""Table 1: groups -> output channels of stage 2 at width 1; they double with each stage."""

SIZES: Mapping[str, Mapping[str, Any]] = {
    **{f"shufflenet_v1_x{str(w).replace('.', '_')}": {"width": w} for w in (0.25, 0.5, 1.0, 1.5, 2.0)},
    **{f"shufflenet_v1_x1_0_g{groups}": {"groups": groups} for groups in (1, 2, 4, 8)},
}
"""Name -> fields of `ShuffleNetV1`: tables 1, 2 and 5; three groups where the name says nothing."""

LEVELS = ("c1", "c2", "c3", "c4", "c5")


def normal_over_inputs(key: PRNGKeyArray, shape: Sequence[int], dtype: Any = None, out_sharding: Any = None) -> Array:
    """OpenMMLab's initialisation: normal with a standard deviation of 1 / input channels of a group."""
    return jax.random.normal(key, shape, dtype or jnp.float32) / shape[-2]


class ConvNorm(nn.Module):
    """Convolution without bias and its norm."""

    features: int
    kernel_size: int = 1
    strides: int = 1
    dilation: int = 1
    groups: int = 1
    norm: layers.Norm = layers.Norm()
    kernel_init: Any = normal_over_inputs

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 d"]:
        x = layers.Conv(
            self.features,
            self.kernel_size,
            self.strides,
            dilation=self.dilation,
            groups=self.groups,
            use_bias=False,
            kernel_init=self.kernel_init,
            name="conv",
        )(x)
        return self.norm(name="bn")(x, train=train)


class ShuffleUnit(nn.Module):
    """Grouped 1x1, depthwise 3x3 and grouped 1x1 convolution beside a shortcut (fig. 2b, c).

    Attributes:
      features: output channels.
      groups: of the 1x1 convolutions.
      joins: the shortcut's averaged channels stand beside the new ones (fig. 2c); else both are added.
      first_groups: of the first 1x1 convolution.
      strides, dilation: of the depthwise convolution.
    """

    features: int
    groups: int = 3
    joins: bool = False
    first_groups: int = 3
    strides: int = 1
    dilation: int = 1
    norm: layers.Norm = layers.Norm()

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 d"]:
        middle, out = self.features // 4, self.features - (x.shape[-1] if self.joins else 0)
        y = ConvNorm(middle, groups=self.first_groups, norm=self.norm, name="g_conv_1x1_compress")(x, train)
        y = ConvNorm(middle, 3, self.strides, self.dilation, middle, self.norm, name="depthwise_conv3x3_bn")(
            nn.relu(y), train
        )
        y = channel_shuffle(y, self.groups)
        y = ConvNorm(out, groups=self.groups, norm=self.norm, name="g_conv_1x1_expand")(y, train)
        if self.joins:
            return jnp.concatenate((pool.avg_pool(x, 3, self.strides, 1), nn.relu(y)), axis=-1)
        return nn.relu(x + y)


class ShuffleNetV1(pyramid.Pyramid):
    """Levels "c3", "c4", "c5", the outputs of stages 2, 3 and 4; "c1" and "c2", those of the stem's two layers.

    Attributes:
      groups: of the 1x1 convolutions, a key of `CHANNELS`.
      width: multiplies all channels (rounded down). OpenMMLab's code rounds to multiples of 8, which changes none of
        `SIZES` but the quarter, of which it cannot build the paper's form.
      depths: units per stage.
      norm: normalisation of every convolution.
      out_levels: which levels are returned; later stages are not built.
      frozen_stages: the stem and this many stages pass no gradient and use running statistics.
      output_stride: 32, or 16 or 8: later stages dilate instead.
      remat: recompute units in the backward pass.
    """

    levels = LEVELS
    stem_levels = 2
    parts = (r"conv1/.*", *(rf"layers_{i}_\d+/.*" for i in range(3)))
    stage_strides = (2, 2, 2)
    stem_stride = 4

    groups: int = 3
    width: float = 1.0
    depths: tuple[int, int, int] = (4, 8, 4)
    norm: layers.Norm = layers.Norm()
    out_levels: tuple[str, ...] = LEVELS[1:]
    frozen_stages: int = 0
    output_stride: int = 32
    remat: bool = False

    def __post_init__(self) -> None:
        if self.groups not in CHANNELS:
            raise ValueError(f"ShuffleNetV1 got groups={self.groups}; it knows {', '.join(map(str, CHANNELS))}")
        pyramid.check(self, LEVELS, stages=3)
        super().__post_init__()

    @property
    def widths(self) -> tuple[int, int, int, int]:
        """Channels of the stem and of the three stages."""
        first = CHANNELS[self.groups] * self.width
        return (int(24 * self.width), int(first), int(2 * first), int(4 * first))

    @property
    def level_channels(self) -> tuple[int, ...]:
        """Channels of every level, built or not."""
        return (self.widths[0], *self.widths)

    @nn.compact
    def __call__(self, images: Float[Array, "b h w c"], *, train: bool) -> dict[str, Float[Array, "b _ _ _"]]:
        unit = pyramid.block_class(ShuffleUnit, self.remat)
        stem, *widths = self.widths
        init = nn.initializers.normal(0.01)
        x = ConvNorm(stem, 3, 2, norm=self.norm, kernel_init=init, name="conv1")(
            images, train and not self.frozen_stages
        )
        x = nn.relu(x)
        x = pyramid.freeze(x, self.frozen_stages > 0)
        levels = {"c1": x, "c2": (x := pool.max_pool(x, 3, 2, 1))}
        for i, stage in enumerate(self.stages):
            frozen = i < self.frozen_stages
            for j in range(self.depths[i]):
                x = unit(
                    features=widths[i],
                    groups=self.groups,
                    joins=j == 0,
                    first_groups=1 if i == j == 0 else self.groups,
                    strides=stage.strides if j == 0 else 1,
                    dilation=stage.first_dilation if j == 0 else stage.dilation,
                    norm=self.norm,
                    name=f"layers_{i}_{j}",
                )(x, train and not frozen)
            levels[LEVELS[i + 2]] = x = pyramid.freeze(x, frozen)
        return pyramid.select(levels, self.out_levels)


# Names of published weights, see `jaxvision/pretrained/keymaps.py`.
KEYS = {"openmmlab": ((r"^head\.", "head.fc."),)}
