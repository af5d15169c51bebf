"""FCN-32s, FCN-16s and FCN-8s (Long, Shelhamer and Darrell 2015, arXiv:1411.4038, section 4).

A classifier turned into convolutions (`backbones/fcn_vgg.py`) scores every class at stride 32; transposed convolutions
that start as bilinear interpolation enlarge the scores, and on the way those of the fourth and third pooling are added.
Each step is cut so that pixels meet: the published nets' offsets (5, 9; 19, 27, 31) follow from where levels lie.

The published nets come in two kinds: trained in three steps, and "at once", where the pooled levels are scaled by 0.01
and 0.0001 before they are scored. The default is the latter; `skip_scales=(1.0, 1.0)` the former.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxvision import layers
from jaxvision.ops.interpolate import interpolate
from jaxvision.pretrained.keymaps import Rules
from jaxvision.segmentation.keys import with_backbone
from jaxvision.segmentation.segmentor import Levels, Segmentor, level_of

__all__ = ["HEAD", "FCNSkips", "keys"]
HEAD = r"/(score_\w+|upscore\w*|conv_seg)/"
"""Layers that depend on the number of classes."""


class SkipHead(nn.Module):
    """Scores `score_fr`, `score_pool4`, `score_pool3` and what enlarges them; fields are those of `FCNSkips`.

    Attributes:
      window: of the backbone's first hidden layer.
    """

    num_classes: int
    stride: int
    window: int
    skip_scales: tuple[float, float]
    learned_upsampling: bool

    @nn.compact
    def __call__(self, levels: Levels) -> Float[Array, "b h w classes"]:
        x = self._score(level_of(levels, "c5", "the head's last level"), "score_fr")
        # How much later the first pixel of the enlarged scores lies, in pixels of the skipped level.
        later = (self.window - 2, 2 * self.window - 5) if self.window > 1 else (0, 0)
        skips = (("c4", "pool4", later[0]), ("c3", "pool3", later[1]))
        names = {16: ("upscore2",), 8: ("upscore2", "upscore_pool4")}.get(self.stride, ())
        for (level, pooled, offset), scale, name in zip(skips, self.skip_scales, names, strict=False):
            x = self._enlarge(x, 2, name)
            own = level_of(levels, level, "a skip of the head")
            own = self._score(own * jnp.asarray(scale, own.dtype), f"score_{pooled}")
            x = sum_where_they_meet(x, own, offset)
        return self._enlarge(x, self.stride, {32: "upscore", 16: "upscore16", 8: "upscore8"}[self.stride])

    @nn.nowrap
    def _score(self, x: Float[Array, "b h w c"], name: str) -> Float[Array, "b h w classes"]:
        zeros = nn.initializers.zeros
        return layers.Conv(self.num_classes, 1, kernel_init=zeros, bias_init=zeros, name=name)(x)

    @nn.nowrap
    def _enlarge(self, x: Float[Array, "b h w classes"], factor: int, name: str) -> Float[Array, "b h2 w2 classes"]:
        """`factor` times as large; behind a window, which leaves room for it, factor / 2 pixels more on each side."""
        half, margin = factor // 2, self.window > 1
        if self.learned_upsampling:
            return layers.ConvTranspose(
                self.num_classes,
                2 * factor,
                factor,
                padding=0 if margin else half,
                use_bias=False,
                kernel_init=bilinear,
                name=name,
            )(x)
        y = interpolate(x, (x.shape[1] * factor, x.shape[2] * factor))
        return jnp.pad(y, ((0, 0), (half, half), (half, half), (0, 0)), mode="edge") if margin else y


class FCNSkips(Segmentor):
    """Variables lie under "backbone", "decode_head" and "auxiliary_head". Logits are those of every pixel.

    With another backbone than FCN's VGG the levels are taken to lie as those of FCN's VGG with `window` 1 and `pad` 0.

    Attributes:
      stride: of the last enlargement: 32 (no skips), 16 (the fourth pooling, "c4") or 8 (also the third, "c3").
      skip_scales: factors of "c4" and "c3" before their scores.
      learned_upsampling: by transposed convolutions that start as bilinear; else bilinear, without parameters.
    """

    stride: int = 8
    skip_scales: tuple[float, float] = (0.01, 0.0001)
    learned_upsampling: bool = True

    def __post_init__(self) -> None:
        if self.stride not in (8, 16, 32):
            raise ValueError(f"FCNSkips got stride={self.stride}; it takes 8, 16 or 32")
        super().__post_init__()

    def setup(self) -> None:
        super().setup()
        self.decode_head = SkipHead(
            self.num_classes, self.stride, self.window, self.skip_scales, self.learned_upsampling
        )

    @property
    def window(self) -> int:
        """Side of the kernel of the backbone's first hidden layer; 1: it has none."""
        return getattr(self.backbone, "window", 1)

    @property
    def pad(self) -> int:
        """Zeros that the backbone puts around the image."""
        return getattr(self.backbone, "pad", 0)

    def decode(self, levels: Levels, *, train: bool) -> Float[Array, "b h w classes"]:
        """Logits of every pixel of the image, and a margin; `heads` cuts it off."""
        return self.decode_head(levels)

    def heads(
        self, images: Float[Array, "b h w c"], levels: Levels, *, train: bool
    ) -> tuple[Float[Array, "b h w classes"], tuple[Float[Array, "b _ _ classes"], ...]]:
        logits, auxiliary = super().heads(images, levels, train=train)
        margin = {32: 16, 16: 24, 8: 28}[self.stride] if self.window > 1 else 0
        start = margin - 16 * (self.window - 1) + self.pad
        height, width = images.shape[1:3]
        return logits[:, start : start + height, start : start + width], auxiliary


def sum_where_they_meet(
    x: Float[Array, "b h w c"], other: Float[Array, "b h2 w2 c"], offset: int
) -> Float[Array, "b h3 w3 c"]:
    """The sum of two maps of one stride, where pixel 0 of `x` is pixel `offset` of `other`, where both are."""
    x, other = x[:, max(-offset, 0) :, max(-offset, 0) :], other[:, max(offset, 0) :, max(offset, 0) :]
    height, width = (min(x.shape[i], other.shape[i]) for i in (1, 2))
    return x[:, :height, :width] + other[:, :height, :width]


def bilinear(key: Any, shape: Sequence[int], dtype: Any = None, out_sharding: Any = None) -> Float[Array, "h w d c"]:
    """Weights of a transposed convolution [2 s, 2 s, features, in] of stride s that interpolates each channel."""
    sides = []
    for length in shape[:2]:
        stride = (length + 1) // 2
        centre = stride - 1 if length % 2 else stride - 0.5
        sides.append(1 - np.abs(np.arange(length) - centre) / stride)
    kernel = np.multiply.outer(*sides)[..., None, None] * np.eye(shape[2], shape[3])
    return jnp.asarray(kernel, dtype or jnp.float32)


def keys(model: FCNSkips) -> dict[str, Rules]:
    """See `pretrained/keymaps.py`; a classifier's file fills the hidden layers, too."""
    return with_backbone(model.backbone, {})
