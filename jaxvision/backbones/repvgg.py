"""RepVGG (Ding et al. 2021, arXiv:2101.03697): three branches while training, one 3x3 convolution afterwards.

A block adds a 3x3 convolution, a 1x1 convolution and, where the shape is kept, the identity, each with its own batch
norm, then rectifies the sum. Every branch is linear once its statistics are fixed, so that a trained block equals one
3x3 convolution with a bias (section 3.3): `reparameterize` computes its weights, and the same module with `deploy=True`
takes them. D2se (of the authors' repository) has squeeze-and-excitation in front of the activation, which stays.
Submodules carry timm's names.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxvision import layers
from jaxvision.backbones import pyramid

_A, _B = (2, 4, 14, 1), (4, 6, 16, 1)

SIZES: Mapping[str, Mapping[str, Any]] = {
    "repvgg_a0": {"depths": _A, "widths": (48, 96, 192, 1280), "stem_width": 48},
    "repvgg_a1": {"depths": _A, "widths": (64, 128, 256, 1280)},
    "repvgg_a2": {"depths": _A, "widths": (96, 192, 384, 1408)},
    "repvgg_b0": {"depths": _B, "widths": (64, 128, 256, 1280)},
    "repvgg_b1": {"depths": _B, "widths": (128, 256, 512, 2048)},
    "repvgg_b1g2": {"depths": _B, "widths": (128, 256, 512, 2048), "groups": 2},
    "repvgg_b1g4": {"depths": _B, "widths": (128, 256, 512, 2048), "groups": 4},
    "repvgg_b2": {"depths": _B, "widths": (160, 320, 640, 2560)},
    "repvgg_b2g2": {"depths": _B, "widths": (160, 320, 640, 2560), "groups": 2},
    "repvgg_b2g4": {"depths": _B, "widths": (160, 320, 640, 2560), "groups": 4},
    "repvgg_b3": {"depths": _B, "widths": (192, 384, 768, 2560)},
    "repvgg_b3g2": {"depths": _B, "widths": (192, 384, 768, 2560), "groups": 2},
    "repvgg_b3g4": {"depths": _B, "widths": (192, 384, 768, 2560), "groups": 4},
    "repvgg_d2se": {"depths": (8, 14, 24, 1), "widths": (160, 320, 640, 2560), "reduction": 16},
}
"""Name -> fields of `RepVGG` (tables 2 and 3), in timm's names; those with two groups are the paper's and
OpenMMLab's."""

LEVELS = ("c1", "c2", "c3", "c4", "c5")


class Block(nn.Module):
    """The branches of fig. 4, or with `deploy` their sum as one convolution, `reparam_conv`.

    Attributes:
      features: output channels.
      strides, first_dilation: of the block; `dilation` is that of the blocks that follow.
      groups: of both convolutions.
      reduction: divides the channels into those inside the squeeze-and-excitation; 0: none.
      drop_path: probability of dropping the convolutions of a block that has the identity while training (timm's).
    """

    features: int
    strides: int = 1
    dilation: int = 1
    first_dilation: int = 1
    groups: int = 1
    reduction: int = 0
    norm: layers.Norm = layers.Norm()
    drop_path: float = 0.0
    deploy: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 d"]:
        if self.deploy:
            y = layers.Conv(
                self.features,
                3,
                self.strides,
                dilation=self.first_dilation,
                groups=self.groups,
                name="reparam_conv",
            )(x)
        else:
            y = self.branches(x, train)
        if self.reduction:
            y = layers.SqueezeExcite(pyramid.make_divisible(self.features / self.reduction, 1), name="attn")(y)
        return nn.relu(y)

    @nn.nowrap
    def branches(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 d"]:
        """The sum of two or three normalised branches."""
        y = layers.ConvNorm(self.features, 1, self.strides, groups=self.groups, norm=self.norm, name="conv_1x1")(
            x, train
        )
        y += layers.ConvNorm(
            self.features, 3, self.strides, self.first_dilation, self.groups, norm=self.norm, name="conv_kxk"
        )(x, train)
        if x.shape[-1] != self.features or self.strides > 1 or self.first_dilation != self.dilation:
            return y
        y = layers.DropPath(self.drop_path, name="drop_path")(y, train=train)
        return y + self.norm(name="identity")(x, train=train)


class RepVGG(pyramid.Pyramid):
    """Feature levels "c2" ... "c5", the outputs of the four stages, and "c1", that of the stem.

    Attributes:
      depths: blocks of each stage.
      widths: channels of each stage.
      stem_width: channels of "c1".
      groups: of every second block's convolutions, counted over all stages.
      reduction: see `Block`.
      deploy: the form for inference, whose variables `reparameterize` makes; it cannot be trained as the other can.
      norm, out_levels, frozen_stages, output_stride, drop_path_rate, remat: see `pyramid`.
    """

    levels = LEVELS
    parts = (r"stem/.*", *(rf"stages_{i}_\d+/.*" for i in range(4)))
    stage_strides = (2, 2, 2, 2)

    depths: tuple[int, ...] = _A
    widths: tuple[int, ...] = (64, 128, 256, 1280)
    stem_width: int = 64
    groups: int = 1
    reduction: int = 0
    deploy: bool = False
    norm: layers.Norm = layers.Norm()
    out_levels: tuple[str, ...] = LEVELS[1:]
    frozen_stages: int = 0
    output_stride: int = 32
    drop_path_rate: float = 0.0
    remat: bool = False

    def __post_init__(self) -> None:
        pyramid.check(self, LEVELS, stages=4)
        for name in ("depths", "widths"):
            if len(getattr(self, name)) != 4:
                raise ValueError(f"RepVGG got {name}={getattr(self, name)}; it takes one number for each of 4 stages")
        super().__post_init__()

    @property
    def level_channels(self) -> tuple[int, ...]:
        """Channels of every level, built or not."""
        return (self.stem_width, *self.widths)

    @nn.compact
    def __call__(self, images: Float[Array, "b h w c"], *, train: bool) -> dict[str, Float[Array, "b _ _ _"]]:
        block = pyramid.block_class(Block, self.remat)
        common: dict[str, Any] = {"reduction": self.reduction, "norm": self.norm, "deploy": self.deploy}
        rates = pyramid.drop_path_rates(self.drop_path_rate, self.depths)
        stem = block(self.stem_width, 2, name="stem", **common)
        x = stem(images, train and not self.frozen_stages)
        x = pyramid.freeze(x, self.frozen_stages > 0)
        levels = {"c1": x}
        for i, stage in enumerate(self.stages):
            frozen = i < self.frozen_stages
            for j in range(self.depths[i]):
                x = block(
                    features=self.widths[i],
                    **stage.block(j),
                    groups=self.groups if (sum(self.depths[:i]) + j) % 2 else 1,
                    drop_path=rates[i][j],
                    name=f"stages_{i}_{j}",
                    **common,
                )(x, train and not frozen)
            levels[LEVELS[i + 1]] = x = pyramid.freeze(x, frozen)
        return pyramid.select(levels, self.out_levels)


def reparameterize(variables: Mapping[str, Any], *, epsilon: float = layers.Norm().epsilon) -> dict[str, Any]:
    """Variables of the network with `deploy=True` that computes what the trained one does (section 3.3).

    Args:
      variables: `{"params": ..., "batch_stats": ...}` of a `RepVGG` or of any model that has one inside.
      epsilon: that of the batch norms.

    Returns:
      The same tree with one `reparam_conv` in the place of each block's branches.

    Raises:
      ValueError: there is no block with branches, or blocks without running statistics.
    """
    params, statistics = _merge(variables["params"], variables.get("batch_stats", {}), epsilon)
    if len(jax.tree.leaves(params)) == len(jax.tree.leaves(variables["params"])):
        raise ValueError("reparameterize found no block with the branches conv_kxk and conv_1x1 in these variables")
    rest = {name: tree for name, tree in variables.items() if name not in ("params", "batch_stats")}
    return {"params": params, **({"batch_stats": statistics} if statistics else {}), **rest}


def _merge(params: Mapping[str, Any], statistics: Mapping[str, Any], epsilon: float) -> tuple[dict, dict]:
    """Parameters and statistics below one module, with merged blocks."""
    if "conv_kxk" in params:
        if "conv_kxk" not in statistics:
            raise ValueError("reparameterize needs the running statistics of batch norm: give 'batch_stats', too")
        kept = {name: tree for name, tree in params.items() if name not in ("conv_kxk", "conv_1x1", "identity")}
        return {**kept, "reparam_conv": _sum_of_branches(params, statistics, epsilon)}, {}
    merged: dict[str, Any] = {}
    moved: dict[str, Any] = {}
    for name, tree in params.items():
        if not isinstance(tree, Mapping):
            merged[name] = tree
            continue
        merged[name], rest = _merge(tree, statistics.get(name, {}), epsilon)
        if rest:
            moved[name] = rest
    leaves = {name: value for name, value in statistics.items() if name not in params}
    return merged, {**moved, **leaves}


def _sum_of_branches(params: Mapping[str, Any], statistics: Mapping[str, Any], epsilon: float) -> dict[str, Array]:
    """Kernel [3, 3, in / groups, out] and bias [out] of a block's three branches."""
    kernel = params["conv_kxk"]["conv"]["kernel"]
    rows, columns, per_group, out = kernel.shape
    centre = (rows // 2, columns // 2)
    branches = [(kernel, params["conv_kxk"]["bn"], statistics["conv_kxk"]["bn"])]
    point = jnp.zeros_like(kernel).at[centre].set(params["conv_1x1"]["conv"]["kernel"][0, 0])
    branches.append((point, params["conv_1x1"]["bn"], statistics["conv_1x1"]["bn"]))
    if "identity" in params:
        index = jnp.arange(out)
        identity = jnp.zeros_like(kernel).at[(*centre, index % per_group, index)].set(1.0)
        branches.append((identity, params["identity"], statistics["identity"]))
    factors = [norm["scale"] / jnp.sqrt(stats["var"] + epsilon) for _, norm, stats in branches]
    kernels = [kernel * factor[None, None, None, :] for (kernel, _, _), factor in zip(branches, factors, strict=True)]
    biases = [norm["bias"] - stats["mean"] * factor for (_, norm, stats), factor in zip(branches, factors, strict=True)]
    return {"kernel": sum(kernels[1:], kernels[0]), "bias": sum(biases[1:], biases[0])}


# Names of published weights, see `jaxvision/pretrained/keymaps.py`; those of `deploy=True` are other modules of the
# same tables.
KEYS = {
    "timm": ((r"^backbone\.", ""), (r"^head\.", "head.fc.")),
    "openmmlab": (
        *((rf"^backbone\.stages\.{i}\.", f"backbone.stage_{i + 1}.") for i in range(4)),
        (r"\.conv_kxk\.", ".branch_3x3."),
        (r"\.conv_1x1\.", ".branch_1x1."),
        (r"\.bn\.", ".norm."),
        (r"\.identity\.", ".branch_norm."),
        (r"\.reparam_conv\.", ".branch_reparam."),
        (r"\.attn\.fc([12])\.", r".se_layer.conv\1.conv."),
        (r"^head\.", "head.fc."),
    ),
}
