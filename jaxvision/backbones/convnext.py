"""ConvNeXt (Liu et al. 2022, arXiv:2201.03545) and ConvNeXt V2 (Woo et al. 2023, arXiv:2301.00808).

V2 puts global response normalisation (its section 4) between the two layers of each block's perceptron and drops the
layer scale. timm's small sizes can have an overlapping stem ("ols"); its "hnf" normalises the last map before pooling
instead of the pooled vector, and "large_mlp" (of CLIP) has one more layer behind it. timm's `conv_mlp` forms compute
the same with 1x1 convolutions. torchvision, OpenMMLab and Hugging Face have the same numbers (the last norm of Hugging
Face adds 1e-12 to a variance where the others add 1e-6). Submodules carry timm's names.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxvision import layers
from jaxvision.backbones import pyramid
from jaxvision.ops import pool


def _size(width: int, depths: tuple[int, ...], **more: Any) -> dict[str, Any]:
    return {"widths": tuple(width * 2**i for i in range(4)), "depths": depths, **more}


_SHALLOW, _NANO, _TINY, _DEEP = (2, 2, 6, 2), (2, 2, 8, 2), (3, 3, 9, 3), (3, 3, 27, 3)
_V2 = {"response_norm": True, "layer_scale": 0.0}
SIZES: Mapping[str, Mapping[str, Any]] = {
    "convnext_atto": _size(40, _SHALLOW),
    "convnext_atto_ols": _size(40, _SHALLOW, stem="tiered"),
    "convnext_femto": _size(48, _SHALLOW),
    "convnext_femto_ols": _size(48, _SHALLOW, stem="tiered"),
    "convnext_pico": _size(64, _SHALLOW),
    "convnext_pico_ols": _size(64, _SHALLOW, stem="tiered"),
    "convnext_nano": _size(80, _NANO),
    "convnext_nano_ols": _size(80, _NANO, stem="overlap"),
    "convnext_tiny": _size(96, _TINY),
    "convnext_tiny_hnf": _size(96, _TINY, norm_first=True),
    "convnext_small": _size(96, _DEEP),
    "convnext_base": _size(128, _DEEP),
    "convnext_large": _size(192, _DEEP),
    "convnext_large_mlp": _size(192, _DEEP, hidden=1536),
    "convnext_xlarge": _size(256, _DEEP),
    "convnext_xxlarge": _size(384, (3, 4, 30, 3), norm=layers.Norm("ln", epsilon=1e-5)),
    "convnextv2_atto": _size(40, _SHALLOW, **_V2),
    "convnextv2_femto": _size(48, _SHALLOW, **_V2),
    "convnextv2_pico": _size(64, _SHALLOW, **_V2),
    "convnextv2_nano": _size(80, _NANO, **_V2),
    "convnextv2_tiny": _size(96, _TINY, **_V2),
    "convnextv2_small": _size(96, _DEEP, **_V2),
    "convnextv2_base": _size(128, _DEEP, **_V2),
    "convnextv2_large": _size(192, _DEEP, **_V2),
    "convnextv2_huge": _size(352, _DEEP, **_V2),
}
"""Name -> fields of `ConvNeXt`, in the names of timm, which include torchvision's."""

paper_init = nn.initializers.normal(0.02)
"""Of kernels (appendix A.1; torch's truncation at ±2 cuts nothing off)."""

LEVELS = ("c2", "c3", "c4", "c5", "pooled")


class GlobalResponseNorm(nn.Module):
    """Scales each channel by its norm over space, relative to the mean over channels (V2, section 4, algorithm 1).

    Parameters `scale`, `bias` [c] start at 0: the identity.
    """

    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        scale, bias = (self.param(n, nn.initializers.zeros, (x.shape[-1],), jnp.float32) for n in ("scale", "bias"))
        squares = jnp.sum(jnp.square(x.astype(jnp.float32)), axis=(1, 2), keepdims=True)
        positive = squares > 0  # the gradient of the root is infinite at 0
        norms = jnp.where(positive, jnp.sqrt(jnp.where(positive, squares, 1)), 0)
        relative = norms / (jnp.mean(norms, axis=-1, keepdims=True) + self.epsilon)
        factor = 1 + scale.reshape(1, 1, 1, -1) * relative
        return x * factor.astype(x.dtype) + bias.astype(x.dtype).reshape(1, 1, 1, -1)


class ResponseMlp(nn.Module):
    """Dense layers `fc1` and `fc2` with GELU and, if `response_norm`, global response normalisation between."""

    features: int
    response_norm: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        y = layers.gelu(dense(self.features, name="fc1")(x))
        if self.response_norm:
            y = GlobalResponseNorm(name="grn")(y)
        return dense(x.shape[-1], name="fc2")(y)


class Block(nn.Module):
    """Depthwise 7x7 convolution, norm and perceptron on a residual branch (fig. 4; V2, fig. 5).

    Attributes:
      dilation: of the convolution.
      norm: makes the norm.
      layer_scale: from which the branch's learned scale starts; 0: no such scale.
      response_norm: see `ResponseMlp`.
      drop_path: probability of dropping the branch while training.
    """

    dilation: int = 1
    norm: layers.Norm = layers.Norm("ln", epsilon=1e-6)
    layer_scale: float = 1e-6
    response_norm: bool = False
    drop_path: float = 0.0

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w c"]:
        width = x.shape[-1]
        y = conv(width, 7, dilation=self.dilation, groups=width, name="conv_dw")(x)
        y = self.norm(name="norm")(y, train=train)
        y = ResponseMlp(4 * width, self.response_norm, name="mlp")(y)
        if self.layer_scale:
            y = layers.LayerScale(self.layer_scale, name="ls")(y)
        return x + layers.DropPath(self.drop_path, name="drop_path")(y, train=train)


class Stage(nn.Module):
    """Norm and 2x2 convolution that change the shape, if any, and blocks.

    Attributes:
      features: output channels.
      geometry: strides and dilations; None: the first stage, which has nothing in front of its blocks.
      drop_path: rate of each block.
      norm, layer_scale, response_norm: of every block.
      remat: recompute blocks in the backward pass.
    """

    features: int
    geometry: pyramid.Stage | None
    drop_path: tuple[float, ...]
    norm: layers.Norm
    layer_scale: float
    response_norm: bool
    remat: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 d"]:
        if self.geometry is not None:
            x = self.norm(name="downsample_0")(x, train=train)
            x = self.downsample(x, self.geometry)
        block = pyramid.block_class(Block, self.remat)
        dilation = self.geometry.dilation if self.geometry else 1
        for j, rate in enumerate(self.drop_path):
            one = block(dilation, self.norm, self.layer_scale, self.response_norm, rate, name=f"blocks_{j}")
            x = one(x, train)
        return x

    @nn.nowrap
    def downsample(self, x: Float[Array, "b h w c"], geometry: pyramid.Stage) -> Float[Array, "b h2 w2 d"]:
        """Where dilation replaces the stride, the 2x2 kernel needs padding: the odd row goes behind, as in timm."""
        dilation = geometry.first_dilation
        if geometry.strides == 1:
            sides = (dilation // 2, dilation - dilation // 2)
            x = jnp.pad(x, ((0, 0), sides, sides, (0, 0)))
        return conv(self.features, 2, geometry.strides, padding=0, dilation=dilation, name="downsample_1")(x)


class ConvNeXt(pyramid.Pyramid):
    """Feature levels "c2" ... "c5", the outputs of the four stages, and "pooled", what the linear classifier sees.

    Attributes:
      widths, depths: channels and blocks of each stage.
      stem: "patch" (4x4 stride 4), "overlap" (two 3x3 stride 2) or "tiered" (the first of them half as wide).
      response_norm: V2's perceptron, see `ResponseMlp`.
      layer_scale: initial scale of the residual branches; 0: they have none.
      norm_first: the last map is normalised before pooling, else the pooled vector.
      hidden: size of one more layer, with GELU, behind pooling and norm; 0: none.
      norm: normalisation of every kind.
      norm_levels: each returned map through a norm of its own, as OpenMMLab's detectors and segmenters do.
      out_levels: which levels are returned; stages beyond the last one are not built.
      frozen_stages: the stem and this many stages pass no gradient and use running statistics (0: nothing is frozen).
        A run keeps `frozen_paths` out of the optimizer, whose weight decay would move them.
      output_stride: 32, or 16 or 8: later stages dilate instead (timm's `output_stride`).
      drop_path_rate: stochastic depth of the last block, rising linearly from 0.
      remat: recompute blocks in the backward pass.
    """

    levels = LEVELS
    stem_levels = 0
    parts = (r"stem_\d+/.*", *(rf"stages_{i}/.*" for i in range(4)))
    stage_strides = (1, 2, 2, 2)
    stem_stride = 4

    widths: tuple[int, ...] = (96, 192, 384, 768)
    depths: tuple[int, ...] = _TINY
    stem: str = "patch"
    response_norm: bool = False
    layer_scale: float = 1e-6
    norm_first: bool = False
    hidden: int = 0
    norm: layers.Norm = layers.Norm("ln", epsilon=1e-6)
    norm_levels: bool = False
    out_levels: tuple[str, ...] = LEVELS[:4]
    frozen_stages: int = 0
    output_stride: int = 32
    drop_path_rate: float = 0.0
    remat: bool = False

    def __post_init__(self) -> None:
        if len(self.widths) != 4 or len(self.depths) != 4:
            raise ValueError(f"ConvNeXt got widths={self.widths} and depths={self.depths}; it takes four of each")
        if self.stem not in ("patch", "overlap", "tiered"):
            raise ValueError(f"ConvNeXt got stem={self.stem!r}; it knows patch, overlap, tiered")
        if self.norm_first and self.hidden:
            raise ValueError("ConvNeXt got norm_first and hidden: the layer behind pooling needs a norm in front of it")
        pyramid.check(self, LEVELS, stages=4)
        super().__post_init__()

    @property
    def level_channels(self) -> tuple[int, ...]:
        """Channels of every level, built or not."""
        return (*self.widths, self.hidden or self.widths[-1])

    @nn.compact
    def __call__(self, images: Float[Array, "b h w c"], *, train: bool) -> dict[str, Float[Array, "b ..."]]:
        rates = pyramid.drop_path_rates(self.drop_path_rate, self.depths)
        x = self.stem_layers(images, train and not self.frozen_stages)
        levels = {}
        for i, geometry in enumerate(self.stages):
            frozen = i < self.frozen_stages
            stage = Stage(
                features=self.widths[i],
                geometry=geometry if i else None,
                drop_path=rates[i],
                norm=self.norm,
                layer_scale=self.layer_scale,
                response_norm=self.response_norm,
                remat=self.remat,
                name=f"stages_{i}",
            )
            x = stage(x, train and not frozen)
            x = pyramid.freeze(x, frozen)
            if LEVELS[i] in self.out_levels:
                levels[LEVELS[i]] = self.norm(name=f"norms_{i}")(x, train=train) if self.norm_levels else x
        if "pooled" in self.out_levels:
            levels["pooled"] = self.pooled(x, train)
        return levels

    @nn.nowrap
    def stem_layers(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 d"]:
        width = self.widths[0]
        if self.stem == "patch":
            x = conv(width, 4, 4, padding=0, name="stem_0")(x)
            return self.norm(name="stem_1")(x, train=train)
        first = pyramid.make_divisible(width // 2) if self.stem == "tiered" else width
        x = conv(first, 3, 2, name="stem_0")(x)
        x = conv(width, 3, 2, name="stem_1")(x)
        return self.norm(name="stem_2")(x, train=train)

    @nn.nowrap
    def pooled(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b d"]:
        """Everything between the last map and the linear classifier."""
        if self.norm_first:
            return pool.global_avg_pool(self.norm(name="norm_pre")(x, train=train))
        y = self.norm(name="norm")(pool.global_avg_pool(x), train=train)
        return layers.gelu(dense(self.hidden, name="pre_logits")(y)) if self.hidden else y


def conv(features: int, kernel_size: int, strides: int = 1, *, name: str, **options: Any) -> layers.Conv:
    """A convolution initialised as in the paper's appendix A.1."""
    zeros = nn.initializers.zeros
    return layers.Conv(features, kernel_size, strides, kernel_init=paper_init, bias_init=zeros, name=name, **options)


def dense(features: int, *, name: str) -> layers.Dense:
    """The same for a linear layer."""
    return layers.Dense(features, kernel_init=paper_init, bias_init=nn.initializers.zeros, name=name)


# Names of published weights, see `jaxvision/pretrained/keymaps.py`. "timm/conv" are the sizes with 1x1 convolutions
# (`conv_mlp`), "openmmlab" those of mmpretrain; its detectors' and segmenters' norms of levels are among them.
_TIMM = (
    (r"^head\.", "head.fc."),
    (r"^backbone\.norm\.", "head.norm."),
    (r"^backbone\.pre_logits\.", "head.pre_logits.fc."),
    (r"^backbone\.", ""),
    (r"\.ls\.gamma$", ".gamma"),
)
_HUGGINGFACE = (
    (r"^backbone\.stem\.0\.", "convnext.embeddings.patch_embeddings."),
    (r"^backbone\.stem\.1\.", "convnext.embeddings.layernorm."),
    (r"^backbone\.stages\.", "convnext.encoder.stages."),
    (r"\.downsample\.", ".downsampling_layer."),
    (r"\.blocks\.(\d+)\.", r".layers.\1."),
    (r"\.conv_dw\.", ".dwconv."),
    (r"\.norm\.", ".layernorm."),
    (r"\.mlp\.fc([12])\.", r".pwconv\1."),
    (r"\.mlp\.grn\.(\w+)$", r".grn.\1[1, 1, 1, ...]"),
    (r"\.ls\.gamma$", ".layer_scale_parameter"),
    (r"^backbone\.", "convnext."),
    (r"^head\.", "classifier."),
)
KEYS = {
    "timm": _TIMM,
    "timm/conv": (*_TIMM, (r"(\.mlp\.fc[12]\.weight)$", r"\1[..., 1, 1]")),
    "torchvision": (
        (r"^backbone\.stem\.", "features.0."),
        *((rf"^backbone\.stages\.{i}\.downsample\.", f"features.{2 * i}.") for i in (1, 2, 3)),
        *((rf"^backbone\.stages\.{i}\.blocks\.(\d+)\.", rf"features.{2 * i + 1}.\1.block.") for i in range(4)),
        (r"\.block\.conv_dw\.", ".block.0."),
        (r"\.block\.norm\.", ".block.2."),
        (r"\.block\.mlp\.fc1\.", ".block.3."),
        (r"\.block\.mlp\.fc2\.", ".block.5."),
        (r"\.block\.ls\.gamma$", ".layer_scale[..., 1, 1]"),
        (r"^backbone\.norm\.", "classifier.0."),
        (r"^head\.", "classifier.2."),
    ),
    "openmmlab": (
        (r"^backbone\.stem\.", "backbone.downsample_layers.0."),
        (r"^backbone\.stages\.(\d)\.downsample\.", r"backbone.downsample_layers.\1."),
        (r"\.blocks\.", "."),
        (r"\.conv_dw\.", ".depthwise_conv."),
        (r"\.mlp\.fc([12])\.", r".pointwise_conv\1."),
        (r"\.mlp\.grn\.weight$", ".grn.gamma"),
        (r"\.mlp\.grn\.bias$", ".grn.beta"),
        (r"\.ls\.gamma$", ".gamma"),
        (r"^backbone\.norm\.", "backbone.norm3."),
        (r"^backbone\.norms\.(\d)\.", r"backbone.norm\1."),
        (r"^head\.", "head.fc."),
    ),
    "huggingface": _HUGGINGFACE,
    "huggingface/v2": (*_HUGGINGFACE, (r"^convnext\.", "convnextv2.")),
}
