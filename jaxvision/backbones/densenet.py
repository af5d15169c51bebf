"""DenseNet-BC (Huang et al. 2017, arXiv:1608.06993, table 1), and timm's deep-stemmed form ("d").

Each layer sees the outputs of all former ones of its block, side by side. Submodules carry the names of timm and
torchvision.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxvision import layers
from jaxvision.backbones import pyramid
from jaxvision.ops import pool

SIZES: Mapping[str, Mapping[str, Any]] = {
    "densenet121": {"depths": (6, 12, 24, 16)},
    "densenet161": {"depths": (6, 12, 36, 24), "growth_rate": 48},
    "densenet169": {"depths": (6, 12, 32, 32)},
    "densenet201": {"depths": (6, 12, 48, 32)},
    "densenet264d": {"depths": (6, 12, 64, 48), "growth_rate": 48, "stem": "deep"},
}
"""Name -> fields of `DenseNet`; the last is timm's, the others table 1's."""

LEVELS = ("c1", "c2", "c3", "c4", "c5")


class DenseLayer(nn.Module):
    """Norm, ReLU, 1x1 and norm, ReLU, 3x3 convolution (section 3, "DenseNet-B")."""

    growth_rate: int
    bottleneck: int = 4
    norm: layers.Norm = layers.Norm()

    @nn.compact
    def __call__(self, xs: tuple[Float[Array, "b h w _"], ...], train: bool) -> Float[Array, "b h w d"]:
        """`xs`: what the block has so far. Joined here, so that recomputing this layer keeps no joined array."""
        x = jnp.concatenate(xs, axis=-1)
        x = nn.relu(self.norm(name="norm1")(x, train=train))
        x = conv(self.bottleneck * self.growth_rate, 1, name="conv1")(x)
        x = nn.relu(self.norm(name="norm2")(x, train=train))
        return conv(self.growth_rate, 3, name="conv2")(x)


class DenseBlock(nn.Module):
    """Layers that see each other's outputs (fig. 1)."""

    depth: int
    growth_rate: int
    bottleneck: int = 4
    norm: layers.Norm = layers.Norm()
    remat: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h w d"]:
        layer = pyramid.block_class(DenseLayer, self.remat)
        xs: tuple[Array, ...] = (x,)
        for i in range(self.depth):
            xs += (layer(self.growth_rate, self.bottleneck, self.norm, name=f"denselayer{i + 1}")(xs, train),)
        return jnp.concatenate(xs, axis=-1)


class Transition(nn.Module):
    """Norm, ReLU, 1x1 convolution to half the channels and 2x2 means ("DenseNet-C")."""

    norm: layers.Norm = layers.Norm()

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h2 w2 d"]:
        features = x.shape[-1] // 2
        x = nn.relu(self.norm(name="norm")(x, train=train))
        return pool.avg_pool(conv(features, 1, name="conv")(x), 2)


class DenseNet(pyramid.Pyramid):
    """Levels "c2" ... "c5", the outputs of the four dense blocks, and "c1", that of the stem before its pooling.

    As in timm, "c2" ... "c4" are neither normalised nor reduced, and "c5" has the last norm and ReLU, which the
    classifier sees too. (OpenMMLab's outputs are those of the transitions, half the resolution further on.) There is no
    dilated form: the transitions pool.

    Attributes:
      depths: layers of each dense block.
      growth_rate: channels that a layer adds; the stem has twice as many.
      bottleneck: channels between the two convolutions of a layer, in growth rates.
      stem: "imagenet" (7x7 stride 2) or "deep" (three 3x3), before max pooling.
      norm: normalisation in front of every convolution but the first.
      out_levels: which levels are returned; later blocks are not built.
      frozen_stages: the stem and this many blocks (with the transitions in front of them) pass no gradient and use
        running statistics.
      remat: recompute layers in the backward pass (Pleiss et al. 2017, arXiv:1707.06990): memory linear in depth.
    """

    levels = LEVELS
    parts = (
        r"(conv|norm)[012]/.*",
        *(rf"(denseblock{i + 1}|transition{i})/.*" for i in range(3)),
        r"(denseblock4|transition3|norm5)/.*",
    )

    depths: tuple[int, int, int, int] = (6, 12, 24, 16)
    growth_rate: int = 32
    bottleneck: int = 4
    stem: str = "imagenet"
    norm: layers.Norm = layers.Norm()
    out_levels: tuple[str, ...] = LEVELS[1:]
    frozen_stages: int = 0
    remat: bool = False

    def __post_init__(self) -> None:
        if self.stem not in ("imagenet", "deep"):
            raise ValueError(f"DenseNet got stem={self.stem!r}; it knows imagenet, deep")
        pyramid.check(self, LEVELS, stages=4)
        super().__post_init__()

    @property
    def level_channels(self) -> tuple[int, ...]:
        """Channels of every level, built or not."""
        widths = [2 * self.growth_rate]
        for i, depth in enumerate(self.depths):
            widths.append((widths[-1] if i == 0 else widths[-1] // 2) + depth * self.growth_rate)
        return tuple(widths)

    @nn.compact
    def __call__(self, images: Float[Array, "b h w c"], *, train: bool) -> dict[str, Float[Array, "b _ _ _"]]:
        x = self.stem_layers(images, train and not self.frozen_stages)
        levels = {"c1": pyramid.freeze(x, self.frozen_stages > 0)}
        for i, depth in enumerate(self.depths[: self.built]):
            frozen = i < self.frozen_stages
            running = train and not frozen
            x = Transition(self.norm, name=f"transition{i}")(x, train=running) if i else pool.max_pool(x, 3, 2, 1)
            block = DenseBlock(
                depth, self.growth_rate, self.bottleneck, self.norm, self.remat, name=f"denseblock{i + 1}"
            )
            x = block(x, train=running)
            if i == 3:
                x = nn.relu(self.norm(name="norm5")(x, train=running))
            levels[LEVELS[i + 1]] = x = pyramid.freeze(x, frozen)
        return pyramid.select(levels, self.out_levels)

    @nn.nowrap
    def stem_layers(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b _ _ d"]:
        """Everything in front of the pooling."""
        growth = self.growth_rate
        deep = ((growth, 3, 2), (growth, 3, 1), (2 * growth, 3, 1))
        convs = deep if self.stem == "deep" else ((2 * growth, 7, 2),)
        for i, (features, size, strides) in enumerate(convs):
            x = conv(features, size, strides, name=f"conv{i}")(x)
            x = nn.relu(self.norm(name=f"norm{i}")(x, train=train))
        return x


def conv(features: int, kernel_size: int, strides: int = 1, *, name: str) -> layers.Conv:
    """A convolution without bias, initialised for ReLU."""
    init = nn.initializers.he_normal()
    return layers.Conv(features, kernel_size, strides, use_bias=False, kernel_init=init, name=name)


# Names of published weights, see `jaxvision/pretrained/keymaps.py`. Torchvision's files are older than its code: they
# have "norm.1" for "norm1". OpenMMLab counts from 0 and has the last norm among the transitions.
_TORCHVISION = ((r"^backbone\.", "features."), (r"^head\.", "classifier."))
KEYS = {
    "torchvision": _TORCHVISION,
    "torchvision/published": ((r"(\.denselayer\d+\.(?:norm|conv))([12])\.", r"\1.\2."), *_TORCHVISION),
    "timm": _TORCHVISION,
    "openmmlab": (
        (r"^backbone\.conv0\.", "backbone.stem.0."),
        (r"^backbone\.norm0\.", "backbone.stem.1."),
        (r"^backbone\.norm5\.", "backbone.transitions.3.0."),
        *((rf"^backbone\.denseblock{i + 1}\.", f"backbone.stages.{i}.block.") for i in range(4)),
        *((rf"^backbone\.transition{i + 1}\.", f"backbone.transitions.{i}.") for i in range(3)),
        *((rf"\.denselayer{i + 1}\.", f".{i}.") for i in range(max(max(s["depths"]) for s in SIZES.values()))),
        (r"^head\.", "head.fc."),
    ),
    "smp": ((r"^backbone\.", "encoder.features."),),
}
