"""LR-ASPP (Howard et al. 2019, arXiv:1905.02244, section 6.4): the head of MobileNetV3 for segmentation.

The last level is weighted by what its mean says, and joined with earlier ones. Of the two forms the paper's, which
torchvision has (`branches` is empty), adds the logits of one early level; OpenMMLab's, the default, joins two early
levels, narrowed, one after the other, and takes means over windows of 49 x 49 cells.

The backbone is a MobileNetV3 whose dilated stages are dilated from their first block on (`contract_dilation`): to
stride 8 in OpenMMLab, to 16 in torchvision, which takes the early level from the first block at stride 8
(`early_levels`).
"""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxvision import layers
from jaxvision.layers.conv import kaiming_normal_fan_out
from jaxvision.ops import pool
from jaxvision.ops.interpolate import interpolate
from jaxvision.pretrained.keymaps import Rules
from jaxvision.segmentation.keys import torchvision_sequence, with_backbone
from jaxvision.segmentation.segmentor import Levels, Segmentor, classify, level_of, levels_of

HEAD = r"/(conv_seg|low_classifier|high_classifier)/"
"""The layers that depend on the number of classes."""


class LRASPPHead(nn.Module):
    """The form of OpenMMLab: `aspp_conv` weighted by `image_pool`; `convs_<i>` of early levels join by `conv_ups_<i>`.

    Attributes:
      num_classes: channels of the logits.
      width: channels of all but the early levels.
      branches: channels of each early level when it is joined.
      pooling: see `LRASPP`.
      dropout: before the classifier.
      norm: of the convolutions that have one.
    """

    num_classes: int
    width: int = 128
    branches: tuple[int, ...] = (32, 64)
    pooling: tuple[int, int, int] = (49, 16, 20)
    dropout: float = 0.1
    norm: layers.Norm = layers.Norm()

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], early: Sequence[Float[Array, "b _ _ _"]], train: bool
    ) -> Float[Array, "b h2 w2 classes"]:
        """`early`: finest first; the logits have the stride of the first one."""
        size = (x.shape[1], x.shape[2])
        window = (min(self.pooling[0], size[0]), min(self.pooling[0], size[1]))
        gate = pool.avg_pool(x, window, self.pooling[1:])
        gate = nn.sigmoid(plain(self.width, "image_pool")(gate))
        x = layers.ConvNorm(self.width, norm=self.norm, activation=nn.relu, name="aspp_conv")(x, train)
        x = plain(self.width, "conv_up_input", bias=True)(x * interpolate(gate, size, align_corners=True))
        for i, (low, width) in reversed(list(enumerate(zip(early, self.branches, strict=True)))):
            x = interpolate(x, (low.shape[1], low.shape[2]))
            x = jnp.concatenate([x, plain(width, f"convs_{i}")(low)], axis=-1)
            x = layers.ConvNorm(self.width, norm=self.norm, activation=nn.relu, name=f"conv_ups_{i}")(x, train)
        return classify(x, self.num_classes, self.dropout, train)


class PlainLRASPPHead(nn.Module):
    """The form of the paper and of torchvision: `cbr` weighted by `scale`, the sum of two classifiers' logits.

    Attributes:
      num_classes: channels of the logits.
      width: channels of the last level when it is classified.
      norm: of `cbr`.
    """

    num_classes: int
    width: int = 128
    norm: layers.Norm = layers.Norm()

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], low: Float[Array, "b h2 w2 d"], train: bool
    ) -> Float[Array, "b h2 w2 classes"]:
        gate = nn.sigmoid(plain(self.width, "scale")(pool.global_avg_pool(x)[:, None, None]))
        x = layers.ConvNorm(self.width, norm=self.norm, activation=nn.relu, name="cbr")(x, train) * gate
        x = interpolate(x, (low.shape[1], low.shape[2]))
        return plain(self.num_classes, "low_classifier", bias=True)(low) + plain(
            self.num_classes, "high_classifier", bias=True
        )(x)


class LRASPP(Segmentor):
    """Variables lie under "backbone" and "decode_head".

    Attributes:
      level: of the backbone that the mean is taken of.
      early_levels: of the backbone, finest first, one for each of `branches`; without branches, one.
      width: channels of the last level behind the first convolution.
      branches: channels of each early level when it is joined; empty: the form of the paper, see the top of this file.
      pooling: side in cells of the windows that the means are taken over, at most the side of the map, and their
        strides in both directions; of the form with branches.
    """

    level: str = "c5"
    early_levels: tuple[str, ...] = ("c1", "c2")
    width: int = 128
    branches: tuple[int, ...] = (32, 64)
    pooling: tuple[int, int, int] = (49, 16, 20)

    def __post_init__(self) -> None:
        if len(self.early_levels) != max(len(self.branches), 1):
            raise ValueError(
                f"LRASPP got branches={self.branches} and early_levels={self.early_levels}: expected a level for each "
                "branch, and one level where there is no branch"
            )
        super().__post_init__()

    def setup(self) -> None:
        super().setup()
        if self.branches:
            self.decode_head: nn.Module = LRASPPHead(
                self.num_classes, self.width, self.branches, self.pooling, self.dropout, self.norm
            )
        else:
            self.decode_head = PlainLRASPPHead(self.num_classes, self.width, self.norm)

    def decode(self, levels: Levels, *, train: bool) -> Float[Array, "b h w classes"]:
        x = level_of(levels, self.level, "level")
        early = levels_of(levels, self.early_levels, "early_levels")
        return self.decode_head(x, early if self.branches else early[0], train)


def plain(features: int, name: str, bias: bool = False) -> layers.Conv:
    """A 1x1 convolution."""
    zeros = nn.initializers.zeros
    return layers.Conv(features, 1, use_bias=bias, kernel_init=kaiming_normal_fan_out, bias_init=zeros, name=name)


def keys(model: LRASPP) -> dict[str, Rules]:
    """See `pretrained/keymaps.py`. torchvision's backbone in a segmenter is a sequence without a name."""
    if model.branches:
        own: Rules = (
            (r"^decode_head\.image_pool\.", "decode_head.image_pool.1.conv."),
            (r"^decode_head\.convs\.(\d)\.", r"decode_head.convs.conv\1."),
            (r"^decode_head\.conv_ups\.(\d)\.", r"decode_head.conv_ups.conv_up\1."),
        )
        return with_backbone(model.backbone, {"openmmlab": own})
    torchvision: Rules = (
        *torchvision_sequence(model.backbone),
        (r"^decode_head\.cbr\.conv\.", "classifier.cbr.0."),
        (r"^decode_head\.cbr\.bn\.", "classifier.cbr.1."),
        (r"^decode_head\.scale\.", "classifier.scale.1."),
        (r"^decode_head\.", "classifier."),
    )
    return with_backbone(model.backbone, {"torchvision": torchvision})
