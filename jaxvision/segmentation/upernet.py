"""UPerNet (Xiao et al. 2018, arXiv:1807.10221): a feature pyramid over pyramid pooling, all levels fused.

Of the paper's tasks the segmentation of objects and stuff alone. Defaults are those of OpenMMLab's `upernet_r50`: a
backbone without dilation, an auxiliary head of weight 0.4 on "c4"; norms are over all devices ("sync_bn"), see
`pspnet.py`.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxvision import layers
from jaxvision.ops.interpolate import interpolate
from jaxvision.pretrained.keymaps import Rules
from jaxvision.segmentation.keys import with_backbone
from jaxvision.segmentation.pspnet import PYRAMID_POOLING
from jaxvision.segmentation.pyramid_pooling import PyramidPooling
from jaxvision.segmentation.segmentor import HEAD, Levels, Segmentor, classify, levels_of

__all__ = ["HEAD", "UPerHead", "UPerNet", "keys"]


class UPerHead(nn.Module):
    """Pyramid pooling (`psp`) of the coarsest level, a pyramid (`lateral_convs_<i>`, `fpn_convs_<i>`) of the others,
    `fpn_bottleneck` over all of them and a classifier.

    Attributes:
      num_classes: channels of the logits.
      width: channels of every convolution.
      scales: see `PyramidPooling`.
      dropout: before the classifier.
      norm: of each convolution.
      align_corners: of every enlargement.
    """

    num_classes: int
    width: int = 512
    scales: tuple[int, ...] = (1, 2, 3, 6)
    dropout: float = 0.1
    norm: layers.Norm = layers.Norm()
    align_corners: bool = False

    @nn.compact
    def __call__(self, levels: Sequence[Float[Array, "b _ _ _"]], train: bool) -> Float[Array, "b h w classes"]:
        """`levels`: finest first; the logits have the stride of the first one."""

        def unit(kernel: int, name: str) -> layers.ConvNorm:
            return layers.ConvNorm(self.width, kernel, norm=self.norm, activation=nn.relu, name=name)

        def enlarge(x: Array, like: Array) -> Array:
            return interpolate(x, (like.shape[1], like.shape[2]), align_corners=self.align_corners)

        *finer, coarsest = levels
        pyramid = PyramidPooling(self.width, self.scales, self.norm, self.align_corners, name="psp")
        merged = [unit(1, f"lateral_convs_{i}")(x, train) for i, x in enumerate(finer)]
        merged.append(pyramid(coarsest, train=train))
        for i in reversed(range(len(finer))):
            merged[i] += enlarge(merged[i + 1], merged[i])
        outputs = [unit(3, f"fpn_convs_{i}")(x, train) for i, x in enumerate(merged[:-1])] + merged[-1:]
        joined = jnp.concatenate([enlarge(x, outputs[0]) for x in outputs], axis=-1)
        return classify(unit(3, "fpn_bottleneck")(joined, train), self.num_classes, self.dropout, train)


class UPerNet(Segmentor):
    """Variables lie under "backbone", "decode_head" and "auxiliary_head".

    Attributes:
      levels: of the backbone that the head sees, finest first; pyramid pooling is of the last one.
      width: channels of every convolution of the head.
      scales: regions along a side, of each branch of the pooling.
    """

    norm: layers.Norm = layers.Norm("sync_bn")
    levels: tuple[str, ...] = ("c2", "c3", "c4", "c5")
    width: int = 512
    scales: tuple[int, ...] = (1, 2, 3, 6)

    def setup(self) -> None:
        super().setup()
        self.decode_head = UPerHead(
            self.num_classes, self.width, self.scales, self.dropout, self.norm, self.align_corners
        )

    def decode(self, levels: Levels, *, train: bool) -> Float[Array, "b h w classes"]:
        return self.decode_head(levels_of(levels, self.levels, "levels"), train)


def keys(model: UPerNet) -> dict[str, Rules]:
    """See `pretrained/keymaps.py`."""
    return with_backbone(model.backbone, {"openmmlab": PYRAMID_POOLING})
