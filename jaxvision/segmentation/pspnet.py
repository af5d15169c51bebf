"""PSPNet (Zhao et al. 2017, arXiv:1612.01105): means over regions of several sizes beside the last level.

Defaults are those of OpenMMLab's `pspnet_r50-d8`: a backbone that dilates to stride 8, an auxiliary head of weight 0.4
on "c4". The mean over the whole picture is one value of each channel, so norms are over all devices ("sync_bn"): a
batch of one picture has no variance.
"""

import flax.linen as nn
from jaxtyping import Array, Float

from jaxvision import layers
from jaxvision.pretrained.keymaps import Rules
from jaxvision.segmentation.keys import with_backbone
from jaxvision.segmentation.pyramid_pooling import PyramidPooling
from jaxvision.segmentation.segmentor import HEAD, Levels, Segmentor, classify, level_of

__all__ = ["HEAD", "PSPHead", "PSPNet", "keys"]


class PSPHead(nn.Module):
    """Pyramid pooling (`psp`) and a classifier.

    Attributes:
      num_classes: channels of the logits.
      width, scales, norm, align_corners: see `PyramidPooling`.
      dropout: before the classifier.
    """

    num_classes: int
    width: int = 512
    scales: tuple[int, ...] = (1, 2, 3, 6)
    dropout: float = 0.1
    norm: layers.Norm = layers.Norm()
    align_corners: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w classes"]:
        pyramid = PyramidPooling(self.width, self.scales, self.norm, self.align_corners, name="psp")
        return classify(pyramid(x, train=train), self.num_classes, self.dropout, train)


class PSPNet(Segmentor):
    """Variables lie under "backbone", "decode_head" and "auxiliary_head".

    Attributes:
      level: of the backbone that the head sees.
      width: channels of each branch and in front of the classifier.
      scales: regions along a side, of each branch.
    """

    norm: layers.Norm = layers.Norm("sync_bn")
    level: str = "c5"
    width: int = 512
    scales: tuple[int, ...] = (1, 2, 3, 6)

    def setup(self) -> None:
        super().setup()
        self.decode_head = PSPHead(
            self.num_classes, self.width, self.scales, self.dropout, self.norm, self.align_corners
        )

    def decode(self, levels: Levels, *, train: bool) -> Float[Array, "b h w classes"]:
        return self.decode_head(level_of(levels, self.level, "level"), train)


PYRAMID_POOLING: Rules = (
    (r"^decode_head\.psp\.branches\.(\d)\.", r"decode_head.psp_modules.\1.1."),
    (r"^decode_head\.psp\.", "decode_head."),
)
"""OpenMMLab's names of it."""


def keys(model: PSPNet) -> dict[str, Rules]:
    """See `pretrained/keymaps.py`."""
    return with_backbone(model.backbone, {"openmmlab": PYRAMID_POOLING})
