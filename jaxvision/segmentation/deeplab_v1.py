"""DeepLab-LargeFOV (Chen et al. 2015, arXiv:1412.7062): VGG-16 with holes, a wide field of view, and a CRF behind it.

The first hidden layer of the classifier is a 3x3 convolution dilated by 12 with 1,024 channels (section 5.2), the
second a 1x1 convolution, and the third scores the classes at stride 8. Logits are enlarged bilinearly between the
centres of the corner pixels, and sharpened by `DenseCRF` (field `crf` of the task).

What differs: the authors start the hidden layers from subsampled weights of the classifier, here they start from random
ones; and they reduce the label map to the logits' size, where here the logits are enlarged, as in OpenMMLab.
"""

from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float

from jaxvision import layers
from jaxvision.pretrained.keymaps import Rules
from jaxvision.segmentation.keys import with_backbone
from jaxvision.segmentation.segmentor import Levels, Segmentor, level_of

__all__ = ["HEAD", "DeepLabV1", "keys"]
HEAD = r"/(fc8|conv_seg)/"
"""Layers that depend on the number of classes."""


class HiddenLayers(nn.Module):
    """The classifier of VGG with holes: `fc6` (3x3, dilated), `fc7` and `fc8`, which scores the classes."""

    num_classes: int
    dilation: int
    width: int = 1024
    dropout: float = 0.5

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w classes"]:
        zeros: dict[str, Any] = {"bias_init": nn.initializers.zeros}
        he = nn.initializers.he_normal()
        x = nn.relu(layers.Conv(self.width, 3, dilation=self.dilation, kernel_init=he, name="fc6", **zeros)(x))
        x = nn.Dropout(self.dropout)(x, deterministic=not train)
        x = nn.relu(layers.Conv(self.width, 1, kernel_init=he, name="fc7", **zeros)(x))
        x = nn.Dropout(self.dropout)(x, deterministic=not train)
        normal = nn.initializers.normal(0.01)
        return layers.Conv(self.num_classes, 1, kernel_init=normal, name="fc8", **zeros)(x)


class DeepLabV1(Segmentor):
    """Variables lie under "backbone", "decode_head" and "auxiliary_head".

    Attributes:
      level: of the backbone that the head sees.
      width: channels of the hidden layers.
      dilation: of the first one; 12 is LargeFOV, 4 the paper's basic net, whose kernel is larger there.
    """

    level: str = "c5"
    width: int = 1024
    dilation: int = 12
    dropout: float = 0.5
    align_corners: bool = True

    def setup(self) -> None:
        super().setup()
        self.decode_head = HiddenLayers(self.num_classes, self.dilation, self.width, self.dropout)

    def decode(self, levels: Levels, *, train: bool) -> Float[Array, "b h w classes"]:
        return self.decode_head(level_of(levels, self.level, "level"), train)


def keys(model: DeepLabV1) -> dict[str, Rules]:
    """See `pretrained/keymaps.py`."""
    return with_backbone(model.backbone, {})
