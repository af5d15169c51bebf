"""Swin Transformer (Liu et al. 2021, arXiv:2103.14030): a pyramid of transformer blocks that attend inside windows.

The sizes are the authors' (table 7), whose numbers timm, torchvision, OpenMMLab and Hugging Face share, and the three
that the S3 search found (Chen et al. 2021, arXiv:2111.14725), which differ in their windows only. Submodules carry
timm's names; a stage begins with its patch merging.

Images of any size work: they are padded to whole patches, maps to whole windows and to even sides, always with zeros at
the bottom and right (as in OpenMMLab and, but for the images, torchvision). Windows keep their size on smaller maps,
while timm's fixed-size models shrink them, and with them their tables of biases: `window_size=(7, 7, 4, 2)` stands for
timm's `img_size=64`.
"""

import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxvision import layers
from jaxvision.backbones import pyramid
from jaxvision.layers import windows
from jaxvision.ops import pool

TINY: Mapping[str, Any] = {}
SMALL: Mapping[str, Any] = {"depths": (2, 2, 18, 2)}
BASE: Mapping[str, Any] = {**SMALL, "width": 128, "heads": (4, 8, 16, 32)}
LARGE: Mapping[str, Any] = {**SMALL, "width": 192, "heads": (6, 12, 24, 48)}

SIZES: Mapping[str, Mapping[str, Any]] = {
    "swin_tiny_patch4_window7_224": TINY,
    "swin_small_patch4_window7_224": SMALL,
    "swin_base_patch4_window7_224": BASE,
    "swin_base_patch4_window12_384": {**BASE, "window_size": (12, 12, 12, 12)},
    "swin_large_patch4_window7_224": LARGE,
    "swin_large_patch4_window12_384": {**LARGE, "window_size": (12, 12, 12, 12)},
    "swin_s3_tiny_224": {**TINY, "window_size": (7, 7, 14, 7)},
    "swin_s3_small_224": {**SMALL, "window_size": (14, 14, 14, 7)},
    "swin_s3_base_224": {"depths": (2, 2, 30, 2), "window_size": (7, 7, 14, 7)},
}
"""Name -> fields of `SwinTransformer`, in timm's names."""

LEVELS = ("c2", "c3", "c4", "c5", "pooled")

init = nn.initializers.normal(0.02)
"""Of every kernel and table; the authors cut it off at a hundred deviations."""


class WindowAttention(nn.Module):
    """Attention with a learned bias for each relative position (section 3.2, eq. 4).

    Attributes:
      heads: number of attention heads.
      window: side of the windows in tokens.
    """

    heads: int
    window: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "w n c"], apart: Bool[np.ndarray, "v n n"] | None = None
    ) -> Float[Array, "w n c"]:
        *batch, channels = x.shape
        qkv = dense(3 * channels, name="qkv")(x).reshape(*batch, 3, self.heads, -1)
        query, key, value = (qkv[..., i, :, :] for i in range(3))
        shape = ((2 * self.window - 1) ** 2, self.heads)
        table = self.param("relative_position_bias_table", init, shape, jnp.float32)
        bias = windows.pairwise_bias(table, self.window)
        y = windows.attention_in_windows(query * query.shape[-1] ** -0.5, key, value, bias, apart)
        return dense(channels, name="proj")(y)


class Block(nn.Module):
    """Window attention and a perceptron, each behind a norm and beside a shortcut (fig. 3 b).

    Attributes:
      heads, window: of the attention.
      shifted: whether its windows are shifted.
      drop_path: probability of dropping a branch while training.
    """

    heads: int
    window: int
    shifted: bool = False
    drop_path: float = 0.0

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w c"]:
        y = layers.LayerNorm(name="norm1")(x)
        attention = WindowAttention(self.heads, self.window, name="attn")
        y = windows.attend_in_windows(y, self.window, self.shifted, attention)
        x = x + layers.DropPath(self.drop_path, name="drop_path1")(y, train=train)
        y = Perceptron(4 * x.shape[-1], name="mlp")(layers.LayerNorm(name="norm2")(x))
        return x + layers.DropPath(self.drop_path, name="drop_path2")(y, train=train)


class Perceptron(nn.Module):
    """Two linear layers with a GELU between.

    Attributes:
      features: hidden size.
    """

    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "*batch c"]) -> Float[Array, "*batch c"]:
        y = layers.gelu(dense(self.features, name="fc1")(x))
        return dense(x.shape[-1], name="fc2")(y)


class PatchMerging(nn.Module):
    """Joins each 2x2 tokens to one of twice the channels (section 3.1)."""

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        x = layers.LayerNorm(name="norm")(neighbours(x))
        return dense(x.shape[-1] // 2, use_bias=False, name="reduction")(x)


class PatchEmbed(nn.Module):
    """Linear embedding of patches of 4x4 pixels.

    Attributes:
      features: output channels.
    """

    features: int

    @nn.compact
    def __call__(self, images: Float[Array, "b h w c"]) -> Float[Array, "b h4 w4 d"]:
        x = pad_to_multiple(images, 4)
        return layers.LayerNorm(name="norm")(layers.Conv(self.features, 4, 4, padding=0, name="proj")(x))


class Stage(nn.Module):
    """Blocks at one resolution.

    Attributes:
      downsample: in front of them.
    """

    downsample: nn.Module | None
    blocks: tuple[nn.Module, ...]

    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 d"]:
        if self.downsample is not None:
            x = self.downsample(x)
        for block in self.blocks:
            x = block(x, train)
        return x


class SwinTransformer(pyramid.Pyramid):
    """Feature levels "c2" ... "c5", the outputs of the four stages, and "pooled", the mean of the normalised "c5".

    Attributes:
      width: channels of the first stage; doubles with each stage.
      depths, heads: blocks and attention heads of each stage.
      window_size: side of each stage's windows in tokens; odd blocks shift them by half of it.
      level_norms: a norm on each returned level, as dense tasks use it in OpenMMLab; that of "c5" is the one in front
        of "pooled".
      out_levels: which levels are returned; stages beyond the last one are not built.
      frozen_stages: the embedding of patches and this many stages pass no gradient (0: nothing is frozen); a run keeps
        `frozen_paths` out of the optimizer.
      drop_path_rate: stochastic depth of the last block, rising linearly from 0.
      remat: recompute blocks in the backward pass.
    """

    levels = LEVELS
    stem_levels = 0
    parts = (r"patch_embed/.*", *(rf"layers_{i}/.*" for i in range(4)))

    width: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    window_size: tuple[int, ...] = (7, 7, 7, 7)
    level_norms: bool = False
    out_levels: tuple[str, ...] = LEVELS[:4]
    frozen_stages: int = 0
    drop_path_rate: float = 0.0
    remat: bool = False

    def __post_init__(self) -> None:
        family = type(self).__name__
        for name in ("depths", "heads", "window_size"):
            value = getattr(self, name)
            if not isinstance(value, tuple) or len(value) != 4 or min(value) < 1:
                raise ValueError(f"{family} got {name}={value!r}; it takes a positive number for each of four stages")
        for i, heads in enumerate(self.heads):
            if self.width * 2**i % heads:
                raise ValueError(f"{family} got {heads} heads for the {self.width * 2**i} channels of stage {i + 1}")
        pyramid.check(self, LEVELS, stages=4)
        super().__post_init__()

    @property
    def level_channels(self) -> tuple[int, ...]:
        """Channels of every level, built or not."""
        return tuple(self.width * 2**i for i in (0, 1, 2, 3, 3))

    @property
    def block(self) -> type[nn.Module]:
        """The class of the blocks, with the fields of `Block`."""
        return Block

    @property
    def merging(self) -> type[nn.Module]:
        """The class between the stages."""
        return PatchMerging

    @nn.nowrap
    def block_options(self, stage: int) -> dict[str, Any]:
        """What the blocks of a stage have in common."""
        return {"heads": self.heads[stage], "window": self.window_size[stage]}

    @nn.compact
    def __call__(self, images: Float[Array, "b h w c"], *, train: bool) -> dict[str, Float[Array, "b *_"]]:
        block = pyramid.block_class(self.block, self.remat)
        rates = pyramid.drop_path_rates(self.drop_path_rate, self.depths)
        x = PatchEmbed(self.width, name="patch_embed")(images)
        levels = {}
        for i in range(self.built):
            frozen = i < self.frozen_stages
            options = self.block_options(i)
            # The stage names these: without `parent=None` they would be children of this module.
            merging = self.merging(parent=None) if i else None
            blocks = tuple(
                block(shifted=j % 2 == 1, drop_path=rate, parent=None, **options) for j, rate in enumerate(rates[i])
            )
            if self.frozen_stages and not i:
                x = jax.lax.stop_gradient(x)
            x = Stage(merging, blocks, name=f"layers_{i}")(x, train and not frozen)
            levels[LEVELS[i]] = x = pyramid.freeze(x, frozen)
        return self.outputs(levels)

    @nn.nowrap
    def outputs(self, levels: dict[str, Float[Array, "b h w c"]]) -> dict[str, Float[Array, "b *_"]]:
        """The levels that are asked for, normalised where that is wanted."""
        if self.level_norms:
            for i, level in enumerate(LEVELS[:3]):
                if level in self.out_levels:
                    levels[level] = layers.LayerNorm(name=f"norm{i}")(levels[level])
        if "pooled" in self.out_levels or (self.level_norms and "c5" in self.out_levels):
            last = layers.LayerNorm(name="norm")(levels["c5"])
            levels["pooled"] = pool.global_avg_pool(last)
            if self.level_norms:
                levels["c5"] = last
        return pyramid.select(levels, self.out_levels)


def dense(features: int, *, name: str, use_bias: bool = True) -> layers.Dense:
    """A linear layer, initialised as the authors do."""
    return layers.Dense(features, use_bias, kernel_init=init, bias_init=nn.initializers.zeros, name=name)


def neighbours(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 4*c"]:
    """The channels of each 2x2 tokens side by side, column after column."""
    x = pad_to_multiple(x, 2)
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 4, 2, 5).reshape(b, h // 2, w // 2, 4 * c)


def pad_to_multiple(x: Float[Array, "b h w c"], factor: int) -> Float[Array, "b h2 w2 c"]:
    """Zeros at the bottom and right up to sides that `factor` divides."""
    _, h, w, _ = x.shape
    if h % factor or w % factor:
        return jnp.pad(x, ((0, 0), (0, -h % factor), (0, -w % factor), (0, 0)))
    return x


# Names of published weights, see `jaxvision/pretrained/keymaps.py`. Everywhere but in timm a stage ends with its patch
# merging, and OpenMMLab's takes the four neighbours of a channel together, row after row (`torch.nn.Unfold`).
MERGING_AT_THE_END = tuple((rf"\.layers\.{i + 1}\.downsample\.", f".layers.{i}.downsample.") for i in range(3))
EMBED_HUGGINGFACE = (
    (r"^backbone\.patch_embed\.proj\.", "swin.embeddings.patch_embeddings.projection."),
    (r"^backbone\.patch_embed\.norm\.", "swin.embeddings.norm."),
    (r"^backbone\.norm\.", "swin.layernorm."),
    (r"^backbone\.layers\.", "swin.encoder.layers."),
    *MERGING_AT_THE_END,
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"^head\.", "classifier."),
)
_JOINED = (r"^(.*\.)qkv\.(.*)", r"\1query.\2 + \1key.\2 + \1value.\2")
TORCHVISION = (
    (r"^backbone\.patch_embed\.proj\.", "features.0.0."),
    (r"^backbone\.patch_embed\.norm\.", "features.0.2."),
    *((rf"^backbone\.layers\.{i}\.downsample\.", f"features.{2 * i}.") for i in (1, 2, 3)),
    *((rf"^backbone\.layers\.{i}\.blocks\.", f"features.{2 * i + 1}.") for i in range(4)),
    (r"\.mlp\.fc1\.", ".mlp.0."),
    (r"\.mlp\.fc2\.", ".mlp.3."),
    (r"^backbone\.norm\.", "norm."),
)
OPENMMLAB = (
    (r"^backbone\.norm\.", "backbone.norm3."),
    (r"^backbone\.patch_embed\.proj\.", "backbone.patch_embed.projection."),
    (r"^backbone\.layers\.", "backbone.stages."),
    (r"\.attn\.", ".attn.w_msa."),
    (r"\.mlp\.fc1\.", ".ffn.layers.0.0."),
    (r"\.mlp\.fc2\.", ".ffn.layers.1."),
    (r"^head\.", "head.fc."),
)


def from_unfold(value: np.ndarray) -> np.ndarray:
    """[4 * c, ...] by channel, row and column -> by column, row and channel."""
    order = np.arange(len(value)).reshape(-1, 2, 2).transpose(2, 1, 0)
    return value[order.reshape(-1)]


def to_unfold(value: np.ndarray) -> np.ndarray:
    """The inverse of `from_unfold`."""
    order = np.arange(len(value)).reshape(2, 2, -1).transpose(2, 1, 0)
    return value[order.reshape(-1)]


KEYS = {
    "timm": ((r"^backbone\.", ""), (r"^head\.", "head.fc.")),
    "torchvision": TORCHVISION,
    "openmmlab": (
        *MERGING_AT_THE_END,
        *OPENMMLAB,
        (r"/downsample/(reduction/kernel|norm/(scale|bias))$", from_unfold, to_unfold),
    ),
    "huggingface": (
        *EMBED_HUGGINGFACE,
        (r"\.attn\.proj\.", ".attention.output.dense."),
        (r"\.attn\.", ".attention.self."),
        _JOINED,
        (r"\.mlp\.fc1\.", ".intermediate.dense."),
        (r"\.mlp\.fc2\.", ".output.dense."),
    ),
    "huggingface/5": (
        *EMBED_HUGGINGFACE,
        (r"\.attn\.proj\.", ".attention.o_proj."),
        (r"\.attn\.relative", ".attention.relative_position_bias.relative"),
        (r"^(.*)\.attn\.qkv\.(.*)", r"\1.attention.{q,k,v}_proj.\2"),
        (r"^(.*){q,k,v}(.*)", r"\1q\2 + \1k\2 + \1v\2"),
    ),
}
IGNORED = (r"\.relative_position_index$", r"\.attn_mask$")
FRESH = (r"/backbone/norm[0-2]/",)


def resize(name: str, value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    """Tables of biases for another window, see `windows.resize_table`."""
    if not name.endswith("/relative_position_bias_table") or value.shape[1:] != shape[1:]:
        return None
    return windows.resize_table(value, (math.isqrt(shape[0]) + 1) // 2)
