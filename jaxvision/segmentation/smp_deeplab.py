"""DeepLabv3 (Chen et al. 2017, arXiv:1706.05587) and v3+ (Chen et al. 2018, arXiv:1802.02611) in the form of
segmentation-models, of which published weights exist.

Other than in `deeplabv3.py` and `deeplabv3plus.py`: separable convolutions have a norm and a ReLU at their end only,
the mean of the map comes last, a 1x1 convolution with dropout fuses the branches and a 3x3 convolution follows, v3+ has
one convolution behind the join, and enlargements of the decoder and of the logits align corners. The backbone's stages
dilate from their first block on (`contract_dilation=False`).
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxvision import layers
from jaxvision.ops import pool
from jaxvision.pretrained.keymaps import Rules
from jaxvision.segmentation import encoder_decoder
from jaxvision.segmentation.encoder_decoder import IGNORED, SegmentationHead, enlarge, ignored
from jaxvision.segmentation.segmentor import HEAD, Levels, Segmentor, level_of

__all__ = ["HEAD", "IGNORED", "SMPDeepLabV3", "SMPDeepLabV3Plus", "ignored", "keys"]


class Unit(nn.Module):
    """A convolution `conv`, or a depthwise one `depthwise` and a 1x1 one `conv`; then a norm `bn` and ReLU.

    Attributes:
      features: output channels.
      kernel_size, dilation: of the convolution in space.
      separable: whether there are two.
      norm: at the end.
    """

    features: int
    kernel_size: int = 1
    dilation: int = 1
    separable: bool = False
    norm: layers.Norm = layers.Norm()

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w features"]:
        in_space: dict[str, Any] = {"kernel_size": self.kernel_size, "dilation": self.dilation, "use_bias": False}
        if self.separable:
            x = layers.Conv(x.shape[-1], groups=x.shape[-1], name="depthwise", **in_space)(x)
            x = layers.Conv(self.features, 1, use_bias=False, name="conv")(x)
        else:
            x = layers.Conv(self.features, name="conv", **in_space)(x)
        return nn.relu(self.norm(name="bn")(x, train=train))


class ASPP(nn.Module):
    """A 1x1 convolution, one for each dilation and the mean of the map (`convs_0` ... `convs_4`), fused by `project`.

    Attributes:
      width, dilations, separable, inner_dropout, norm: see `SMPDeepLabV3`.
    """

    width: int
    dilations: tuple[int, ...]
    separable: bool
    inner_dropout: float
    norm: layers.Norm

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w width"]:
        parts = [Unit(self.width, norm=self.norm, name="convs_0")(x, train)]
        for i, dilation in enumerate(self.dilations, 1):
            branch = Unit(self.width, 3, dilation, self.separable, self.norm, name=f"convs_{i}")
            parts.append(branch(x, train))
        mean = Unit(self.width, norm=self.norm, name=f"convs_{len(parts)}")
        y = mean(pool.global_avg_pool(x)[:, None, None], train)
        parts.append(jnp.broadcast_to(y, parts[0].shape))
        fused = Unit(self.width, norm=self.norm, name="project")(jnp.concatenate(parts, axis=-1), train)
        return nn.Dropout(self.inner_dropout)(fused, deterministic=not train)


class DeepLabDecoder(nn.Module):
    """`aspp` and a convolution behind it; with `low` (v3+) the enlarged map is joined to `block1` and seen by `block2`.

    Attributes:
      width, dilations, separable, inner_dropout, norm: see `SMPDeepLabV3`.
      low_width: channels to which the finer level is brought; None: there is none (v3).
    """

    width: int
    dilations: tuple[int, ...]
    separable: bool
    inner_dropout: float
    norm: layers.Norm
    low_width: int | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], low: Float[Array, "b h2 w2 d"] | None, train: bool
    ) -> Float[Array, "b _ _ width"]:
        x = ASPP(self.width, self.dilations, self.separable, self.inner_dropout, self.norm, name="aspp")(x, train)
        x = Unit(self.width, 3, 1, self.low_width is not None, self.norm, name="after")(x, train)
        if low is None or self.low_width is None:
            return x
        x = enlarge(x, low, "bilinear", align_corners=True)
        low = Unit(self.low_width, norm=self.norm, name="block1")(low, train)
        return Unit(self.width, 3, 1, True, self.norm, name="block2")(jnp.concatenate([x, low], axis=-1), train)


class SMPDeepLabV3(Segmentor):
    """Variables lie under "backbone", "decoder" and "segmentation_head". Logits have the stride of the level.

    Attributes:
      level: of the backbone.
      width: channels of each branch and behind them.
      dilations: of the branches.
      separable: convolutions of the branches are depthwise and pointwise ones.
      inner_dropout: of single values, behind the branches.
    """

    dropout: float = 0.0
    align_corners: bool = True
    level: str = "c5"
    width: int = 256
    dilations: tuple[int, ...] = (12, 24, 36)
    separable: bool = False
    inner_dropout: float = 0.5

    def setup(self) -> None:
        super().setup()
        self.decoder = self.make_decoder(None)
        self.segmentation_head = SegmentationHead(self.num_classes, 1, self.dropout)

    @nn.nowrap
    def make_decoder(self, low_width: int | None) -> DeepLabDecoder:
        return DeepLabDecoder(self.width, self.dilations, self.separable, self.inner_dropout, self.norm, low_width)

    def decode(self, levels: Levels, *, train: bool) -> Float[Array, "b h w classes"]:
        x = self.decoder(level_of(levels, self.level, "level"), None, train)
        return self.segmentation_head(x, train)


class SMPDeepLabV3Plus(SMPDeepLabV3):
    """As `SMPDeepLabV3`; logits have the stride of the finer level.

    Attributes:
      low_level: of the backbone, that is joined.
      low_width: channels to which it is brought (48 in the paper).
    """

    separable: bool = True
    low_level: str = "c2"
    low_width: int = 48

    def setup(self) -> None:
        Segmentor.setup(self)
        self.decoder = self.make_decoder(self.low_width)
        self.segmentation_head = SegmentationHead(self.num_classes, 1, self.dropout)

    def decode(self, levels: Levels, *, train: bool) -> Float[Array, "b h w classes"]:
        low = level_of(levels, self.low_level, "low_level")
        x = self.decoder(level_of(levels, self.level, "level"), low, train)
        return self.segmentation_head(x, train)


def keys(model: SMPDeepLabV3) -> dict[str, Rules]:
    """See `pretrained/keymaps.py`."""
    plus = isinstance(model, SMPDeepLabV3Plus)
    mean = len(model.dilations) + 1
    inner = r"^decoder\.aspp\.convs\.{}\.".format
    names = [
        (inner(mean) + r"conv\.", f"decoder.aspp.convs.{mean}.1."),
        (inner(mean) + r"bn\.", f"decoder.aspp.convs.{mean}.2."),
        (r"\.depthwise\.", ".0.0."),
    ]
    if plus:
        names += [
            (r"^decoder\.after\.0\.0\.", "decoder.aspp.1.0."),
            (r"^decoder\.after\.conv\.", "decoder.aspp.1.1."),
            (r"^decoder\.after\.bn\.", "decoder.aspp.2."),
            (r"^decoder\.block2\.conv\.", "decoder.block2.0.1."),
            (r"^decoder\.aspp\.(convs|project)\.", r"decoder.aspp.0.\1."),
        ]
    else:
        names += [(r"^decoder\.after\.", "decoder.")]
    if model.separable:
        names.append((r"^(decoder\.aspp\.(?:0\.)?convs\.[1-9])\.conv\.", r"\1.0.1."))
    return encoder_decoder.smp_keys(
        model,
        *names,
        (r"^(decoder\..+)\.conv\.(?=weight$)", r"\1.0."),
        (r"^(decoder\..+)\.bn\.", r"\1.1."),
    )
