"""SE-ResNet, SE-ResNeXt and SENet (Hu et al. 2018, arXiv:1709.01507): blocks that end in squeeze-and-excitation.

The `legacy_` sizes are timm's ports of the authors' Caffe networks: the stride is in the first 1x1 convolution
(SE-ResNet), pooling has no padding, and basic blocks have one more ReLU. OpenMMLab's SE-ResNets equal timm's new ones,
which round the squeezed channels to multiples of 8 (that differs for the basic blocks of depths 18 and 34 only).
Names are those of `resnet.ResNet`; in the legacy checkpoints the stem lies below `layer0`, `se` is `se_module`, and
SENet-154 numbers the convolutions of its stem through.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float

from jaxvision.backbones import pyramid
from jaxvision.backbones.resnet import DEEP, DEEP_AVG, STAGES, TIERED_AVG, BasicBlock, Block, ResNet
from jaxvision.backbones.resnet import KEYS as RESNET_KEYS
from jaxvision.ops import pool

_LEGACY = {"legacy": True, "divisor": 1}
_NEXT = {"groups": 32, "width_per_group": 4}
_SENET = {"depth": 152, "groups": 64, "width_per_group": 4, "reduce_first": 2, "shortcut_kernel": 3}

SIZES: Mapping[str, Mapping[str, Any]] = {
    **{f"seresnet{depth}": {"depth": depth} for depth in (18, 34, 50, 101, 152)},
    "seresnet50t": {"depth": 50, **TIERED_AVG},
    **{f"seresnet{depth}d": {"depth": depth, **DEEP_AVG} for depth in (152, 200, 269)},
    "seresnext26d_32x4d": {"depth": 26, **_NEXT, **DEEP_AVG},
    "seresnext26t_32x4d": {"depth": 26, **_NEXT, **TIERED_AVG},
    "seresnext50_32x4d": {"depth": 50, **_NEXT},
    "seresnext101_32x4d": {"depth": 101, **_NEXT},
    "seresnext101_32x8d": {"depth": 101, "groups": 32, "width_per_group": 8},
    "seresnext101_64x4d": {"depth": 101, "groups": 64, "width_per_group": 4},
    "seresnext101d_32x8d": {"depth": 101, "groups": 32, "width_per_group": 8, **DEEP_AVG},
    "senet154": {**_SENET, **DEEP, "stem_width": 128},
    **{f"legacy_seresnet{depth}": {"depth": depth, **_LEGACY} for depth in (18, 34)},
    **{f"legacy_seresnet{depth}": {"depth": depth, "style": "caffe", **_LEGACY} for depth in (50, 101, 152)},
    **{f"legacy_seresnext{depth}_32x4d": {"depth": depth, **_NEXT, **_LEGACY} for depth in (26, 50, 101)},
    "legacy_senet154": {**_SENET, **DEEP, "stem_width": 128, **_LEGACY},
}
"""Name -> fields of `SENet`, in timm's names."""


class LegacyBasicBlock(BasicBlock):
    """A basic block whose residual branch is rectified before the squeeze."""

    @nn.nowrap
    def join(self, x: Float[Array, "b h w c"], y: Float[Array, "b h2 w2 d"], train: bool) -> Float[Array, "b h2 w2 d"]:
        return super().join(x, nn.relu(y), train)


class SENet(ResNet):
    """A ResNet with squeeze-and-excitation; fields as there, and:

    Attributes:
      reduction: divides a block's output channels into the squeezed ones.
      divisor: the squeezed channels are rounded to its multiples.
      reduce_first: divides the channels of a bottleneck's first convolution (SENet-154).
      shortcut_kernel: size of the projections that have a stride (SENet-154: 3).
      legacy: the Caffe networks' pooling and basic block.
    """

    reduction: int = 16
    divisor: int = 8
    reduce_first: int = 1
    shortcut_kernel: int = 1
    legacy: bool = False

    @property
    def blocks(self) -> Mapping[str, type[Block]]:
        return {**super().blocks, **({"basic": LegacyBasicBlock} if self.legacy else {})}

    @nn.nowrap
    def block_options(self, features: int) -> dict[str, Any]:
        kind, _ = STAGES[self.depth]
        out = features * self.blocks[kind].expansion
        more = {"reduce_first": self.reduce_first} if kind == "bottleneck" else {}
        squeeze = pyramid.make_divisible(out / self.reduction, self.divisor)
        return {**super().block_options(features), **more, "squeeze": squeeze, "shortcut_kernel": self.shortcut_kernel}

    @nn.nowrap
    def stem_pool(self, x: Float[Array, "b h w c"]) -> Float[Array, "b _ _ c"]:
        if self.legacy and self.stem != "cifar":
            return pool.max_pool(x, 3, 2, ceil_mode=True)
        return super().stem_pool(x)


# Names of published weights, see `jaxvision/pretrained/keymaps.py`.
_LEGACY_NAMES = ((r"^backbone\.", ""), (r"\.se\.", ".se_module."), (r"^head\.", "last_linear."))
KEYS = {
    **{source: rules for source, rules in RESNET_KEYS.items() if source.startswith(("timm", "openmmlab"))},
    "timm/legacy": (*_LEGACY_NAMES, (r"^(conv1|bn1)\.", r"layer0.\1.")),
    "timm/legacy_senet154": (
        *_LEGACY_NAMES,
        *((rf"^conv1\.{i}\.", f"layer0.{'bn' if i % 3 else 'conv'}{i // 3 + 1}.") for i in (0, 1, 3, 4, 6)),
        (r"^bn1\.", "layer0.bn3."),
    ),
}
