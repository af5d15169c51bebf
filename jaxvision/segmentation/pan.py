"""PAN, a pyramid attention network (Li et al. 2018, arXiv:1805.10180): attention of several fields at the coarsest
level, and global means that say which channels of the finer ones count.

In the form of segmentation-models: the convolutions have a bias beside their norm, and enlargements align corners.
"""

import flax.linen as nn
from jaxtyping import Array, Float

from jaxvision import layers
from jaxvision.ops import pool
from jaxvision.ops.interpolate import interpolate
from jaxvision.pretrained.keymaps import Rules
from jaxvision.segmentation import encoder_decoder
from jaxvision.segmentation.encoder_decoder import IGNORED, SegmentationHead, enlarge, ignored, kaiming_uniform_fan_in
from jaxvision.segmentation.segmentor import HEAD, Levels, Segmentor, levels_of

__all__ = ["HEAD", "IGNORED", "PAN", "ignored", "keys"]

LEAST = 8
"""Cells along a side of the coarsest level: it is halved three times."""
INPUT = (32 * LEAST, 32 * LEAST, 3)
"""See `pretrained/keymaps.py`: what a backbone of stride 32 takes."""


class Unit(nn.Module):
    """Convolution `conv` with bias, norm `bn`, and ReLU if `activated`."""

    features: int
    kernel_size: int
    norm: layers.Norm
    activated: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w features"]:
        init, zeros = kaiming_uniform_fan_in, nn.initializers.zeros
        x = layers.Conv(self.features, self.kernel_size, kernel_init=init, bias_init=zeros, name="conv")(x)
        x = self.norm(name="bn")(x, train=train)
        return nn.relu(x) if self.activated else x


class PyramidAttention(nn.Module):
    """Weighs the map by what three coarser ones of a single channel say, and adds its mean (FPA, figure 3).

    Attributes:
      width: output channels.
      norm: of each convolution.
    """

    width: int
    norm: layers.Norm

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w width"]:
        if min(x.shape[1:3]) < LEAST:
            raise ValueError(
                f"PAN got images whose coarsest level has {x.shape[1]} x {x.shape[2]} cells and halves it three times: "
                f"give images of at least {LEAST} times its stride"
            )

        def unit(kernel_size: int, name: str, features: int = 1) -> Unit:
            return Unit(features, kernel_size, self.norm, name=name)

        def enlarged(y: Array, divisor: int) -> Array:
            return interpolate(y, (x.shape[1] // divisor, x.shape[2] // divisor), align_corners=True)

        mean = unit(1, "branch1_1", self.width)(pool.global_avg_pool(x)[:, None, None], train)
        middle = unit(1, "mid_0", self.width)(x, train)
        half = unit(7, "down1_1")(pool.max_pool(x, 2), train)
        quarter = unit(5, "down2_1")(pool.max_pool(half, 2), train)
        eighth = unit(3, "down3_1")(pool.max_pool(quarter, 2), train)
        eighth = unit(3, "down3_2")(eighth, train)
        y = unit(5, "conv2")(quarter, train) + enlarged(eighth, 4)
        y = unit(7, "conv1")(half, train) + enlarged(y, 2)
        return enlarged(y, 1) * middle + mean


class GlobalAttention(nn.Module):
    """The coarser map enlarged, plus the finer one weighted by the coarser one's means (GAU, figure 4).

    Attributes:
      norm: of each convolution.
      interpolation: of the enlargement.
    """

    norm: layers.Norm
    interpolation: str

    @nn.compact
    def __call__(
        self, fine: Float[Array, "b h w c"], coarse: Float[Array, "b h2 w2 d"], train: bool
    ) -> Float[Array, "b h w d"]:
        width = coarse.shape[-1]
        gate = pool.global_avg_pool(coarse)[:, None, None]
        gate = nn.sigmoid(Unit(width, 1, self.norm, activated=False, name="conv1_1")(gate, train))
        x = Unit(width, 3, self.norm, name="conv2")(fine, train)
        return enlarge(coarse, fine, self.interpolation, align_corners=True) + x * gate


class PANDecoder(nn.Module):
    """Pyramid attention `fpa`, then `gau3` ... `gau1` for the finer levels.

    Attributes:
      levels: of the backbone, finest first.
      width, norm, interpolation: see `PAN`.
    """

    levels: tuple[str, ...]
    width: int
    norm: layers.Norm
    interpolation: str

    @nn.compact
    def __call__(self, levels: Levels, train: bool) -> Float[Array, "b h w c"]:
        *finer, coarsest = levels_of(levels, self.levels, "levels")
        x = PyramidAttention(self.width, self.norm, name="fpa")(coarsest, train)
        for i in reversed(range(len(finer))):
            x = GlobalAttention(self.norm, self.interpolation, name=f"gau{i + 1}")(finer[i], x, train)
        return x


class PAN(Segmentor):
    """Variables lie under "backbone", "decoder" and "segmentation_head". Logits have the stride of the finest level.

    Attributes:
      levels: of the backbone, finest first.
      width: channels of the decoder.
      interpolation: how maps are enlarged between levels, see `UNet`.
    """

    dropout: float = 0.0
    align_corners: bool = True
    levels: tuple[str, ...] = ("c2", "c3", "c4", "c5")
    width: int = 32
    interpolation: str = "bilinear"

    def setup(self) -> None:
        super().setup()
        self.decoder = PANDecoder(self.levels, self.width, self.norm, self.interpolation)
        self.segmentation_head = SegmentationHead(self.num_classes, 3, self.dropout)

    def decode(self, levels: Levels, *, train: bool) -> Float[Array, "b h w classes"]:
        return self.segmentation_head(self.decoder(levels, train), train)


def keys(model: PAN) -> dict[str, Rules]:
    """See `pretrained/keymaps.py`."""
    return encoder_decoder.smp_keys(model)
