"""EfficientNet B0 to B8 (Tan and Le 2019, arXiv:1905.11946; B8: Xie et al. 2020, arXiv:1911.09665).

Inverted residuals with squeeze-and-excitation (its channels a quarter of the block's input) and SiLU; sizes scale width
and depth of B0 together (section 3.3). Publishers differ in numbers: `efficientnet_b*` are timm's (epsilon 1e-5), which
torchvision's B0 to B4 equal; torchvision's B5 to B7 have epsilon 1e-3 and slower statistics (`torchvision/...`); the
authors' own weights, which OpenMMLab, Hugging Face and segmentation-models-pytorch ship, need TensorFlow's padding and
epsilon 1e-3 (`tf_efficientnet_b*`).

Hugging Face and segmentation-models-pytorch pad by fixed amounts, which are TensorFlow's for images of the checkpoint's
own size only; those of B0 are TensorFlow's for all multiples of 32.
"""

import itertools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float

from jaxvision import layers
from jaxvision.backbones.mobile import LEVELS as LEVELS
from jaxvision.backbones.mobile import ROLES, TENSORFLOW, MobileNet, Row, Table, flat
from jaxvision.layers.activations import activation
from jaxvision.layers.inverted_residual import pointwise
from jaxvision.ops import pool

TABLE: Table = (
    (Row(1, 3, 1, 0, 16, 0.25),),
    (Row(2, 3, 2, 6, 24, 0.25),),
    (Row(2, 5, 2, 6, 40, 0.25),),
    (Row(3, 3, 2, 6, 80, 0.25),),
    (Row(3, 5, 1, 6, 112, 0.25),),
    (Row(4, 5, 2, 6, 192, 0.25),),
    (Row(1, 3, 1, 6, 320, 0.25),),
)
"""Table 1 of the paper."""

SCALES = {
    "b0": (1.0, 1.0),
    "b1": (1.0, 1.1),
    "b2": (1.1, 1.2),
    "b3": (1.2, 1.4),
    "b4": (1.4, 1.8),
    "b5": (1.6, 2.2),
    "b6": (1.8, 2.6),
    "b7": (2.0, 3.1),
    "b8": (2.2, 3.6),
}
"""Width and depth, from the authors' code (`efficientnet_builder.py`)."""


def _size(size: str, **fields: Any) -> dict[str, Any]:
    return {"width": SCALES[size][0], "depth": SCALES[size][1], **fields}


SIZES: Mapping[str, Mapping[str, Any]] = {
    **{f"efficientnet_{size}": _size(size) for size in SCALES},
    **{f"tf_efficientnet_{size}": _size(size, padding="same", norm=TENSORFLOW) for size in SCALES},
    **{
        f"torchvision/efficientnet_{size}": _size(size, norm=layers.Norm(epsilon=1e-3, momentum=0.99))
        for size in ("b5", "b6", "b7")
    },
}
"""Name -> fields of `EfficientNet`."""


class EfficientNet(MobileNet):
    """Levels and fields as those of `MobileNet`."""

    @property
    def table(self) -> Table:
        return TABLE

    @property
    def activation(self) -> str:
        return "silu"

    @property
    def head_channels(self) -> int:
        return self.scaled(1280)

    @nn.nowrap
    def squeezed(self, expanded: int, row: Row) -> int:
        return round(expanded * (row.squeeze / (row.expansion or 1)))

    @nn.nowrap
    def head(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b d"]:
        x = self.norm(name="bn2")(pointwise(self.head_channels, name="conv_head")(x), train=train)
        return pool.global_avg_pool(activation(self.activation)(x))


def keys(backbone: EfficientNet) -> dict[str, tuple[tuple[str, str], ...]]:
    """Names of published weights, see `jaxvision/pretrained/keymaps.py`."""
    counts = backbone.counts
    numbers = []
    for first, parts in (("0", ("depthwise", "se", "project")), ("[1-9]", ("expand", "depthwise", "se", "project"))):
        numbers += [
            (rf"^(backbone\.blocks\.{first}\.\d+)\.{part}\.", rf"\1.block.{n}.") for n, part in enumerate(parts)
        ]
    torchvision = (
        *ROLES,
        *numbers,
        (r"\.(block\.\d)\.conv\.", r".\1.0."),
        (r"\.(block\.\d)\.norm\.", r".\1.1."),
        (r"\.conv_reduce\.", ".fc1."),
        (r"\.conv_expand\.", ".fc2."),
        *((rf"^backbone\.blocks\.{i}\.", f"features.{i + 1}.") for i in range(len(TABLE))),
        *((rf"^backbone\.{ours}\.", f"features.{theirs}.") for ours, theirs in (("conv_stem", "0.0"), ("bn1", "0.1"))),
        *((rf"^backbone\.{ours}\.", f"features.{theirs}.") for ours, theirs in (("conv_head", "8.0"), ("bn2", "8.1"))),
        (r"^head\.", "classifier.1."),
    )
    # OpenMMLab joins stages of one resolution.
    places = {0: (1, 0), 1: (2, 0), 2: (3, 0), 3: (4, 0), 4: (4, counts[3]), 5: (5, 0), 6: (5, counts[5])}
    joined = tuple(
        (rf"^backbone\.blocks\.{i}\.{j}\.", f"backbone.layers.{place}.{start + j}.")
        for i, (place, start) in places.items()
        for j in range(counts[i])
    )
    openmmlab = (
        *ROLES,
        (r"\.se\.conv_reduce\.", ".se.conv1.conv."),
        (r"\.se\.conv_expand\.", ".se.conv2.conv."),
        (r"\.project\.", ".linear."),
        (r"\.(expand|depthwise|linear)\.conv\.", r".\1_conv.conv."),
        (r"\.(expand|depthwise|linear)\.norm\.", r".\1_conv.bn."),
        *joined,
        (r"^backbone\.conv_stem\.", "backbone.layers.0.conv."),
        (r"^backbone\.bn1\.", "backbone.layers.0.bn."),
        (r"^backbone\.conv_head\.", "backbone.layers.6.conv."),
        (r"^backbone\.bn2\.", "backbone.layers.6.bn."),
        (r"^head\.", "head.fc."),
    )
    huggingface = (
        *ROLES,
        (r"\.expand\.conv\.", ".expansion.expand_conv."),
        (r"\.expand\.norm\.", ".expansion.expand_bn."),
        (r"\.depthwise\.conv\.", ".depthwise_conv.depthwise_conv."),
        (r"\.depthwise\.norm\.", ".depthwise_conv.depthwise_norm."),
        (r"\.se\.conv_", ".squeeze_excite."),
        (r"\.project\.conv\.", ".projection.project_conv."),
        (r"\.project\.norm\.", ".projection.project_bn."),
        *flat(counts, "efficientnet.encoder.blocks.{}."),
        (r"^backbone\.conv_stem\.", "efficientnet.embeddings.convolution."),
        (r"^backbone\.bn1\.", "efficientnet.embeddings.batchnorm."),
        (r"^backbone\.conv_head\.", "efficientnet.encoder.top_conv."),
        (r"^backbone\.bn2\.", "efficientnet.encoder.top_bn."),
        (r"^head\.", "classifier."),
    )
    smp = (
        *ROLES,
        *(
            (rf"\.{role}\.{kind}\.", f"._{theirs}.")
            for (role, kind), theirs in zip(
                itertools.product(("expand", "depthwise", "project"), ("conv", "norm")),
                ("expand_conv", "bn0", "depthwise_conv", "bn1", "project_conv", "bn2"),
                strict=True,
            )
        ),
        (r"\.se\.conv_", "._se_"),
        *flat(counts, "encoder._blocks.{}."),
        (r"^backbone\.(conv_stem|conv_head)\.", r"encoder._\1."),
        (r"^backbone\.bn1\.", "encoder._bn0."),
        (r"^backbone\.bn2\.", "encoder._bn1."),
        (r"^head\.", "classification_head.3."),
    )
    return {
        "timm": ((r"^backbone\.", ""), (r"^head\.", "classifier.")),
        "torchvision": torchvision,
        "openmmlab": openmmlab,
        "huggingface": huggingface,
        "smp": smp,
        "smp/timm": ((r"^backbone\.", "encoder."), (r"^head\.", "classification_head.3.")),
    }
