"""ShuffleNet v2 (Ma et al. 2018, arXiv:1807.11164, table 5).

Numbers and submodules' names are torchvision's (at twice the width it has 244, 488 and 976 channels, as the authors'
code; OpenMMLab the same).
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxvision import layers
from jaxvision.backbones import pyramid
from jaxvision.ops import pool
from jaxvision.ops.channel_shuffle import channel_shuffle

SIZES: Mapping[str, Mapping[str, Any]] = {
    "shufflenet_v2_x0_5": {"widths": (24, 48, 96, 192, 1024)},
    "shufflenet_v2_x1_0": {"widths": (24, 116, 232, 464, 1024)},
    "shufflenet_v2_x1_5": {"widths": (24, 176, 352, 704, 1024)},
    "shufflenet_v2_x2_0": {"widths": (24, 244, 488, 976, 2048)},
}
"""Name -> fields of `ShuffleNetV2`."""

LEVELS = ("c1", "c2", "c3", "c4", "c5", "pooled")


class ShuffleUnit(nn.Module):
    """Two branches whose channels are joined and shuffled (fig. 3c, d).

    Attributes:
      features: output channels.
      splits: the first half of the input is the first branch (fig. 3c); else both branches see all of it (fig. 3d).
      strides, dilation: of the depthwise convolutions.
    """

    features: int
    splits: bool = True
    strides: int = 1
    dilation: int = 1
    norm: layers.Norm = layers.Norm()

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 d"]:
        half = self.features // 2
        if self.splits:
            first, y = jnp.split(x, 2, axis=-1)
        else:
            first = self._depthwise(x, "branch1", 0, train)
            first = nn.relu(self._pointwise(first, half, "branch1", 2, train))
            y = x
        y = nn.relu(self._pointwise(y, half, "branch2", 0, train))
        y = self._depthwise(y, "branch2", 3, train)
        y = nn.relu(self._pointwise(y, half, "branch2", 5, train))
        return channel_shuffle(jnp.concatenate((first, y), axis=-1), 2)

    @nn.nowrap
    def _depthwise(self, x: Float[Array, "b h w c"], branch: str, i: int, train: bool) -> Float[Array, "b h2 w2 c"]:
        c = x.shape[-1]
        conv = layers.Conv(c, 3, self.strides, dilation=self.dilation, groups=c, use_bias=False, name=f"{branch}_{i}")
        return self.norm(name=f"{branch}_{i + 1}")(conv(x), train=train)

    @nn.nowrap
    def _pointwise(
        self, x: Float[Array, "b h w c"], features: int, branch: str, i: int, train: bool
    ) -> Float[Array, "b h w d"]:
        x = layers.Conv(features, 1, use_bias=False, name=f"{branch}_{i}")(x)
        return self.norm(name=f"{branch}_{i + 1}")(x, train=train)


class ShuffleNetV2(pyramid.Pyramid):
    """Levels "c3", "c4", "c5", the outputs of stages 2, 3 and 4; "c1" and "c2", of the stem's two layers; and "pooled".

    "pooled" is the mean of the last 1x1 convolution's output, which the classifier sees; that convolution exists only
    if it is asked for.

    Attributes:
      widths: channels of the stem, of the three stages and of the last convolution.
      depths: units per stage.
      norm: normalisation of every convolution.
      out_levels: which levels are returned; later stages are not built.
      frozen_stages: the stem and this many stages pass no gradient and use running statistics.
      output_stride: 32, or 16 or 8: later stages dilate instead.
      remat: recompute units in the backward pass.
    """

    levels = LEVELS
    stem_levels = 2
    parts = (r"conv1_\d/.*", *(rf"stage{i}_\d+/.*" for i in range(2, 5)))
    stage_strides = (2, 2, 2)
    stem_stride = 4

    widths: tuple[int, int, int, int, int] = (24, 116, 232, 464, 1024)
    depths: tuple[int, int, int] = (4, 8, 4)
    norm: layers.Norm = layers.Norm()
    out_levels: tuple[str, ...] = LEVELS[1:5]
    frozen_stages: int = 0
    output_stride: int = 32
    remat: bool = False

    def __post_init__(self) -> None:
        if odd := [width for width in self.widths[1:4] if width % 2]:
            raise ValueError(f"ShuffleNetV2 got widths={self.widths}; {odd} cannot be split into two branches")
        pyramid.check(self, LEVELS, stages=3)
        super().__post_init__()

    @property
    def level_channels(self) -> tuple[int, ...]:
        """Channels of every level, built or not."""
        return (self.widths[0], *self.widths)

    @nn.compact
    def __call__(self, images: Float[Array, "b h w c"], *, train: bool) -> dict[str, Array]:
        unit = pyramid.block_class(ShuffleUnit, self.remat)
        running = train and not self.frozen_stages
        x = layers.Conv(self.widths[0], 3, 2, use_bias=False, name="conv1_0")(images)
        x = nn.relu(self.norm(name="conv1_1")(x, train=running))
        x = pyramid.freeze(x, self.frozen_stages > 0)
        levels = {"c1": x, "c2": (x := pool.max_pool(x, 3, 2, 1))}
        for i, stage in enumerate(self.stages):
            frozen = i < self.frozen_stages
            for j in range(self.depths[i]):
                x = unit(
                    features=self.widths[i + 1],
                    splits=j > 0,
                    strides=stage.strides if j == 0 else 1,
                    dilation=stage.first_dilation if j == 0 else stage.dilation,
                    norm=self.norm,
                    name=f"stage{i + 2}_{j}",
                )(x, train and not frozen)
            levels[LEVELS[i + 2]] = x = pyramid.freeze(x, frozen)
        if "pooled" in self.out_levels:
            x = layers.Conv(self.widths[4], 1, use_bias=False, name="conv5_0")(x)
            x = nn.relu(self.norm(name="conv5_1")(x, train=train))
            levels["pooled"] = pool.global_avg_pool(x)
        return pyramid.select(levels, self.out_levels)


# Names of published weights, see `jaxvision/pretrained/keymaps.py`.
KEYS = {
    "torchvision": ((r"^backbone\.", ""), (r"^head\.", "fc.")),
    "openmmlab": (
        *((rf"^backbone\.conv1\.{i}\.", f"backbone.conv1.{part}.") for i, part in enumerate(("conv", "bn"))),
        *((rf"^backbone\.conv5\.{i}\.", f"backbone.layers.3.{part}.") for i, part in enumerate(("conv", "bn"))),
        *((rf"\.branch1\.{i}\.(?!conv|bn)", f".branch1.{i // 2}.{('conv', 'bn')[i % 2]}.") for i in range(4)),
        *(
            (rf"\.branch2\.{i}\.(?!conv|bn)", f".branch2.{j}.{part}.")
            for i, j, part in ((0, 0, "conv"), (1, 0, "bn"), (3, 1, "conv"), (4, 1, "bn"), (5, 2, "conv"), (6, 2, "bn"))
        ),
        *((rf"^backbone\.stage{i + 2}\.", f"backbone.layers.{i}.") for i in range(3)),
        (r"^head\.", "head.fc."),
    ),
}
