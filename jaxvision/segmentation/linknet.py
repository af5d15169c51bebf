"""LinkNet (Chaurasia and Culurciello 2017, arXiv:1707.03718): blocks that squeeze, enlarge by a transposed convolution
and add the level of the backbone.

In the form of segmentation-models: the transposed convolutions are 4x4, every level down to stride 2 is added (the
paper begins at 4), and in place of the paper's last layers one more block and a 1x1 convolution end the network.
"""

import flax.linen as nn
from jaxtyping import Array, Float

from jaxvision import layers
from jaxvision.pretrained.keymaps import Rules
from jaxvision.segmentation import encoder_decoder
from jaxvision.segmentation.encoder_decoder import IGNORED, ConvReLU, SegmentationHead, ignored
from jaxvision.segmentation.segmentor import HEAD, Levels, Segmentor

__all__ = ["HEAD", "IGNORED", "LinkNet", "ignored", "keys"]


class TransposedReLU(nn.Module):
    """A 4x4 transposed convolution `conv` that doubles height and width, a norm `bn`, ReLU."""

    features: int
    norm: layers.Norm | None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 features"]:
        x = layers.ConvTranspose(self.features, 4, 2, padding=1, name="conv")(x)
        return nn.relu(x if self.norm is None else self.norm(name="bn")(x, train=train))


class LinkBlock(nn.Module):
    """Squeezes to a quarter of the channels, doubles the resolution, widens, adds `skip`.

    Attributes:
      features: output channels.
      norm: None: none.
    """

    features: int
    norm: layers.Norm | None

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], skip: Float[Array, "b h2 w2 features"] | None, train: bool
    ) -> Float[Array, "b h2 w2 features"]:
        squeezed = max(x.shape[-1] // 4, 1)
        x = ConvReLU(squeezed, 1, self.norm, name="block_0")(x, train)
        x = TransposedReLU(squeezed, self.norm, name="block_1")(x, train)
        x = ConvReLU(self.features, 1, self.norm, name="block_2")(x, train)
        if skip is None:
            return x
        if x.shape != skip.shape:
            raise ValueError(
                f"LinkNet cannot add {x.shape} and the level {skip.shape} of its backbone: give it images whose sides "
                "are multiples of its largest stride"
            )
        return x + skip


class LinkNetDecoder(nn.Module):
    """Blocks (`blocks_0`, ...) from the coarsest level to the canvas.

    Attributes:
      coarsest, skips: names of levels, see `encoder_decoder.path_up`.
      width: channels of the last block.
      norm: None: none.
    """

    coarsest: str
    skips: tuple[str | None, ...]
    width: int
    norm: layers.Norm | None

    @nn.compact
    def __call__(self, levels: Levels, train: bool) -> Float[Array, "b h w c"]:
        x = levels[self.coarsest]
        for i, name in enumerate(self.skips):
            skip = None if name is None or i + 1 == len(self.skips) else levels[name]
            features = x.shape[-1] if skip is None else skip.shape[-1]
            features = self.width if i + 1 == len(self.skips) else features
            x = LinkBlock(features, self.norm, name=f"blocks_{i}")(x, skip, train)
        return x


class LinkNet(Segmentor):
    """Variables lie under "backbone", "decoder" and "segmentation_head". Logits have the size of the canvas.

    Attributes:
      width: channels of the last block.
      use_norm: convolutions of the decoder have the norm `norm`; those that are not transposed else have a bias.
    """

    dropout: float = 0.0
    align_corners: bool = True
    width: int = 32
    use_norm: bool = True

    def setup(self) -> None:
        super().setup()
        norm = self.norm if self.use_norm else None
        self.decoder = LinkNetDecoder(*encoder_decoder.path_up(self), self.width, norm)
        self.segmentation_head = SegmentationHead(self.num_classes, 1, self.dropout)

    def decode(self, levels: Levels, *, train: bool) -> Float[Array, "b h w classes"]:
        return self.segmentation_head(self.decoder(levels, train), train)


def keys(model: LinkNet) -> dict[str, Rules]:
    """See `pretrained/keymaps.py`."""
    return encoder_decoder.smp_keys(model, *encoder_decoder.CONV_RELU)
