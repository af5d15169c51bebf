"""DeepLab v2 (Chen et al. 2016, arXiv:1606.00915): atrous spatial pyramid pooling, several scales, and a CRF behind it.

Four parallel convolutions with holes score the classes, and the scores are added: with ResNet-101 each is one 3x3
convolution, with VGG-16 each has the three hidden layers of DeepLab v1. The same network sees the image at three scales
(section 4.1.2); the largest logit of each pixel and class counts, and in training each scale has a loss of its own.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxvision import layers
from jaxvision.ops.interpolate import interpolate
from jaxvision.pretrained.keymaps import Rules
from jaxvision.segmentation.deeplab_v1 import HiddenLayers
from jaxvision.segmentation.keys import with_backbone
from jaxvision.segmentation.segmentor import Levels, Segmentor, level_of

__all__ = ["HEAD", "DeepLabV2", "keys"]
HEAD = r"/(fc8|decode_head/c[0-9]+|conv_seg)/"
"""Layers that depend on the number of classes."""


class AtrousScores(nn.Module):
    """Sum of the scores of branches `c0`, `c1`, ..., one for each dilation; `width` 0: each is one convolution."""

    num_classes: int
    dilations: tuple[int, ...]
    width: int
    dropout: float

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w classes"]:
        normal, zeros = nn.initializers.normal(0.01), nn.initializers.zeros
        scores = []
        for i, dilation in enumerate(self.dilations):
            name = f"c{i}"
            if self.width:
                scores.append(HiddenLayers(self.num_classes, dilation, self.width, self.dropout, name=name)(x, train))
            else:
                conv = layers.Conv(
                    self.num_classes, 3, dilation=dilation, kernel_init=normal, bias_init=zeros, name=name
                )
                scores.append(conv(x))
        return sum(scores[1:], scores[0])


class DeepLabV2(Segmentor):
    """Variables lie under "backbone", "decode_head" and "auxiliary_head".

    Attributes:
      level: of the backbone that the head sees.
      dilations: of the branches: ASPP-L's by default; (2, 4, 8, 12) is ASPP-S.
      width: channels of the hidden layers of each branch; 0: none, as with ResNet.
      scales: of the image, the first one 1; more than one: the largest logits count.
      dropout: behind the hidden layers.
    """

    level: str = "c5"
    dilations: tuple[int, ...] = (6, 12, 18, 24)
    width: int = 0
    scales: tuple[float, ...] = (1.0, 0.75, 0.5)
    dropout: float = 0.5
    align_corners: bool = True

    def __post_init__(self) -> None:
        if not self.scales or self.scales[0] != 1 or min(self.scales) <= 0:
            raise ValueError(f"DeepLabV2 got scales={self.scales}; they are positive, and the first one is 1")
        if not self.dilations:
            raise ValueError("DeepLabV2 got no dilations: it needs at least one branch")
        super().__post_init__()

    def setup(self) -> None:
        super().setup()
        self.decode_head = AtrousScores(self.num_classes, self.dilations, self.width, self.dropout)

    def decode(self, levels: Levels, *, train: bool) -> Float[Array, "b h w classes"]:
        return self.decode_head(level_of(levels, self.level, "level"), train)

    @property
    def auxiliary_weights(self) -> tuple[float, ...]:
        """1 for the logits of each scale, where there are several, behind that of the auxiliary head."""
        return (*super().auxiliary_weights, *((1.0,) * len(self.scales) if len(self.scales) > 1 else ()))

    def heads(
        self, images: Float[Array, "b h w c"], levels: Levels, *, train: bool
    ) -> tuple[Float[Array, "b _ _ classes"], tuple[Float[Array, "b _ _ classes"], ...]]:
        """As `Segmentor.heads`; the logits of each scale before their fusion help in training."""
        logits, auxiliary = super().heads(images, levels, train=train)
        if len(self.scales) == 1:
            return logits, auxiliary
        every = [logits]
        for scale in self.scales[1:]:
            height, width = (self._scaled(side, scale) for side in images.shape[1:3])
            smaller = interpolate(images, (height, width), align_corners=self.align_corners)
            every.append(self.decode(self.backbone(smaller, train=train), train=train))
        fused = logits
        for other in every[1:]:
            enlarged = interpolate(other, (logits.shape[1], logits.shape[2]), align_corners=self.align_corners)
            fused = jnp.maximum(fused, enlarged)
        return fused, (*auxiliary, *every)

    @nn.nowrap
    def _scaled(self, side: int, scale: float) -> int:
        """Pixels of a side of the smaller image: 321 becomes 241 and 161 where corners are aligned."""
        return int((side - 1) * scale) + 1 if self.align_corners else max(1, int(side * scale))


def keys(model: DeepLabV2) -> dict[str, Rules]:
    """See `pretrained/keymaps.py`."""
    return with_backbone(model.backbone, {})
