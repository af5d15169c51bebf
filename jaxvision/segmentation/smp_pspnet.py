"""PSPNet (Zhao et al. 2017, arXiv:1612.01105) in the form of segmentation-models, of which published weights exist.

Other than in the paper and in `pspnet.py` the level is the backbone's of stride 8 as it is, nothing dilates, means of
regions come in front of the map, a branch has the map's channels over the number of branches, that of the whole picture
has no norm, a 1x1 convolution fuses, and a 3x3 convolution classifies.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxvision import layers
from jaxvision.ops import pool
from jaxvision.ops.interpolate import interpolate
from jaxvision.pretrained.keymaps import Rules
from jaxvision.segmentation import encoder_decoder
from jaxvision.segmentation.encoder_decoder import IGNORED, ConvReLU, SegmentationHead, ignored
from jaxvision.segmentation.segmentor import HEAD, Levels, Segmentor, level_of

__all__ = ["HEAD", "IGNORED", "SMPPSPNet", "ignored", "keys"]


class PSPDecoder(nn.Module):
    """Means of regions (`psp_blocks_0`, ...) beside the map, and `conv`.

    Attributes:
      width: output channels.
      scales: regions along a side, of each branch.
      norm: of each convolution; None: none.
    """

    width: int
    scales: tuple[int, ...]
    norm: layers.Norm | None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w width"]:
        size, channels = (x.shape[1], x.shape[2]), max(x.shape[-1] // len(self.scales), 1)
        parts = []
        for i, scale in enumerate(self.scales):
            norm = None if scale == 1 else self.norm
            y = ConvReLU(channels, 1, norm, name=f"psp_blocks_{i}")(pool.adaptive_avg_pool(x, scale), train)
            parts.append(interpolate(y, size, align_corners=True))
        return ConvReLU(self.width, 1, self.norm, name="conv")(jnp.concatenate([*parts, x], axis=-1), train)


class SMPPSPNet(Segmentor):
    """Variables lie under "backbone", "decoder" and "segmentation_head". Logits have the stride of the level.

    Attributes:
      level: of the backbone.
      width: channels in front of the classifier.
      scales: regions along a side, of each branch.
      use_norm: convolutions have the norm `norm`, else a bias.
    """

    dropout: float = 0.2
    align_corners: bool = True
    level: str = "c3"
    width: int = 512
    scales: tuple[int, ...] = (1, 2, 3, 6)
    use_norm: bool = True

    def setup(self) -> None:
        super().setup()
        self.decoder = PSPDecoder(self.width, self.scales, self.norm if self.use_norm else None)
        self.segmentation_head = SegmentationHead(self.num_classes, 3, self.dropout)

    def decode(self, levels: Levels, *, train: bool) -> Float[Array, "b h w classes"]:
        x = self.decoder(level_of(levels, self.level, "level"), train)
        return self.segmentation_head(x, train)


def keys(model: SMPPSPNet) -> dict[str, Rules]:
    """See `pretrained/keymaps.py`."""
    branch = (r"^decoder\.psp_blocks\.(\d)\.", r"decoder.psp.blocks.\1.pool.1.")
    return encoder_decoder.smp_keys(model, branch, *encoder_decoder.CONV_RELU)
