"""MobileNet v3 (Howard et al. 2019, "Searching for MobileNetV3", arXiv:1905.02244).

Inverted residuals with squeeze-and-excitation (hard sigmoid gate) and hard swish in the deeper half; the classifier
pools before its wide 1x1 convolution, which has a bias and no norm (section 5.1). The last level contains the plain
1x1 convolution behind the blocks.

Three publishers, three sets of numbers: timm's `mobilenetv3_*` (epsilon 1e-5), torchvision's `mobilenet_v3_*` (epsilon
1e-3, slower statistics), which OpenMMLab's also have, and TensorFlow's `tf_mobilenetv3_*` (epsilon 1e-3 and its
padding). OpenMMLab's small networks of width 0.5 and 0.75 are timm's.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float

from jaxvision import layers
from jaxvision.backbones.mobile import LEVELS as LEVELS
from jaxvision.backbones.mobile import ROLES, TENSORFLOW, MobileNet, Row, Table, flat, make_divisible
from jaxvision.layers.activations import activation
from jaxvision.layers.conv import kaiming_normal_fan_out
from jaxvision.ops import pool

LARGE: Table = (
    (Row(1, 3, 1, 0, 16, 0, "relu"),),
    (Row(1, 3, 2, 4, 24, 0, "relu"), Row(1, 3, 1, 3, 24, 0, "relu")),
    (Row(3, 5, 2, 3, 40, 0.25, "relu"),),
    (Row(1, 3, 2, 6, 80), Row(1, 3, 1, 2.5, 80), Row(2, 3, 1, 2.3, 80)),
    (Row(2, 3, 1, 6, 112, 0.25),),
    (Row(3, 5, 2, 6, 160, 0.25),),
    (Row(1, 1, 1, 0, 960, plain=True),),
)
"""Table 1 of the paper; expansions are timm's, which give the table's channels."""

SMALL: Table = (
    (Row(1, 3, 2, 0, 16, 0.25, "relu"),),
    (Row(1, 3, 2, 4.5, 24, 0, "relu"), Row(1, 3, 1, 3.67, 24, 0, "relu")),
    (Row(1, 5, 2, 4, 40, 0.25), Row(2, 5, 1, 6, 40, 0.25)),
    (Row(2, 5, 1, 3, 48, 0.25),),
    (Row(3, 5, 2, 6, 96, 0.25),),
    (Row(1, 1, 1, 0, 576, plain=True),),
)
"""Table 2."""

_TORCHVISION = {"norm": layers.Norm(epsilon=1e-3, momentum=0.99)}
_TENSORFLOW = {"padding": "same", "norm": TENSORFLOW}

SIZES: Mapping[str, Mapping[str, Any]] = {
    **{f"mobilenetv3_large_{width:03}": {"width": width / 100} for width in (75, 100)},
    "mobilenetv3_large_150d": {"width": 1.5, "depth": 1.2},
    **{f"mobilenetv3_small_{width:03}": {"form": "small", "width": width / 100} for width in (50, 75, 100)},
    "mobilenetv3_rw": {"form": "rw", "norm": TENSORFLOW},
    **{
        f"tf_mobilenetv3_{form}_{width:03}": {"form": form, "width": width / 100, **_TENSORFLOW}
        for form in ("large", "small")
        for width in (75, 100)
    },
    **{
        f"tf_mobilenetv3_{form}_minimal_100": {"form": form, "minimal": True, **_TENSORFLOW}
        for form in ("large", "small")
    },
    **{f"mobilenet_v3_{form}": {"form": form, **_TORCHVISION} for form in ("large", "small")},
}
"""Name -> fields of `MobileNetV3`; the last two are torchvision's."""


class MobileNetV3(MobileNet):
    """Levels and fields as those of `MobileNet`, and:

    Attributes:
      form: "large", "small", or "rw" (timm's first large one: no shortcut in the first block, no bias in the head,
        squeezed channels that are not multiples of 8, the block's activation between them).
      minimal: 3x3 kernels, ReLU and no squeeze-and-excitation everywhere ("minimalistic" in the authors' code).
      hidden: channels of "pooled"; None: 1024 of the small form, 1280 of the others.
    """

    form: str = "large"
    minimal: bool = False
    hidden: int | None = None

    def __post_init__(self) -> None:
        if self.form not in ("large", "small", "rw"):
            raise ValueError(f"MobileNetV3 got form={self.form!r}; it knows large, small, rw")
        super().__post_init__()

    @property
    def table(self) -> Table:
        table = SMALL if self.form == "small" else LARGE
        if not self.minimal:
            return table
        return tuple(
            tuple(dataclasses.replace(row, kernel=min(row.kernel, 3), squeeze=0.0, activation=None) for row in stage)
            for stage in table
        )

    @property
    def activation(self) -> str:
        return "relu" if self.minimal else "hard_swish"

    @property
    def stem_channels(self) -> int:
        return 16 if self.width < 0.75 else self.scaled(16)

    @property
    def head_channels(self) -> int:
        return self.hidden or (1024 if self.form == "small" else 1280)

    @nn.nowrap
    def squeezed(self, expanded: int, row: Row) -> int:
        channels = expanded * row.squeeze
        return round(channels) if self.form == "rw" else make_divisible(channels)

    @property
    def block_options(self) -> dict[str, Any]:
        return {"gate": "hard_sigmoid"} | ({} if self.form == "rw" else {"squeeze_activation": "relu"})

    @nn.nowrap
    def has_shortcut(self, row: Row) -> bool:
        return self.form != "rw" or bool(row.expansion)

    @nn.nowrap
    def head(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b d"]:
        x = layers.Dense(
            self.head_channels,
            use_bias=self.form != "rw",
            kernel_init=kaiming_normal_fan_out,
            bias_init=nn.initializers.zeros,
            name="conv_head",
        )(pool.global_avg_pool(x))
        return activation(self.activation)(x)


def keys(backbone: MobileNetV3) -> dict[str, tuple[tuple[str, str], ...]]:
    """Names of published weights, see `jaxvision/pretrained/keymaps.py`."""
    counts, last = backbone.counts[:-1], len(backbone.table) - 1
    end = sum(counts) + 1
    ends = (
        (rf"^backbone\.blocks\.{last}\.0\.conv\.", "last.0."),
        (rf"^backbone\.blocks\.{last}\.0\.bn1\.", "last.1."),
        (r"^backbone\.conv_stem\.", "stem.0."),
        (r"^backbone\.bn1\.", "stem.1."),
        *ROLES,
    )
    numbers = []
    for i, stage in enumerate(backbone.table[:-1]):
        parts = [*(["expand"] if i else []), "depthwise", *(["se"] if stage[0].squeeze else []), "project"]
        numbers += [(rf"^(backbone\.blocks\.{i}\.\d+)\.{part}\.", rf"\1.block.{n}.") for n, part in enumerate(parts)]
    return {
        "timm": (
            (r"^backbone\.", ""),
            (r"^conv_head\.weight$", "conv_head.weight[..., 1, 1]"),
            (r"^head\.", "classifier."),
        ),
        "torchvision": (
            *ends,
            *numbers,
            *flat(counts, "features.{}.", 1),
            (r"\.(block\.\d)\.conv\.", r".\1.0."),
            (r"\.(block\.\d)\.norm\.", r".\1.1."),
            (r"\.conv_reduce\.", ".fc1."),
            (r"\.conv_expand\.", ".fc2."),
            (r"^stem\.", "features.0."),
            (r"^last\.", f"features.{end}."),
            (r"^backbone\.conv_head\.", "classifier.0."),
            (r"^head\.", "classifier.3."),
        ),
        "openmmlab": (
            *ends,
            (r"\.se\.conv_reduce\.", ".se.conv1.conv."),
            (r"\.se\.conv_expand\.", ".se.conv2.conv."),
            (r"\.(expand|depthwise)\.conv\.", r".\1_conv.conv."),
            (r"\.(expand|depthwise)\.norm\.", r".\1_conv.bn."),
            (r"\.project\.conv\.", ".linear_conv.conv."),
            (r"\.project\.norm\.", ".linear_conv.bn."),
            *flat(counts, "backbone.layer{}.", 1),
            (r"^stem\.", "backbone.layer0."),
            (r"^last\.", f"backbone.layer{end}."),
            (r"^(backbone\.layer\d+)\.0\.", r"\1.conv."),
            (r"^(backbone\.layer\d+)\.1\.", r"\1.bn."),
            (r"^backbone\.conv_head\.", "head.layers.0.fc."),
            (r"^head\.(weight|bias)", r"head.layers.1.fc.\1"),
        ),
    }
