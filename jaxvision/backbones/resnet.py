"""ResNet (He et al. 2016, "Deep residual learning for image recognition", arXiv:1512.03385), depths 18 to 152.

Numbers are torchvision's (timm's `resnet18` ... `resnet152` are the same network): in a bottleneck the 3x3
convolution carries the stride ("v1.5"; in the paper it is the first 1x1), and the shortcut of a changed shape is a
strided 1x1 projection. The CIFAR stem (3x3, stride 1, no max pooling) keeps the four stages and is common for 32 x 32
images; the paper's own CIFAR networks (section 4.2) have three narrower stages. Submodules carry timm's names.
"""

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from jaxvision import layers
from jaxvision.layers.conv import kaiming_normal_fan_out
from jaxvision.ops import pool

STAGES = {
    18: ("basic", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    101: ("bottleneck", (3, 4, 23, 3)),
    152: ("bottleneck", (3, 8, 36, 3)),
}
"""Table 1: block type and number of blocks per stage."""

LEVELS = ("c2", "c3", "c4", "c5")


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut (fig. 5, left).

    Attributes:
      features: width of the block; the output has `features * expansion` channels.
      strides: of the first 3x3 convolution and of the projection.
      norm: makes the normalisation layers.
      zero_init_last: the last norm starts with scale 0, so that the block starts as the identity.
    """

    features: int
    strides: int = 1
    norm: layers.Norm = layers.Norm()
    zero_init_last: bool = False

    expansion = 1

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h2 w2 d"]:
        y = _conv(self.features, 3, self.strides, name="conv1")(x)
        y = nn.relu(self.norm(name="bn1")(y, train=train))
        y = _conv(self.features, 3, name="conv2")(y)
        y = self.norm(name="bn2", scale_init=_last_scale(self.zero_init_last))(y, train=train)
        return nn.relu(y + _shortcut(x, self.features, self.strides, self.norm, train))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions around a shortcut (fig. 5, right); attributes as in `BasicBlock`."""

    features: int
    strides: int = 1
    norm: layers.Norm = layers.Norm()
    zero_init_last: bool = False

    expansion = 4

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h2 w2 d"]:
        out = self.features * self.expansion
        y = _conv(self.features, 1, name="conv1")(x)
        y = nn.relu(self.norm(name="bn1")(y, train=train))
        y = _conv(self.features, 3, self.strides, name="conv2")(y)
        y = nn.relu(self.norm(name="bn2")(y, train=train))
        y = _conv(out, 1, name="conv3")(y)
        y = self.norm(name="bn3", scale_init=_last_scale(self.zero_init_last))(y, train=train)
        return nn.relu(y + _shortcut(x, out, self.strides, self.norm, train))


_BLOCKS: dict[str, type[BasicBlock] | type[Bottleneck]] = {"basic": BasicBlock, "bottleneck": Bottleneck}


class ResNet(nn.Module):
    """Feature levels "c2" ... "c5", the outputs of the four stages.

    Attributes:
      depth: 18, 34, 50, 101 or 152.
      stem: "imagenet" (7x7 stride 2, max pooling; strides 4 ... 32) or "cifar" (3x3 stride 1; strides 1 ... 8).
      width: channels of the stem and of the first stage's blocks; doubles with each stage.
      norm: normalisation of every convolution.
      frozen_stages: the stem and this many stages pass no gradient and use running statistics (0: nothing is frozen).
        Weight decay moves parameters without a gradient too: freeze their paths in the optimizer as well.
      zero_init_last: residual branches start at zero (Goyal et al. 2017, arXiv:1706.02677, section 5.1).
    """

    depth: int = 50
    stem: str = "imagenet"
    width: int = 64
    norm: layers.Norm = layers.Norm()
    frozen_stages: int = 0
    zero_init_last: bool = False

    def __post_init__(self) -> None:
        if self.depth not in STAGES:
            raise ValueError(f"ResNet got depth={self.depth}; it knows {', '.join(map(str, STAGES))}")
        if self.stem not in ("imagenet", "cifar"):
            raise ValueError(f"ResNet got stem={self.stem!r}; it knows 'imagenet' and 'cifar'")
        if not 0 <= self.frozen_stages <= len(LEVELS):
            raise ValueError(f"ResNet got frozen_stages={self.frozen_stages}; it takes 0 to {len(LEVELS)}")
        super().__post_init__()

    @property
    def channels(self) -> dict[str, int]:
        """Channels of each level."""
        expansion = _BLOCKS[STAGES[self.depth][0]].expansion
        return {level: self.width * 2**i * expansion for i, level in enumerate(LEVELS)}

    @property
    def strides(self) -> dict[str, int]:
        """Input pixels per output pixel of each level."""
        first = 4 if self.stem == "imagenet" else 1
        return {level: first * 2**i for i, level in enumerate(LEVELS)}

    @nn.compact
    def __call__(self, images: Float[Array, "b h w c"], *, train: bool) -> dict[str, Float[Array, "b _ _ _"]]:
        name, counts = STAGES[self.depth]
        block = _BLOCKS[name]
        moving = train and self.frozen_stages == 0
        if self.stem == "imagenet":
            x = _conv(self.width, 7, 2, name="conv1")(images)
        else:
            x = _conv(self.width, 3, name="conv1")(images)
        x = nn.relu(self.norm(name="bn1")(x, train=moving))
        if self.stem == "imagenet":
            x = pool.max_pool(x, 3, 2, 1)

        levels = {}
        for i, (level, count) in enumerate(zip(LEVELS, counts, strict=True)):
            frozen = i < self.frozen_stages
            for j in range(count):
                x = block(
                    features=self.width * 2**i,
                    strides=2 if i > 0 and j == 0 else 1,
                    norm=self.norm,
                    zero_init_last=self.zero_init_last,
                    name=f"layer{i + 1}_{j}",
                )(x, train=train and not frozen)
            x = jax.lax.stop_gradient(x) if frozen else x
            levels[level] = x
        return levels


def _conv(features: int, kernel_size: int, strides: int = 1, *, name: str) -> layers.Conv:
    return layers.Conv(features, kernel_size, strides, use_bias=False, kernel_init=kaiming_normal_fan_out, name=name)


def _last_scale(zero: bool) -> nn.initializers.Initializer:
    return nn.initializers.zeros if zero else nn.initializers.ones


def _shortcut(x: Array, features: int, strides: int, norm: layers.Norm, train: bool) -> Array:
    """The input, projected where the block changes its shape (option B of section 3.3)."""
    if strides == 1 and x.shape[-1] == features:
        return x
    x = _conv(features, 1, strides, name="downsample_0")(x)
    return norm(name="downsample_1")(x, train=train)
