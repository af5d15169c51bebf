"""The CSPDarknet of YOLOX (Ge et al. 2021, arXiv:2107.08430): cross-stage partial stages on a space-to-depth stem.

A stage halves the resolution, sends half of its channels through residual blocks and joins both halves; the last one
pools at three scales in front of that (He et al. 2015, arXiv:1406.4729). Widths and depths of the five sizes are
multiples of one network's; "nano" has depthwise-separable 3x3 convolutions. Numbers and names of submodules are
OpenMMLab's; timm's `cs3darknet` is YOLOv5's form of it, which joins the two first 1x1 convolutions.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxvision import layers
from jaxvision.backbones import pyramid
from jaxvision.layers.csp import YOLOX_NORM, CSPLayer, spatial_conv
from jaxvision.ops import pool

SIZES: Mapping[str, Mapping[str, Any]] = {
    "cspdarknet_nano": {"deepen": 0.33, "widen": 0.25, "depthwise": True},
    "cspdarknet_tiny": {"deepen": 0.33, "widen": 0.375},
    "cspdarknet_s": {"deepen": 0.33, "widen": 0.5},
    "cspdarknet_m": {"deepen": 0.67, "widen": 0.75},
    "cspdarknet_l": {"deepen": 1.0, "widen": 1.0},
    "cspdarknet_x": {"deepen": 1.33, "widen": 1.25},
}
"""Name -> fields of `CSPDarknet`: the factors of YOLOX's sizes, as in OpenMMLab's configs."""

LEVELS = ("c1", "c2", "c3", "c4", "c5")
DEPTHS = (3, 9, 9, 3)
"""Blocks of each stage at `deepen=1`."""
WINDOWS = (5, 9, 13)
"""Windows of the spatial pyramid pooling."""


class SpatialPyramid(nn.Module):
    """Maxima over `WINDOWS` around every pixel, beside the pixel itself, between two 1x1 convolutions."""

    features: int
    norm: layers.Norm = YOLOX_NORM

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w d"]:
        options: dict[str, Any] = {"norm": self.norm, "activation": nn.silu}
        x = layers.ConvNorm(x.shape[-1] // 2, name="conv1", **options)(x, train)
        scales = [x]
        for before, window in zip((1, *WINDOWS[:-1]), WINDOWS, strict=True):
            # A maximum over 9 pixels is one over 5 of the maxima over 5: fewer comparisons for the same number.
            step = window - before + 1
            scales.append(pool.max_pool(scales[-1], step, 1, step // 2))
        return layers.ConvNorm(self.features, name="conv2", **options)(jnp.concatenate(scales, axis=-1), train)


class CSPDarknet(pyramid.Pyramid):
    """Feature levels "c2" ... "c5", the outputs of the four stages, and "c1", that of the stem.

    Attributes:
      deepen: multiplies `DEPTHS`; at least one block stays.
      widen: multiplies the channels 64, 128, ..., 1024 of the levels.
      depthwise: see `SeparableConv`.
      norm: YOLOX's batch norm has epsilon 1e-3 and torch's momentum 0.03.
      out_levels, frozen_stages, drop_path_rate, remat: see `pyramid`.
    """

    levels = LEVELS
    parts = (r"stem_conv/.*", *(rf"stage{i}_\d/.*" for i in range(1, 5)))

    deepen: float = 1.0
    widen: float = 1.0
    depthwise: bool = False
    norm: layers.Norm = YOLOX_NORM
    out_levels: tuple[str, ...] = LEVELS[2:]
    frozen_stages: int = 0
    drop_path_rate: float = 0.0
    remat: bool = False

    def __post_init__(self) -> None:
        pyramid.check(self, LEVELS, stages=4)
        if self.widen * 64 < 2 or self.deepen < 0:
            raise ValueError(
                f"CSPDarknet got widen={self.widen}, deepen={self.deepen}; it takes a factor of at least 1/32, and one "
                "that is not negative"
            )
        super().__post_init__()

    @property
    def depths(self) -> tuple[int, ...]:
        """Blocks of each stage."""
        return tuple(max(round(depth * self.deepen), 1) for depth in DEPTHS)

    @property
    def level_channels(self) -> tuple[int, ...]:
        """Channels of every level, built or not."""
        return tuple(int(64 * 2**i * self.widen) for i in range(len(LEVELS)))

    @nn.compact
    def __call__(self, images: Float[Array, "b h w c"], *, train: bool) -> dict[str, Float[Array, "b _ _ _"]]:
        """Raises ValueError unless height and width are even."""
        rates = pyramid.drop_path_rates(self.drop_path_rate, self.depths)
        widths = [int(64 * 2**i * self.widen) for i in range(len(LEVELS))]
        stem = layers.ConvNorm(widths[0], 3, norm=self.norm, activation=nn.silu, name="stem_conv")
        x = stem(space_to_depth(images), train and not self.frozen_stages)
        x = pyramid.freeze(x, self.frozen_stages > 0)
        levels = {"c1": x}
        for i in range(self.built):
            frozen, stage, width = i < self.frozen_stages, f"stage{i + 1}", widths[i + 1]
            training, last = train and not frozen, i == len(DEPTHS) - 1
            x = spatial_conv(width, 2, depthwise=self.depthwise, norm=self.norm, name=f"{stage}_0")(x, training)
            if last:
                x = SpatialPyramid(width, self.norm, name=f"{stage}_1")(x, training)
            x = CSPLayer(
                features=width,
                rates=rates[i],
                residual=not last,
                depthwise=self.depthwise,
                norm=self.norm,
                remat=self.remat,
                name=f"{stage}_{2 if last else 1}",
            )(x, training)
            levels[LEVELS[i + 1]] = x = pyramid.freeze(x, frozen)
        return pyramid.select(levels, self.out_levels)


def space_to_depth(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 4*c"]:
    """The four pixels of each 2x2 square as channels, column by column ("Focus"); h2 = h / 2, w2 = w / 2."""
    b, h, w, c = x.shape
    if h % 2 or w % 2:
        raise ValueError(f"CSPDarknet got images of {h}x{w} pixels; height and width must be even: pad by one pixel")
    return x.reshape(b, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 4, 2, 5).reshape(b, h // 2, w // 2, 4 * c)


# Names of published weights, see `jaxvision/pretrained/keymaps.py`.
KEYS = {"openmmlab": ((r"^backbone\.stem_conv\.", "backbone.stem.conv."), (r"^head\.", "head.fc."))}
