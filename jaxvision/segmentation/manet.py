"""MA-Net (Fan et al. 2020, "MA-Net: a multi-scale attention network for liver and tumor segmentation", IEEE Access 8):
attention between all positions of the coarsest level, and blocks that weigh channels by both of their inputs.

In the form of segmentation-models. The attention there takes one softmax over all pairs of positions together, and
reads the result [positions, channels] as [channels, height, width] without exchanging the axes; weights were trained
with both, so both are kept here.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxvision import layers
from jaxvision.ops import pool
from jaxvision.pretrained.keymaps import Rules
from jaxvision.segmentation import encoder_decoder
from jaxvision.segmentation.encoder_decoder import (
    IGNORED,
    ConvReLU,
    SegmentationHead,
    UpBlock,
    enlarge,
    ignored,
    kaiming_uniform_fan_in,
)
from jaxvision.segmentation.segmentor import HEAD, Levels, Segmentor

__all__ = ["HEAD", "IGNORED", "MANet", "ignored", "keys"]


def conv(features: int, kernel_size: int, name: str) -> layers.Conv:
    """A convolution with bias."""
    zeros = nn.initializers.zeros
    return layers.Conv(features, kernel_size, kernel_init=kaiming_uniform_fan_in, bias_init=zeros, name=name)


class PositionAttention(nn.Module):
    """The input plus what its positions give each other, convolved (the position-wise attention block, PAB).

    Attributes:
      width: channels by which positions are compared.
    """

    width: int

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        batch, height, width, channels = x.shape

        def positions(y: Float[Array, "b h w d"]) -> Float[Array, "b n d"]:
            return y.reshape(batch, height * width, -1)

        top, center = (positions(conv(self.width, 1, f"{name}_conv")(x)) for name in ("top", "center"))
        values = positions(conv(channels, 3, "bottom_conv")(x))
        pairs = jnp.einsum("bid,bjd->bij", center, top).astype(jnp.float32)
        weights = jax.nn.softmax(pairs.reshape(batch, -1), axis=-1).reshape(pairs.shape).astype(x.dtype)
        given = jnp.einsum("bij,bjc->bic", weights, values)
        given = jnp.moveaxis(given.reshape(batch, channels, height, width), 1, -1)  # see the top of this file
        return conv(channels, 3, "out_conv")(x + given)


class Gate(nn.Module):
    """Weights of channels by their means: squeeze and excitation without the product."""

    reduction: int

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b 1 1 c"]:
        y = pool.global_avg_pool(x)[:, None, None]
        y = nn.relu(conv(max(x.shape[-1] // self.reduction, 1), 1, "1")(y))
        return nn.sigmoid(conv(x.shape[-1], 1, "3")(y))


class FusionBlock(nn.Module):
    """Brings the coarser map to the channels of `skip`, weighs it by both, joins and convolves (MFAB).

    Attributes:
      features: output channels.
      norm, interpolation: see `MANet`.
      reduction: of the channels inside of the gates.
    """

    features: int
    norm: layers.Norm | None
    interpolation: str
    reduction: int = 16

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], skip: Float[Array, "b h2 w2 s"], train: bool
    ) -> Float[Array, "b h2 w2 features"]:
        x = ConvReLU(x.shape[-1], norm=self.norm, name="hl_conv_0")(x, train)
        x = ConvReLU(skip.shape[-1], 1, self.norm, name="hl_conv_1")(x, train)
        x = enlarge(x, skip, self.interpolation)
        x = x * (Gate(self.reduction, name="SE_hl")(x) + Gate(self.reduction, name="SE_ll")(skip))
        x = jnp.concatenate([x, skip], axis=-1)
        x = ConvReLU(self.features, norm=self.norm, name="conv1")(x, train)
        return ConvReLU(self.features, norm=self.norm, name="conv2")(x, train)


class MANetDecoder(nn.Module):
    """Position attention (`center`) and blocks (`blocks_0`, ...) up to the canvas; those without a skip are plain.

    Attributes:
      coarsest, skips: names of levels, see `encoder_decoder.path_up`.
      channels: of each block.
      norm, attention_width, interpolation: see `MANet`.
    """

    coarsest: str
    skips: tuple[str | None, ...]
    channels: tuple[int, ...]
    norm: layers.Norm | None
    attention_width: int
    interpolation: str

    @nn.compact
    def __call__(self, levels: Levels, train: bool) -> Float[Array, "b h w c"]:
        x = PositionAttention(self.attention_width, name="center")(levels[self.coarsest])
        for i, (features, skip) in enumerate(zip(self.channels, self.skips, strict=True)):
            name = f"blocks_{i}"
            if skip is None:
                x = UpBlock(features, self.norm, None, self.interpolation, name=name)(x, None, train)
            else:
                x = FusionBlock(features, self.norm, self.interpolation, name=name)(x, levels[skip], train)
        return x


class MANet(Segmentor):
    """Variables lie under "backbone", "decoder" and "segmentation_head". Logits have the size of the canvas.

    Attributes:
      decoder_channels: of each block, coarsest first.
      use_norm: convolutions of the blocks have the norm `norm`, else a bias.
      attention_width: channels by which positions of the coarsest level are compared.
      interpolation: how maps are enlarged, see `UNet`.
    """

    dropout: float = 0.0
    align_corners: bool = True
    decoder_channels: tuple[int, ...] = (256, 128, 64, 32, 16)
    use_norm: bool = True
    attention_width: int = 64
    interpolation: str = "nearest"

    def __post_init__(self) -> None:
        encoder_decoder.check_decoder(self)
        super().__post_init__()

    def setup(self) -> None:
        super().setup()
        self.decoder = MANetDecoder(
            *encoder_decoder.path_up(self),
            self.decoder_channels,
            self.norm if self.use_norm else None,
            self.attention_width,
            self.interpolation,
        )
        self.segmentation_head = SegmentationHead(self.num_classes, 3, self.dropout)

    def decode(self, levels: Levels, *, train: bool) -> Float[Array, "b h w classes"]:
        return self.segmentation_head(self.decoder(levels, train), train)


def keys(model: MANet) -> dict[str, Rules]:
    """See `pretrained/keymaps.py`."""
    return encoder_decoder.smp_keys(model, *encoder_decoder.CONV_RELU)
