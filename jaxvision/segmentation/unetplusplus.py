"""U-Net++ (Zhou et al. 2018, arXiv:1807.10165): U-Nets of every depth inside of each other, with dense skips.

In the form of segmentation-models: the nested nodes are numbered by the block of the decoder whose resolution they have
(`blocks_x_<start>_<block>`), the intermediate ones are as wide as the level of the backbone, and there is no deep
supervision.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxvision import layers
from jaxvision.pretrained.keymaps import Rules
from jaxvision.segmentation import encoder_decoder
from jaxvision.segmentation.encoder_decoder import IGNORED, Center, UpBlock, ignored
from jaxvision.segmentation.segmentor import HEAD, Levels
from jaxvision.segmentation.unet import UNet

__all__ = ["HEAD", "IGNORED", "UNetPlusPlus", "ignored", "keys"]


class UNetPlusPlusDecoder(nn.Module):
    """The nodes of figure 1a.

    Attributes:
      names: of the levels, coarsest first.
      channels: of each block of the longest path, coarsest first; one more than there are skips.
      norm, attention, interpolation, center: see `UNet`.
    """

    names: tuple[str, ...]
    channels: tuple[int, ...]
    norm: layers.Norm | None
    attention: str | None
    interpolation: str
    center: bool

    @nn.compact
    def __call__(self, levels: Levels, train: bool) -> Float[Array, "b h w c"]:
        features = [levels[name] for name in self.names]
        if self.center:
            features[0] = Center(self.norm, name="center")(features[0], train)
        last = len(features) - 1

        def node(start: int, block: int, x: Array, skip: Array | None) -> Array:
            width = self.channels[block] if start == 0 else features[block + 1].shape[-1]
            up = UpBlock(width, self.norm, self.attention, self.interpolation, name=f"blocks_x_{start}_{block}")
            return up(x, skip, train)

        # `nodes[start]` is the newest node of the path that began at level `start`.
        nodes: list[list[Array]] = []
        for start in range(last):
            nodes.append([node(start, start, features[start], features[start + 1])])
        for length in range(1, last):
            for start in range(last - length):
                block = start + length
                dense = [nodes[other][block - other] for other in range(start + 1, block + 1)]
                skip = jnp.concatenate([*dense, features[block + 1]], axis=-1)
                nodes[start].append(node(start, block, nodes[start][-1], skip))
        return node(0, last, nodes[0][-1], None)


class UNetPlusPlus(UNet):
    """Variables and attributes as those of `UNet`. The backbone returns a level of every stride down to 2."""

    def __post_init__(self) -> None:
        if None in encoder_decoder.path_up(self)[1][:-1]:
            raise ValueError(
                f"UNetPlusPlus takes levels of every stride from 2 on; its backbone has {dict(self.backbone.strides)}"
            )
        super().__post_init__()

    @nn.nowrap
    def make_decoder(self) -> nn.Module:
        coarsest, skips = encoder_decoder.path_up(self)
        return UNetPlusPlusDecoder(
            (coarsest, *(name for name in skips[:-1] if name is not None)),
            self.decoder_channels,
            self.norm if self.use_norm else None,
            self.attention,
            self.interpolation,
            self.center,
        )


def keys(model: UNetPlusPlus) -> dict[str, Rules]:
    """See `pretrained/keymaps.py`."""
    nodes = (r"^decoder\.blocks_x\.(\d)\.(\d)\.", r"decoder.blocks.x_\1_\2.")
    return encoder_decoder.smp_keys(
        model, nodes, *encoder_decoder.CENTER, *encoder_decoder.CONV_RELU, *encoder_decoder.ATTENTION
    )
