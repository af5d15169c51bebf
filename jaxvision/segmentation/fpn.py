"""Semantic FPN: the levels of a feature pyramid, each brought to stride 4 and added up (Kirillov et al. 2019,
arXiv:1901.02446, section 3.1, without the instances; the pyramid: Lin et al. 2017, arXiv:1612.03144).

In the form of segmentation-models: nothing is convolved between the sums of the pyramid and the branches, enlargements
of the branches align corners, and dropout of whole channels comes before the classifier.
"""

import itertools

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxvision import layers
from jaxvision.ops.interpolate import interpolate
from jaxvision.pretrained.keymaps import Rules
from jaxvision.registry import hint
from jaxvision.segmentation import encoder_decoder
from jaxvision.segmentation.encoder_decoder import IGNORED, SegmentationHead, enlarge, ignored, kaiming_uniform_fan_in
from jaxvision.segmentation.segmentor import HEAD, Levels, Segmentor, levels_of

__all__ = ["FPN", "HEAD", "IGNORED", "ignored", "keys"]

MERGES = ("add", "cat")


def conv(features: int, name: str) -> layers.Conv:
    """A 1x1 convolution with bias."""
    zeros = nn.initializers.zeros
    return layers.Conv(features, 1, kernel_init=kaiming_uniform_fan_in, bias_init=zeros, name=name)


class Branch(nn.Module):
    """3x3 convolutions with group norm and ReLU (`block_0`, ...), each with an enlargement by two; at least one.

    Attributes:
      features: channels.
      doublings: how often the map is enlarged.
      norm: of each convolution.
    """

    features: int
    doublings: int
    norm: layers.Norm

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 features"]:
        for i in range(max(self.doublings, 1)):
            init = kaiming_uniform_fan_in
            x = layers.Conv(self.features, use_bias=False, kernel_init=init, name=f"block_{i}_block_0")(x)
            x = nn.relu(self.norm(name=f"block_{i}_block_1")(x, train=train))
            if self.doublings:
                x = interpolate(x, (2 * x.shape[1], 2 * x.shape[2]), align_corners=True)
        return x


class FPNDecoder(nn.Module):
    """The pyramid `p5` ... `p2` and its branches `seg_blocks_0` ..., both coarsest first.

    Attributes:
      levels: of the backbone, finest first.
      pyramid_channels, branch_channels, norm, merge, interpolation: see `FPN`.
    """

    levels: tuple[str, ...]
    pyramid_channels: int
    branch_channels: int
    norm: layers.Norm
    merge: str
    interpolation: str

    @nn.compact
    def __call__(self, levels: Levels, train: bool) -> Float[Array, "b h w c"]:
        maps = levels_of(levels, reversed(self.levels), "levels")
        last = len(maps) + 1  # names count from the finest one, p2
        pyramid = [conv(self.pyramid_channels, f"p{last}")(maps[0])]
        for i, skip in enumerate(maps[1:], 1):
            lateral = conv(self.pyramid_channels, f"p{last - i}_skip_conv")(skip)
            pyramid.append(enlarge(pyramid[-1], skip, self.interpolation) + lateral)
        parts = []
        for i, x in enumerate(pyramid):
            branch = Branch(self.branch_channels, len(maps) - 1 - i, self.norm, name=f"seg_blocks_{i}")
            x = branch(x, train)
            # Sides that are no multiples of the largest stride: the sizes differ by a pixel.
            same = x.shape[1:3] == maps[-1].shape[1:3]
            parts.append(x if same else interpolate(x, (maps[-1].shape[1], maps[-1].shape[2]), align_corners=True))
        return sum(parts[1:], parts[0]) if self.merge == "add" else jnp.concatenate(parts, axis=-1)


class FPN(Segmentor):
    """Variables lie under "backbone", "decoder" and "segmentation_head". Logits have the stride of the finest level.

    Attributes:
      levels: of the backbone, finest first, each of twice the stride of the one before it.
      pyramid_channels, branch_channels: of the pyramid and of the branches.
      branch_norm: of the branches' convolutions.
      merge: "add" or "cat" (joined) branches.
      interpolation: how maps of the pyramid are enlarged, see `UNet`.
    """

    dropout: float = 0.2
    align_corners: bool = True
    levels: tuple[str, ...] = ("c2", "c3", "c4", "c5")
    pyramid_channels: int = 256
    branch_channels: int = 128
    branch_norm: layers.Norm = layers.Norm("gn")
    merge: str = "add"
    interpolation: str = "nearest"

    def __post_init__(self) -> None:
        if self.merge not in MERGES:
            raise ValueError(f"FPN got merge={self.merge!r}: {hint(self.merge, MERGES)}")
        known = self.backbone.strides
        strides = [known[name] for name in self.levels if name in known]
        if any(coarse != 2 * fine for fine, coarse in itertools.pairwise(strides)):
            raise ValueError(
                f"FPN got levels {self.levels} of the strides {strides}: each must be twice the one before"
            )
        super().__post_init__()

    def setup(self) -> None:
        super().setup()
        self.decoder = FPNDecoder(
            self.levels, self.pyramid_channels, self.branch_channels, self.branch_norm, self.merge, self.interpolation
        )
        self.segmentation_head = SegmentationHead(self.num_classes, 1, self.dropout)

    def decode(self, levels: Levels, *, train: bool) -> Float[Array, "b h w classes"]:
        return self.segmentation_head(self.decoder(levels, train), train)


def keys(model: FPN) -> dict[str, Rules]:
    """See `pretrained/keymaps.py`."""
    own = (r"^decoder\.(p\d)_skip_conv\.", r"decoder.\1.skip_conv.")
    branch = (r"\.block\.(\d)_block\.(\d)\.", r".block.\1.block.\2.")
    return encoder_decoder.smp_keys(model, own, branch)
