"""MobileNet v2 (Sandler et al. 2018, "MobileNetV2: inverted residuals and linear bottlenecks", arXiv:1801.04381).

Sizes are timm's, whose numbers are also torchvision's and OpenMMLab's; 110d and 120d are timm's deeper ones, with stem
and head of width 1. Hugging Face's checkpoints are Google's own: TensorFlow's padding and epsilon, in sizes of their
own (`huggingface/...`).
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float

from jaxvision import layers
from jaxvision.backbones.mobile import LEVELS as LEVELS
from jaxvision.backbones.mobile import ROLES, MobileNet, Row, Table, flat
from jaxvision.layers.activations import activation
from jaxvision.layers.inverted_residual import pointwise
from jaxvision.ops import pool

TABLE: Table = (
    (Row(1, 3, 1, 0, 16),),
    (Row(2, 3, 2, 6, 24),),
    (Row(3, 3, 2, 6, 32),),
    (Row(4, 3, 2, 6, 64),),
    (Row(3, 3, 1, 6, 96),),
    (Row(3, 3, 2, 6, 160),),
    (Row(1, 3, 1, 6, 320),),
)
"""Table 2 of the paper."""

GOOGLE = {"padding": "same", "norm": layers.Norm(epsilon=1e-3, momentum=0.997)}

SIZES: Mapping[str, Mapping[str, Any]] = {
    **{f"mobilenetv2_{width:03}": {"width": width / 100} for width in (35, 50, 75, 100, 140)},
    "mobilenetv2_110d": {"width": 1.1, "depth": 1.2, "fixed_ends": True},
    "mobilenetv2_120d": {"width": 1.2, "depth": 1.4, "fixed_ends": True},
    **{f"huggingface/mobilenetv2_{width:03}": {"width": width / 100, **GOOGLE} for width in (35, 75, 100, 140)},
}
"""Name -> fields of `MobileNetV2`."""


class MobileNetV2(MobileNet):
    """Levels and fields as those of `MobileNet`, and:

    Attributes:
      fixed_ends: the stem and the head keep width 1, the first and the last stage depth 1 (timm's 110d and 120d).
    """

    fixed_ends: bool = False

    @property
    def table(self) -> Table:
        return TABLE

    @property
    def activation(self) -> str:
        return "relu6"

    @property
    def stem_channels(self) -> int:
        return 32 if self.fixed_ends else self.scaled(32)

    @property
    def head_channels(self) -> int:
        return 1280 if self.fixed_ends else max(1280, self.scaled(1280))

    @nn.nowrap
    def repeats(self, index: int) -> tuple[int, ...]:
        if self.fixed_ends and index in (0, len(TABLE) - 1):
            return tuple(row.repeats for row in TABLE[index])
        return super().repeats(index)

    @nn.nowrap
    def head(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b d"]:
        x = self.norm(name="bn2")(pointwise(self.head_channels, name="conv_head")(x), train=train)
        return pool.global_avg_pool(activation(self.activation)(x))


def keys(backbone: MobileNetV2) -> dict[str, tuple[tuple[str, str], ...]]:
    """Names of published weights, see `jaxvision/pretrained/keymaps.py`."""
    torchvision = (
        *ROLES,
        (r"^backbone\.blocks\.0\.0\.depthwise\.", "backbone.blocks.0.0.expand."),
        (r"\.expand\.conv\.", ".0.0."),
        (r"\.expand\.norm\.", ".0.1."),
        (r"\.depthwise\.conv\.", ".1.0."),
        (r"\.depthwise\.norm\.", ".1.1."),
        (r"^backbone\.blocks\.0\.0\.project\.conv\.", "backbone.blocks.0.0.1."),
        (r"^backbone\.blocks\.0\.0\.project\.norm\.", "backbone.blocks.0.0.2."),
        (r"\.project\.conv\.", ".2."),
        (r"\.project\.norm\.", ".3."),
        *flat(backbone.counts, "features.{}.conv.", 1),
        (r"^backbone\.conv_stem\.", "features.0.0."),
        (r"^backbone\.bn1\.", "features.0.1."),
        (r"^backbone\.conv_head\.", f"features.{sum(backbone.counts) + 1}.0."),
        (r"^backbone\.bn2\.", f"features.{sum(backbone.counts) + 1}.1."),
    )
    openmmlab = (
        *ROLES,
        (r"^backbone\.(conv_stem|bn1)\.", r"backbone.conv1.\1."),
        (r"^backbone\.(conv_head|bn2)\.", r"backbone.conv2.\1."),
        (r"^backbone\.blocks\.0\.0\.depthwise\.", "backbone.blocks.0.0.0."),
        (r"^backbone\.blocks\.0\.0\.project\.", "backbone.blocks.0.0.1."),
        *((rf"\.{role}\.", f".{i}.") for i, role in enumerate(("expand", "depthwise", "project"))),
        *((rf"^backbone\.blocks\.{i}\.(\d+)\.", rf"backbone.layer{i + 1}.\1.conv.") for i in range(len(TABLE))),
        (r"\.(conv_stem|conv_head)\.", ".conv."),
        (r"\.(norm|bn1|bn2)\.", ".bn."),
        (r"^head\.", "head.fc."),
    )
    huggingface = (
        *ROLES,
        (r"^backbone\.blocks\.0\.0\.", "backbone.conv_stem."),
        *flat((0, *backbone.counts[1:]), "backbone.layer.{}."),
        (r"\.expand\.", ".expand_1x1."),
        (r"\.depthwise\.", ".conv_3x3."),
        (r"\.project\.", ".reduce_1x1."),
        (r"^backbone\.conv_stem\.(weight)$", r"backbone.conv_stem.first_conv.conv.\1"),
        (r"^backbone\.bn1\.", "backbone.conv_stem.first_conv.norm."),
        (r"^backbone\.conv_head\.", "backbone.conv_1x1.conv."),
        (r"^backbone\.bn2\.", "backbone.conv_1x1.norm."),
        (r"\.conv\.", ".convolution."),
        (r"\.norm\.", ".normalization."),
        (r"^backbone\.", "mobilenet_v2."),
        (r"^head\.", "classifier."),
    )
    return {
        "timm": ((r"^backbone\.", ""), (r"^head\.", "classifier.")),
        "torchvision": (*torchvision, (r"^head\.", "classifier.1.")),
        "openmmlab": openmmlab,
        "huggingface": huggingface,
        "smp": (*torchvision, (r"^features\.", "encoder.features."), (r"^head\.", "classification_head.3.")),
    }
