"""U-Net (Ronneberger et al. 2015, arXiv:1505.04597) over any backbone, in the form of segmentation-models.

Its encoder is a backbone of classification; a block of the decoder enlarges by the nearest neighbour, joins the level
of its resolution and convolves twice. The image itself is not joined. OpenMMLab's form, whose encoder is the paper's,
is the backbone `unet_s5_d16` (`backbones/unet.py`) below an FCN head: the row `openmmlab/unet`.
"""

import flax.linen as nn
from jaxtyping import Array, Float

from jaxvision import layers
from jaxvision.pretrained.keymaps import Rules
from jaxvision.segmentation import encoder_decoder
from jaxvision.segmentation.encoder_decoder import IGNORED, Center, SegmentationHead, UpBlock, ignored
from jaxvision.segmentation.segmentor import HEAD, Levels, Segmentor

__all__ = ["HEAD", "IGNORED", "UNet", "ignored", "keys"]


class UNetDecoder(nn.Module):
    """Blocks (`blocks_0`, ...) from the coarsest level to the canvas.

    Attributes:
      coarsest, skips: names of levels, see `encoder_decoder.path_up`.
      channels: of each block.
      norm, attention, interpolation: of the blocks.
      center: whether two convolutions follow the coarsest level.
    """

    coarsest: str
    skips: tuple[str | None, ...]
    channels: tuple[int, ...]
    norm: layers.Norm | None
    attention: str | None
    interpolation: str
    center: bool

    @nn.compact
    def __call__(self, levels: Levels, train: bool) -> Float[Array, "b h w c"]:
        x = levels[self.coarsest]
        x = Center(self.norm, name="center")(x, train) if self.center else x
        for i, (features, skip) in enumerate(zip(self.channels, self.skips, strict=True)):
            block = UpBlock(features, self.norm, self.attention, self.interpolation, name=f"blocks_{i}")
            x = block(x, None if skip is None else levels[skip], train)
        return x


class UNet(Segmentor):
    """Variables lie under "backbone", "decoder" and "segmentation_head". Logits have the size of the canvas.

    Attributes:
      decoder_channels: of each block, coarsest first.
      use_norm: convolutions of the decoder have the norm `norm`, else a bias.
      attention: None or "scse", see `encoder_decoder.UpBlock`.
      interpolation: how maps are enlarged: "nearest", "bilinear", "bicubic", "area" or "nearest-exact".
      center: two convolutions behind the coarsest level (segmentation-models has them for VGG).
    """

    dropout: float = 0.0
    align_corners: bool = True
    decoder_channels: tuple[int, ...] = (256, 128, 64, 32, 16)
    use_norm: bool = True
    attention: str | None = None
    interpolation: str = "nearest"
    center: bool = False

    def __post_init__(self) -> None:
        encoder_decoder.check_decoder(self)
        super().__post_init__()

    def setup(self) -> None:
        super().setup()
        self.decoder = self.make_decoder()
        self.segmentation_head = SegmentationHead(self.num_classes, 3, self.dropout)

    @nn.nowrap
    def make_decoder(self) -> nn.Module:
        return UNetDecoder(
            *encoder_decoder.path_up(self),
            self.decoder_channels,
            self.norm if self.use_norm else None,
            self.attention,
            self.interpolation,
            self.center,
        )

    def decode(self, levels: Levels, *, train: bool) -> Float[Array, "b h w classes"]:
        return self.segmentation_head(self.decoder(levels, train), train)


def keys(model: UNet) -> dict[str, Rules]:
    """See `pretrained/keymaps.py`."""
    return encoder_decoder.smp_keys(
        model, *encoder_decoder.CENTER, *encoder_decoder.CONV_RELU, *encoder_decoder.ATTENTION
    )
