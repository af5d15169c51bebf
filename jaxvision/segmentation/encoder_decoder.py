"""What the networks of segmentation-models (segmentation_models.pytorch) share: levels by stride, blocks, names.

A decoder starts at the coarsest level of the backbone and doubles the resolution block by block; a block is given the
level of its resolution, where the backbone returns one (networks of patches have none of stride 2).
"""

import sys
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxvision import layers
from jaxvision.backbones.mobile import MobileNet
from jaxvision.backbones.pyramid import Pyramid
from jaxvision.ops.interpolate import interpolate
from jaxvision.pretrained.keymaps import Rules
from jaxvision.registry import hint
from jaxvision.segmentation.keys import with_backbone

ATTENTIONS = ("scse",)

kaiming_uniform_fan_in = nn.initializers.variance_scaling(2.0, "fan_in", "uniform")
"""Of the convolutions of all decoders but DeepLab's."""


def path_up(model: Any) -> tuple[str, tuple[str | None, ...]]:
    """The coarsest level of a model's backbone, and for each doubling of it up to the canvas the level there, or None.

    Of several levels of one stride it is the deepest.

    Raises:
      ValueError: strides that are no powers of two.
    """
    by_stride = {stride: name for name, stride in model.backbone.strides.items()}
    coarsest = max(by_stride)
    if any(stride & (stride - 1) for stride in by_stride):
        raise ValueError(f"{type(model).__name__} doubles resolutions, but its backbone has strides {list(by_stride)}")
    doublings = coarsest.bit_length() - 1
    return by_stride[coarsest], tuple(by_stride.get(coarsest >> (i + 1)) for i in range(doublings))


def check_decoder(model: Any) -> None:
    """Raises ValueError unless a decoder has a width for each doubling of the coarsest level, and known parts."""
    family, widths, attention = type(model).__name__, model.decoder_channels, getattr(model, "attention", None)
    coarsest, skips = path_up(model)
    if len(widths) != len(skips):
        raise ValueError(
            f"{family} got decoder_channels={widths}, but {coarsest!r}, the coarsest level of its backbone, has stride "
            f"{2 ** len(skips)}, which takes {len(skips)} of them: set decoder_channels, or out_levels of the backbone"
        )
    if attention is not None and attention not in ATTENTIONS:
        raise ValueError(f"{family} got attention={attention!r}: {hint(attention, ATTENTIONS)}; or None")


class ConvReLU(nn.Module):
    """Convolution `conv`, norm `bn`, ReLU.

    Attributes:
      features, kernel_size, dilation: of the convolution.
      norm: None: none, and the convolution has a bias.
    """

    features: int
    kernel_size: int = 3
    norm: layers.Norm | None = layers.Norm()
    dilation: int = 1

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w features"]:
        x = layers.Conv(
            self.features,
            self.kernel_size,
            dilation=self.dilation,
            use_bias=self.norm is None,
            kernel_init=kaiming_uniform_fan_in,
            bias_init=nn.initializers.zeros,
            name="conv",
        )(x)
        return nn.relu(x if self.norm is None else self.norm(name="bn")(x, train=train))


class SCSE(nn.Module):
    """Channels weighted by their means, plus pixels weighted by all of their channels (Roy et al. 2018,
    arXiv:1808.08127; of its ways to join both the sum).

    Attributes:
      reduction: of the channels between the two layers of the former.
    """

    reduction: int = 16

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        squeezed = max(x.shape[-1] // self.reduction, 1)
        by_channel = layers.SqueezeExcite(squeezed, names=("1", "3"), name="cSE")(x)
        return by_channel + x * nn.sigmoid(layers.Conv(1, 1, name="sSE_0")(x))


class UpBlock(nn.Module):
    """Doubles the resolution, joins `skip` and convolves twice.

    Attributes:
      features: output channels.
      norm: of the convolutions; None: none.
      attention: None, or "scse" in front of the convolutions, where something is joined, and behind them.
      interpolation: method of the enlargement.
    """

    features: int
    norm: layers.Norm | None = layers.Norm()
    attention: str | None = None
    interpolation: str = "nearest"

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], skip: Float[Array, "b h2 w2 s"] | None, train: bool
    ) -> Float[Array, "b h2 w2 features"]:
        x = enlarge(x, skip, self.interpolation)
        if skip is not None:
            x = jnp.concatenate([x, skip], axis=-1)
            x = SCSE(name="attention1")(x) if self.attention else x
        x = ConvReLU(self.features, norm=self.norm, name="conv1")(x, train)
        x = ConvReLU(self.features, norm=self.norm, name="conv2")(x, train)
        return SCSE(name="attention2")(x) if self.attention else x


class Center(nn.Module):
    """Two convolutions behind the coarsest level, which segmentation-models has for VGG only."""

    norm: layers.Norm | None = layers.Norm()

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w c"]:
        for i in range(2):
            x = ConvReLU(x.shape[-1], norm=self.norm, name=f"conv_{i}")(x, train)
        return x


def enlarge(
    x: Float[Array, "b h w c"], like: Array | None, method: str, align_corners: bool = False
) -> Float[Array, "b h2 w2 c"]:
    """`x` of the height and width of `like`; None: doubled. Corners are aligned by "bilinear" and "bicubic" only."""
    size = (2 * x.shape[1], 2 * x.shape[2]) if like is None else (like.shape[1], like.shape[2])
    return interpolate(x, size, method=method, align_corners=align_corners and method in ("bilinear", "bicubic"))


class SegmentationHead(nn.Module):
    """Dropout of whole channels and the last convolution, `conv_seg`.

    Attributes:
      num_classes: channels of the logits.
      kernel_size: of the convolution.
      dropout: rate, while training.
    """

    num_classes: int
    kernel_size: int
    dropout: float

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w num_classes"]:
        x = nn.Dropout(self.dropout, broadcast_dims=(1, 2))(x, deterministic=not train)
        init, zeros = nn.initializers.xavier_uniform(), nn.initializers.zeros
        return layers.Conv(self.num_classes, self.kernel_size, kernel_init=init, bias_init=zeros, name="conv_seg")(x)


IGNORED = (
    r"^classification_head\.",
    r"^encoder\.(_conv_head|_bn1|conv_head|bn2)\.",
    r"^decoder\.blocks\..+\.attention1\.",
)
"""A classifier of images, the layers of EfficientNet behind its last level, and attention where a block has no skip:
segmentation-models builds them and does without."""


def ignored(model: Any) -> tuple[str, ...]:
    """Names of a shallow encoder's further stages, which segmentation-models builds and never calls."""
    backbone = model.backbone
    if isinstance(backbone, Pyramid) and backbone.parts:
        return tuple(rf"^encoder\.layer{i}\." for i in range(backbone.built + 1, len(backbone.parts)))
    if isinstance(backbone, MobileNet):
        stages = range(len(backbone.stages), len(backbone.counts))
        first = sum(backbone.counts[: len(backbone.stages)])
        blocks = range(first, sum(backbone.counts))
        return (
            *(rf"^encoder\.(model\.)?blocks\.{i}\." for i in stages),
            *(rf"^encoder\.(_blocks\.{i}|features\.{i + 1})\." for i in blocks),
        )
    return ()


Names = tuple[tuple[str, str], ...]

CONV_RELU: Names = ((r"^(decoder\..+)\.conv\.(?=weight$|bias$)", r"\1.0."), (r"^(decoder\..+)\.bn\.", r"\1.1."))
"""Names of the layers of `ConvReLU`."""
CENTER: Names = ((r"^decoder\.center\.conv\.(\d)\.", r"decoder.center.\1."),)
ATTENTION: Names = ((r"\.(attention[12])\.", r".\1.attention."),)


def smp_keys(model: Any, *own: tuple[str, str]) -> dict[str, Rules]:
    """Names of segmentation-models: `own` of the decoder, and those of its encoder.

    The latter are those of the file of its family ("smp", "smp/timm"), or timm's: of the "tu-" encoders ("smp/tu").
    """
    rules: Rules = (*own, (r"^segmentation_head\.conv_seg\.", "segmentation_head.0."))
    tables = with_backbone(model.backbone, {"smp": rules})
    module = sys.modules[type(model.backbone).__module__]
    inner: Mapping[str, Rules] = module.keys(model.backbone) if hasattr(module, "keys") else getattr(module, "KEYS", {})
    for name, theirs in inner.items():
        source, _, variant = name.partition("/")
        if source == "timm":
            rest = (r"^(?!decoder\.|segmentation_head\.)", "encoder.model.")
            tables["/".join(filter(None, ("smp/tu", variant)))] = (*theirs, rest, *rules)
    return tables
