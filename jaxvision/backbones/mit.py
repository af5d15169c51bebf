"""MiT, the mix transformer that encodes for SegFormer (Xie et al. 2021, arXiv:2105.15203).

A pyramid of four stages: overlapping patches, attention whose keys and values come from a coarser map (section 3.1,
"efficient self-attention"), and a perceptron with a depthwise convolution inside, which stands for a position
embedding ("Mix-FFN"). The authors' code, segmentation_models_pytorch, OpenMMLab and Hugging Face add different small
numbers to the variances, see `SIZES`. Submodules carry the names of the authors' code, because those of OpenMMLab are
places in lists; query, key and value are one layer.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxvision import layers
from jaxvision.backbones import pyramid
from jaxvision.layers.conv import kaiming_normal_fan_out

_LN5, _LN6 = layers.Norm("ln", epsilon=1e-5), layers.Norm("ln", epsilon=1e-6)
_WIDE = (64, 128, 320, 512)
_SIZES = {
    "mit_b0": {"widths": (32, 64, 160, 256), "depths": (2, 2, 2, 2)},
    "mit_b1": {"widths": _WIDE, "depths": (2, 2, 2, 2)},
    "mit_b2": {"widths": _WIDE, "depths": (3, 4, 6, 3)},
    "mit_b3": {"widths": _WIDE, "depths": (3, 4, 18, 3)},
    "mit_b4": {"widths": _WIDE, "depths": (3, 8, 27, 3)},
    "mit_b5": {"widths": _WIDE, "depths": (3, 6, 40, 3)},
}
SIZES: Mapping[str, Mapping[str, Any]] = {
    **_SIZES,
    **{f"openmmlab/{name}": {**fields, "inner_norm": _LN6} for name, fields in _SIZES.items()},
    **{f"huggingface/{name}": {**fields, "norm": _LN5} for name, fields in _SIZES.items()},
}
"""Table 6: name -> fields of `MixVisionTransformer`. A bare name has the numbers of the authors' code and of smp: the
norms of blocks and stages add 1e-6, those of patches and of keys and values 1e-5; OpenMMLab's all add 1e-6, Hugging
Face's 1e-5."""

LEVELS = ("c2", "c3", "c4", "c5")
HEADS = (1, 2, 5, 8)
REDUCTIONS = (8, 4, 2, 1)
MLP_RATIO = 4

dense_init = nn.initializers.normal(0.02)
"""Of linear layers, as the authors' code (torch's truncation at ±2 cuts nothing off)."""


class QKV(nn.Module):
    """Queries of one array, keys and values of another. Parameters `kernel` [c, 3c], `bias` [3c]."""

    @nn.compact
    def __call__(self, x: Float[Array, "b n c"], context: Float[Array, "b m c"] | None) -> tuple[Array, Array, Array]:
        """`context` None: keys and values are of `x`, too."""
        width = x.shape[-1]
        kernel = self.param("kernel", dense_init, (width, 3 * width), jnp.float32).astype(x.dtype)
        bias = self.param("bias", nn.initializers.zeros, (3 * width,), jnp.float32).astype(x.dtype).reshape(1, 1, -1)
        if context is None:
            q, k, v = jnp.split(x @ kernel + bias, 3, axis=-1)
        else:
            q = x @ kernel[:, :width] + bias[..., :width]
            k, v = jnp.split(context @ kernel[:, width:] + bias[..., width:], 2, axis=-1)
        return q, k, v


class ReducedAttention(nn.Module):
    """Self-attention over a map; keys and values come from non-overlapping patches of it (eq. 2).

    Attributes:
      heads: number of heads.
      reduction: side of those patches; 1: every position has its own key and value.
      norm: of the coarser map.
    """

    heads: int
    reduction: int
    norm: layers.Norm

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w c"]:
        b, h, w, c = x.shape
        context = None
        if self.reduction > 1:
            coarse = conv(c, self.reduction, self.reduction, padding=0, name="sr")(x)
            context = self.norm(name="norm")(coarse, train=train).reshape(b, -1, c)
        split = (b, -1, self.heads, c // self.heads)
        qkv = (jnp.swapaxes(part.reshape(split), 1, 2) for part in QKV(name="qkv")(x.reshape(b, -1, c), context))
        return dense(c, name="proj")(jnp.swapaxes(layers.attend(*qkv), 1, 2).reshape(b, h, w, c))


class MixMlp(nn.Module):
    """A perceptron with a depthwise 3x3 convolution in front of its GELU (eq. 3). `features`: hidden size."""

    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        y = dense(self.features, name="fc1")(x)
        y = conv(self.features, 3, groups=self.features, name="dwconv")(y)
        return dense(x.shape[-1], name="fc2")(layers.gelu(y))


class Block(nn.Module):
    """Attention and perceptron, each on a residual branch behind a norm.

    Attributes:
      heads, reduction, inner_norm: see `ReducedAttention`.
      norm: in front of the branches.
      drop_path: probability of dropping a branch while training.
    """

    heads: int
    reduction: int
    norm: layers.Norm = _LN6
    inner_norm: layers.Norm = _LN5
    drop_path: float = 0.0

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w c"]:
        y = self.norm(name="norm1")(x, train=train)
        y = ReducedAttention(self.heads, self.reduction, self.inner_norm, name="attn")(y, train)
        x = x + layers.DropPath(self.drop_path, name="drop_path1")(y, train=train)
        y = MixMlp(MLP_RATIO * x.shape[-1], name="mlp")(self.norm(name="norm2")(x, train=train))
        return x + layers.DropPath(self.drop_path, name="drop_path2")(y, train=train)


class PatchEmbed(nn.Module):
    """A strided convolution whose windows overlap ("overlapped patch merging"), and a norm."""

    features: int
    kernel_size: int
    strides: int
    norm: layers.Norm

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 d"]:
        return self.norm(name="norm")(conv(self.features, self.kernel_size, self.strides, name="proj")(x), train=train)


class MixVisionTransformer(pyramid.Pyramid):
    """Feature levels "c2" ... "c5": the normalised outputs of the four stages. The published classifier averages "c5".

    Attributes:
      widths, depths: channels and blocks of each stage.
      norm: in front of the branches of blocks and behind stages.
      inner_norm: of patches and of the maps that keys and values come from.
      out_levels: which levels are returned; stages beyond the last one are not built.
      frozen_stages: this many stages pass no gradient (0: nothing is frozen); see `frozen_paths`.
      drop_path_rate: stochastic depth of the last block, rising linearly from 0.
      remat: recompute blocks in the backward pass.
    """

    levels = LEVELS
    stem_levels = 0
    parts = (
        "patch_embed1/.*",
        r"(norm1|block1_\d+)/.*",
        *(rf"((patch_embed|norm){i}|block{i}_\d+)/.*" for i in range(2, 5)),
    )

    widths: tuple[int, ...] = (32, 64, 160, 256)
    depths: tuple[int, ...] = (2, 2, 2, 2)
    norm: layers.Norm = _LN6
    inner_norm: layers.Norm = _LN5
    out_levels: tuple[str, ...] = LEVELS
    frozen_stages: int = 0
    drop_path_rate: float = 0.0
    remat: bool = False

    def __post_init__(self) -> None:
        if (
            len(self.depths) != 4
            or len(self.widths) != 4
            or any(w % h for w, h in zip(self.widths, HEADS, strict=True))
        ):
            raise ValueError(
                f"MixVisionTransformer got widths={self.widths} and depths={self.depths}; it takes four of each, the "
                f"widths multiples of the numbers of heads {HEADS}"
            )
        pyramid.check(self, LEVELS, stages=4)
        super().__post_init__()

    @property
    def level_channels(self) -> tuple[int, ...]:
        """Channels of every level, built or not."""
        return self.widths

    @nn.compact
    def __call__(self, images: Float[Array, "b h w c"], *, train: bool) -> dict[str, Float[Array, "b _ _ _"]]:
        """Raises ValueError for images whose "c2" is smaller than the patches of keys and values, 8x8."""
        block = pyramid.block_class(Block, self.remat)
        rates = pyramid.drop_path_rates(self.drop_path_rate, self.depths)
        x, levels = images, {}
        for i in range(self.built):
            mode = train and i >= self.frozen_stages
            kernel_size, strides = (7, 4) if i == 0 else (3, 2)
            x = PatchEmbed(self.widths[i], kernel_size, strides, self.inner_norm, name=f"patch_embed{i + 1}")(x, mode)
            if min(x.shape[1:3]) < REDUCTIONS[i]:
                raise ValueError(
                    f"MixVisionTransformer got images of {images.shape[1]}x{images.shape[2]} pixels; they need at "
                    f"least {REDUCTIONS[0] * 4 - 3} on each side"
                )
            for j, rate in enumerate(rates[i]):
                one = block(HEADS[i], REDUCTIONS[i], self.norm, self.inner_norm, rate, name=f"block{i + 1}_{j}")
                x = one(x, mode)
            x = self.norm(name=f"norm{i + 1}")(x, train=mode)
            levels[LEVELS[i]] = x = pyramid.freeze(x, i < self.frozen_stages)
        return pyramid.select(levels, self.out_levels)


def conv(
    features: int, kernel_size: int, strides: int = 1, *, name: str, groups: int = 1, **options: Any
) -> layers.Conv:
    """A convolution initialised by its fan-out, that of a group if it has several."""
    init = kaiming_normal_fan_out if groups == 1 else nn.initializers.normal((2 / kernel_size**2) ** 0.5)
    zeros = nn.initializers.zeros
    return layers.Conv(
        features, kernel_size, strides, groups=groups, kernel_init=init, bias_init=zeros, name=name, **options
    )


def dense(features: int, *, name: str) -> layers.Dense:
    """A linear layer initialised as in the authors' code."""
    return layers.Dense(features, kernel_init=dense_init, bias_init=nn.initializers.zeros, name=name)


# Names of published weights, see `jaxvision/pretrained/keymaps.py`. "smp/encoder" are the authors' own files, which smp
# hands on; "openmmlab/encoder" mmsegmentation's pretrained encoders, without a classifier; "huggingface" what is
# published and saved, "huggingface/5" what transformers calls its modules since version 5.
_SMP = ((r"\.dwconv\.", ".dwconv.dwconv."), (r"^(.*)\.qkv\.(\w+)$", r"\1.q.\2 + 2 * \1.kv.\2"))
_OPENMMLAB = (
    *((rf"\.patch_embed{i + 1}\.proj\.", f".layers.{i}.0.projection.") for i in range(4)),
    *((rf"\.patch_embed{i + 1}\.", f".layers.{i}.0.") for i in range(4)),
    *((rf"\.block{i + 1}\.", f".layers.{i}.1.") for i in range(4)),
    *((rf"^backbone\.norm{i + 1}\.", f"backbone.layers.{i}.2.") for i in range(4)),
    (r"\.attn\.qkv\.", ".attn.attn.in_proj_"),
    (r"\.attn\.proj\.", ".attn.attn.out_proj."),
    (r"\.mlp\.fc1\.", ".ffn.layers.0."),
    (r"\.mlp\.dwconv\.", ".ffn.layers.1."),
    (r"\.mlp\.fc2\.", ".ffn.layers.4."),
    (r"(\.ffn\.layers\.[04]\.weight)$", r"\1[..., 1, 1]"),
)
_HUGGINGFACE = (
    *((rf"^backbone\.patch_embed{i + 1}\.", f"segformer.encoder.patch_embeddings.{i}.") for i in range(4)),
    (r"(patch_embeddings\.\d)\.norm\.", r"\1.layer_norm."),
    *((rf"^backbone\.block{i + 1}\.", f"segformer.encoder.block.{i}.") for i in range(4)),
    *((rf"^backbone\.norm{i + 1}\.", f"segformer.encoder.layer_norm.{i}.") for i in range(4)),
    (r"\.norm([12])\.", r".layer_norm_\1."),
    (r"\.attn\.norm\.", ".attention.self.layer_norm."),
    (r"\.attn\.sr\.", ".attention.self.sr."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.mlp\.fc([12])\.", r".mlp.dense\1."),
    (r"\.dwconv\.", ".dwconv.dwconv."),
    (r"^head\.", "classifier."),
    (r"^(.*)\.attn\.qkv\.(\w+)$", " + ".join(rf"\1.attention.self.{part}.\2" for part in ("query", "key", "value"))),
)
_MODULES = (
    (r"\.encoder\.patch_embeddings\.(\d)\.", r".stages.\1.patch_embeddings."),
    (r"\.encoder\.block\.(\d)\.", r".stages.\1.blocks."),
    (r"\.encoder\.layer_norm\.(\d)\.", r".stages.\1.layer_norm."),
    *((rf"\.attention\.self\.{part}\.", f".attention.{part[0]}_proj.") for part in ("query", "key", "value")),
    (r"\.attention\.self\.sr\.", ".attention.sequence_reduction.sequence_reduction."),
    (r"\.attention\.self\.layer_norm\.", ".attention.sequence_reduction.layer_norm."),
    (r"\.attention\.output\.dense\.", ".attention.o_proj."),
    (r"\.mlp\.dense([12])\.", r".mlp.fc\1."),
    (r"\.layer_norm_1\.", ".layernorm_before."),
    (r"\.layer_norm_2\.", ".layernorm_after."),
)
KEYS = {
    "smp": ((r"^backbone\.", "encoder."), (r"^head\.", "classification_head.3."), *_SMP),
    "smp/encoder": ((r"^backbone\.", ""), *_SMP),
    "openmmlab": (*_OPENMMLAB, (r"^head\.", "head.fc.")),
    "openmmlab/encoder": (*_OPENMMLAB, (r"^backbone\.", "")),
    "huggingface": _HUGGINGFACE,
    "huggingface/5": (*_HUGGINGFACE, *_MODULES),
}
