"""The neck of YOLOv3 (Redmon and Farhadi 2018, arXiv:1804.02767, section 2.3): top down, with concatenation.

Five convolutions, in turn 1x1 and 3x3, refine each level; the result is halved in channels by a 1x1 convolution,
enlarged to the next finer level and joined to it. As in OpenMMLab, the fifth convolution is a level's output; the paper
counts the 3x3 convolution behind it to the same series, which here belongs to the head. Submodules carry OpenMMLab's
names: `detect1` is the coarsest level's.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxvision import layers
from jaxvision.layers.activations import LeakyReLU
from jaxvision.necks.levels import check_names, needed, returned
from jaxvision.ops import interpolate

SLOPE = 0.1
"""Of the leaky ReLU in Darknet and OpenMMLab."""


class DetectionBlock(nn.Module):
    """Convolutions `conv1` ... `conv5`: 1x1 to `features` and 3x3 to twice as many, in turn."""

    features: int
    norm: layers.Norm = layers.Norm()

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w d"]:
        for i in range(5):
            wide = i % 2
            conv = layers.ConvNorm(
                self.features * (1 + wide),
                1 + 2 * wide,
                norm=self.norm,
                activation=LeakyReLU(SLOPE),
                name=f"conv{i + 1}",
            )
            x = conv(x, train)
        return x


class YOLOv3Neck(nn.Module):
    """Levels "p<k>" from "c<k>".

    Attributes:
      in_levels: levels of the backbone, finest first; each half as large as the one before.
      channels: of the finest level; each coarser one has twice as many.
      norm: of every convolution.
    """

    in_levels: tuple[str, ...] = ("c3", "c4", "c5")
    channels: int = 128
    norm: layers.Norm = layers.Norm()

    def __post_init__(self) -> None:
        check_names("YOLOv3Neck", self.in_levels)
        super().__post_init__()

    @property
    def out_levels(self) -> tuple[str, ...]:
        """Names of the returned levels, finest first."""
        return returned(self.in_levels)

    @nn.nowrap
    def strides(self, of_backbone: Mapping[str, int]) -> dict[str, int]:
        """Input pixels per pixel of each returned level, from those of the backbone's levels."""
        return dict(zip(self.out_levels, (of_backbone[level] for level in self._check(of_backbone)), strict=True))

    @nn.compact
    def __call__(
        self, levels: Mapping[str, Float[Array, "b _ _ _"]], *, train: bool = False
    ) -> dict[str, Float[Array, "b _ _ _"]]:
        """Raises ValueError where a level of `in_levels` is missing."""
        inputs = [levels[level] for level in self._check(levels)]
        outputs: list[Array] = []
        for i, x in enumerate(reversed(inputs)):
            channels = self.channels * 2 ** (len(inputs) - 1 - i)
            if i:
                options: dict[str, Any] = {"norm": self.norm, "activation": LeakyReLU(SLOPE)}
                above = layers.ConvNorm(channels, name=f"conv{i}", **options)(outputs[-1], train)
                above = interpolate.interpolate(above, (x.shape[1], x.shape[2]), method="nearest")
                x = jnp.concatenate([above, x], axis=-1)
            outputs.append(DetectionBlock(channels, self.norm, name=f"detect{i + 1}")(x, train))
        return dict(zip(self.out_levels, reversed(outputs), strict=True))

    @nn.nowrap
    def _check(self, levels: Mapping[str, object]) -> tuple[str, ...]:
        return needed("YOLOv3Neck", self.in_levels, levels)
