"""DeepLabv3+ (Chen et al. 2018, arXiv:1802.02611): DeepLabv3's pyramid with separable convolutions, and a decoder.

The decoder enlarges what the pyramid gives to the size of an early level and joins the two (figure 2). Defaults are
those of OpenMMLab's `deeplabv3plus_r50-d8`; norms are over all devices ("sync_bn"), see `deeplabv3.py`.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxvision import layers
from jaxvision.ops.interpolate import interpolate
from jaxvision.pretrained.keymaps import Rules
from jaxvision.segmentation.aspp import ASPP, SeparableConvNorm
from jaxvision.segmentation.deeplabv3 import OPENMMLAB_ASPP
from jaxvision.segmentation.keys import with_backbone
from jaxvision.segmentation.segmentor import HEAD, Levels, Segmentor, classify, level_of

__all__ = ["HEAD", "DeepLabV3Plus", "DeepLabV3PlusHead", "keys"]


class DeepLabV3PlusHead(nn.Module):
    """`aspp`, the early level narrowed by a 1x1 convolution `low`, separable convolutions `fuse_<i>`, and a classifier.

    Attributes:
      num_classes: channels of the logits.
      width, dilations, norm: see `ASPP`.
      low_width: channels of `low`.
      dropout: before the classifier.
      align_corners: of the enlargement.
    """

    num_classes: int
    width: int = 512
    dilations: tuple[int, ...] = (1, 12, 24, 36)
    low_width: int = 48
    dropout: float = 0.1
    norm: layers.Norm = layers.Norm()
    align_corners: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], low: Float[Array, "b h2 w2 d"], train: bool
    ) -> Float[Array, "b h2 w2 classes"]:
        x = ASPP(self.width, self.dilations, separable=True, norm=self.norm, name="aspp")(x, train=train)
        x = interpolate(x, (low.shape[1], low.shape[2]), align_corners=self.align_corners)
        low = layers.ConvNorm(self.low_width, norm=self.norm, activation=nn.relu, name="low")(low, train)
        x = jnp.concatenate([x, low], axis=-1)
        for i in range(2):
            x = SeparableConvNorm(self.width, norm=self.norm, name=f"fuse_{i}")(x, train)
        return classify(x, self.num_classes, self.dropout, train)


class DeepLabV3Plus(Segmentor):
    """Variables lie under "backbone", "decode_head" and "auxiliary_head".

    Attributes:
      level: of the backbone that the pyramid sees.
      low_level: of the backbone that the decoder joins.
      width: channels of each branch and in front of the classifier.
      dilations: of each branch, at stride 8; a branch of 1 is a 1x1 convolution.
      low_width: channels of the early level when it is joined.
    """

    norm: layers.Norm = layers.Norm("sync_bn")
    level: str = "c5"
    low_level: str = "c2"
    width: int = 512
    dilations: tuple[int, ...] = (1, 12, 24, 36)
    low_width: int = 48

    def setup(self) -> None:
        super().setup()
        self.decode_head = DeepLabV3PlusHead(
            self.num_classes,
            self.width,
            self.dilations,
            self.low_width,
            self.dropout,
            self.norm,
            self.align_corners,
        )

    def decode(self, levels: Levels, *, train: bool) -> Float[Array, "b h w classes"]:
        deep, low = level_of(levels, self.level, "level"), level_of(levels, self.low_level, "low_level")
        return self.decode_head(deep, low, train)


def keys(model: DeepLabV3Plus) -> dict[str, Rules]:
    """See `pretrained/keymaps.py`."""
    own = (
        *OPENMMLAB_ASPP,
        (r"^decode_head\.low\.", "decode_head.c1_bottleneck."),
        (r"^decode_head\.fuse\.(\d)\.(depth|point)wise\.", r"decode_head.sep_bottleneck.\1.\2wise_conv."),
    )
    return with_backbone(model.backbone, {"openmmlab": own})
