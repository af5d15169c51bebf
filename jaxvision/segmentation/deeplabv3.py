"""DeepLabv3 (Chen et al. 2017, arXiv:1706.05587): convolutions of several dilations and the mean beside each other.

OpenMMLab (`deeplabv3_r50-d8`, the defaults) fuses the branches by a 3x3 convolution; torchvision, like the paper, by a
1x1 convolution, dropout of single values and then a 3x3 convolution (`project`), 256 channels wide. The mean over the
whole picture is one value of each channel, so norms are over all devices ("sync_bn"): one picture has no variance.
"""

import flax.linen as nn
import numpy as np
from jaxtyping import Array, Float

from jaxvision import layers
from jaxvision.pretrained.keymaps import Rules
from jaxvision.segmentation.aspp import ASPP
from jaxvision.segmentation.keys import torchvision_heads, torchvision_sequence, with_backbone
from jaxvision.segmentation.segmentor import HEAD, Levels, Segmentor, classify, level_of

__all__ = ["HEAD", "DeepLabV3", "DeepLabV3Head", "keys"]


class DeepLabV3Head(nn.Module):
    """`aspp`, with `project` a 3x3 convolution `conv` behind it, and a classifier.

    Attributes:
      num_classes: channels of the logits.
      width, dilations, norm: see `ASPP`.
      project: see `DeepLabV3`.
      dropout: before the classifier; with `project`, of the fused branches instead.
    """

    num_classes: int
    width: int = 512
    dilations: tuple[int, ...] = (1, 12, 24, 36)
    project: bool = False
    dropout: float = 0.1
    norm: layers.Norm = layers.Norm()

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w classes"]:
        kernel = 1 if self.project else 3
        x = ASPP(self.width, self.dilations, kernel=kernel, norm=self.norm, name="aspp")(x, train=train)
        if not self.project:
            return classify(x, self.num_classes, self.dropout, train)
        x = nn.Dropout(self.dropout, name="project_dropout")(x, deterministic=not train)
        x = layers.ConvNorm(self.width, 3, norm=self.norm, activation=nn.relu, name="conv")(x, train)
        return classify(x, self.num_classes, 0.0, train)


class DeepLabV3(Segmentor):
    """Variables lie under "backbone", "decode_head" and "auxiliary_head".

    Attributes:
      level: of the backbone that the head sees.
      width: channels of each branch and in front of the classifier.
      dilations: of each branch, at stride 8; a branch of 1 is a 1x1 convolution.
      project: whether a 1x1 convolution fuses the branches and a 3x3 convolution follows, see the top of this file.
    """

    norm: layers.Norm = layers.Norm("sync_bn")
    level: str = "c5"
    width: int = 512
    dilations: tuple[int, ...] = (1, 12, 24, 36)
    project: bool = False

    def setup(self) -> None:
        super().setup()
        self.decode_head = DeepLabV3Head(
            self.num_classes, self.width, self.dilations, self.project, self.dropout, self.norm
        )

    def decode(self, levels: Levels, *, train: bool) -> Float[Array, "b h w classes"]:
        return self.decode_head(level_of(levels, self.level, "level"), train)


OPENMMLAB_ASPP: Rules = (
    (r"^decode_head\.aspp\.image_pool\.", "decode_head.image_pool.1."),
    (r"^decode_head\.aspp\.branches\.(\d)\.", r"decode_head.aspp_modules.\1."),
    (r"^(decode_head\.aspp_modules\.\d\.(?:depth|point)wise)\.", r"\1_conv."),
    (r"^decode_head\.aspp\.", "decode_head."),
)
"""OpenMMLab's names of it."""


def keys(model: DeepLabV3) -> dict[str, Rules]:
    """See `pretrained/keymaps.py`."""
    last = len(model.dilations)
    own = (
        (r"\.aspp\.image_pool\.conv\.", f".0.convs.{last}.1."),
        (r"\.aspp\.image_pool\.bn\.", f".0.convs.{last}.2."),
        (r"\.aspp\.branches\.(\d)\.conv\.", r".0.convs.\1.0."),
        (r"\.aspp\.branches\.(\d)\.bn\.", r".0.convs.\1.1."),
        (r"\.aspp\.bottleneck\.conv\.", ".0.project.0."),
        (r"\.aspp\.bottleneck\.bn\.", ".0.project.1."),
        (r"^decode_head\.conv\.conv\.", "decode_head.1."),
        (r"^decode_head\.conv\.bn\.", "decode_head.2."),
    )

    def mean_first(kernel: np.ndarray) -> np.ndarray:
        """torchvision joins the mean behind the other branches, OpenMMLab in front of them."""
        return np.roll(kernel, model.width, axis=-2)

    def mean_last(kernel: np.ndarray) -> np.ndarray:
        return np.roll(kernel, -model.width, axis=-2)

    order = (r"/aspp/bottleneck/conv/kernel$", mean_first, mean_last)
    torchvision: Rules = (*torchvision_sequence(model.backbone), *torchvision_heads(*own), order)
    return with_backbone(model.backbone, {"openmmlab": OPENMMLAB_ASPP, "torchvision": torchvision})
