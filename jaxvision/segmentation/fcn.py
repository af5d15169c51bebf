"""The dilated FCN: convolutions at stride 8 of a backbone that dilates in place of its last strides, and a classifier.

Long et al. 2015 (arXiv:1411.4038), in the form in which OpenMMLab (`fcn_r50-d8`) and torchvision (`fcn_resnet50`) have
it. They differ in the head: two convolutions, joined to their input and seen by a third one, with 512 channels; or one
convolution of a quarter of the input's channels (the row `torchvision/fcn`), whose auxiliary head weighs 0.5.
"""

from jaxtyping import Array, Float

from jaxvision.pretrained.keymaps import Rules
from jaxvision.segmentation.keys import torchvision_heads, with_backbone
from jaxvision.segmentation.segmentor import HEAD, FCNHead, Levels, Segmentor, level_of

__all__ = ["FCN", "HEAD", "keys"]


class FCN(Segmentor):
    """Variables lie under "backbone", "decode_head" and "auxiliary_head".

    Attributes:
      level: of the backbone that the head sees.
      width, depth, kernel, dilation, concat_input: of the head, see `FCNHead`.
    """

    level: str = "c5"
    width: int = 512
    depth: int = 2
    kernel: int = 3
    dilation: int = 1
    concat_input: bool = True

    def setup(self) -> None:
        super().setup()
        self.decode_head = FCNHead(
            self.num_classes,
            self.width,
            self.depth,
            self.kernel,
            self.dilation,
            self.concat_input,
            self.dropout,
            self.norm,
        )

    def decode(self, levels: Levels, *, train: bool) -> Float[Array, "b h w classes"]:
        return self.decode_head(level_of(levels, self.level, "level"), train)


def keys(model: FCN) -> dict[str, Rules]:
    """See `pretrained/keymaps.py`."""
    return with_backbone(model.backbone, {"openmmlab": (), "torchvision": torchvision_heads()})
