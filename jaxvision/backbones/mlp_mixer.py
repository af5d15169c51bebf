"""MLP-Mixer (Tolstikhin et al. 2021, arXiv:2105.01601): perceptrons that mix tokens and channels in turn.

The mixing over tokens fixes their number, and so the size of the images. Submodules carry timm's names.
"""

import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxvision import layers
from jaxvision.backbones import pyramid

_SIZES = {
    f"mixer_{letter}{patch}_224": {"patch_size": patch, "depth": depth, "width": width, "out_levels": (level,)}
    for letter, depth, width in (("s", 8, 512), ("b", 12, 768), ("l", 24, 1024))
    for patch, level in ((32, "c5"), (16, "c4"))
}
SIZES: Mapping[str, Mapping[str, Any]] = {
    **_SIZES,
    **{
        f"openmmlab/{name}": {**_SIZES[name], "norm": layers.Norm("ln", epsilon=1e-5)}
        for name in ("mixer_b16_224", "mixer_l16_224")
    },
}
"""Table 1 in the names of timm: name -> fields of `MlpMixer`. OpenMMLab's norms add 1e-5 to the variance, the others
(the paper's code and timm) 1e-6."""


class MixerBlock(nn.Module):
    """Mixing of tokens, then of channels, each on a residual branch behind a norm (fig. 1).

    Attributes:
      tokens, channels: hidden sizes of the two perceptrons.
      norm: makes the norms.
      drop_path: probability of dropping a branch while training.
    """

    tokens: int
    channels: int
    norm: layers.Norm = layers.Norm("ln", epsilon=1e-6)
    drop_path: float = 0.0

    @nn.compact
    def __call__(self, x: Float[Array, "b n c"], train: bool) -> Float[Array, "b n c"]:
        y = jnp.swapaxes(self.norm(name="norm1")(x, train=train), 1, 2)
        y = jnp.swapaxes(mlp(self.tokens, name="mlp_tokens")(y), 1, 2)
        x = x + layers.DropPath(self.drop_path, name="drop_path1")(y, train=train)
        y = mlp(self.channels, name="mlp_channels")(self.norm(name="norm2")(x, train=train))
        return x + layers.DropPath(self.drop_path, name="drop_path2")(y, train=train)


class MlpMixer(nn.Module):
    """One map, called "c4" for patches of 16 pixels and "c5" for 32 (2**k: "c<k>"), or the same as "tokens" [B, N, C].

    Both come out of the last norm, so that a classifier that averages them is the published one.

    Attributes:
      image_size: height and width of the images, one int or a pair, in pixels.
      patch_size: side of a patch, a power of two that divides the image size.
      width: channels of a token.
      depth: number of blocks.
      token_ratio, channel_ratio: hidden sizes of the perceptrons relative to the width (over tokens, too).
      norm: normalisation of every kind.
      out_levels: the map and "tokens", or one of them.
      frozen_stages: the stem and this many blocks pass no gradient (0: nothing is frozen); see `frozen_paths`.
      drop_path_rate: stochastic depth, the same for every block, as timm's and OpenMMLab's.
      remat: recompute blocks in the backward pass.
    """

    image_size: int | tuple[int, int] = 224
    patch_size: int = 16
    width: int = 512
    depth: int = 8
    token_ratio: float = 0.5
    channel_ratio: float = 4.0
    norm: layers.Norm = layers.Norm("ln", epsilon=1e-6)
    out_levels: tuple[str, ...] = ("c4",)
    frozen_stages: int = 0
    drop_path_rate: float = 0.0
    remat: bool = False

    def __post_init__(self) -> None:
        patch = self.patch_size
        if patch < 1 or patch & (patch - 1) or any(size % patch for size in self.image):
            raise ValueError(
                f"MlpMixer got image_size={self.image_size} and patch_size={patch}; the patch size must be a power of "
                "two that divides the image size"
            )
        pyramid.check(self, self.levels, stages=self.depth)
        super().__post_init__()

    @property
    def image(self) -> tuple[int, int]:
        """Height and width of the images."""
        return (self.image_size, self.image_size) if isinstance(self.image_size, int) else self.image_size

    @property
    def levels(self) -> tuple[str, str]:
        """Names that `out_levels` may have."""
        return f"c{int(math.log2(self.patch_size))}", "tokens"

    @property
    def channels(self) -> dict[str, int]:
        """Channels of each returned level."""
        return pyramid.select(dict.fromkeys(self.levels, self.width), self.out_levels)

    @property
    def strides(self) -> dict[str, int]:
        """Input pixels per output pixel of each returned level."""
        return pyramid.select(dict.fromkeys(self.levels, self.patch_size), self.out_levels)

    @property
    def frozen_paths(self) -> tuple[str, ...]:
        """Regular expressions, each for whole paths below this module, of the parameters that `frozen_stages` names."""
        if not self.frozen_stages:
            return ()
        return (r"stem/.*", *(rf"blocks_{i}/.*" for i in range(self.frozen_stages)))

    @nn.compact
    def __call__(self, images: Float[Array, "b h w c"], *, train: bool) -> dict[str, Float[Array, "b ..."]]:
        """Raises ValueError for images of another size than `image_size`."""
        if images.shape[1:3] != self.image:
            raise ValueError(
                f"MlpMixer got images of {images.shape[1]}x{images.shape[2]} pixels, but its weights mix the patches "
                f"of {self.image[0]}x{self.image[1]}: resize the images, or make it with image_size="
                f"{images.shape[1:3]}, for which no published weights fit"
            )
        maps = PatchEmbed(self.width, self.patch_size, name="stem")(images)
        b, h, w, c = maps.shape
        x = maps.reshape(b, h * w, c)
        x = jax.lax.stop_gradient(x) if self.frozen_stages else x
        block = pyramid.block_class(MixerBlock, self.remat)
        tokens, channels = (int(self.width * ratio) for ratio in (self.token_ratio, self.channel_ratio))
        for i in range(self.depth):
            frozen = i < self.frozen_stages
            one = block(tokens, channels, self.norm, self.drop_path_rate, name=f"blocks_{i}")
            x = one(x, train and not frozen)
            x = jax.lax.stop_gradient(x) if frozen else x
        x = self.norm(name="norm")(x, train=train)
        return pyramid.select(dict(zip(self.levels, (x.reshape(maps.shape), x), strict=True)), self.out_levels)


class PatchEmbed(nn.Module):
    """A linear map of each patch, as the convolution `proj`."""

    features: int
    patch_size: int

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        return layers.Conv(self.features, self.patch_size, self.patch_size, padding=0, name="proj")(x)


def mlp(features: int, *, name: str) -> layers.Mlp:
    """Equation 1, initialised as in the authors' code; `features`: hidden size."""
    bias_init = nn.initializers.normal(1e-6)
    return layers.Mlp(features, kernel_init=nn.initializers.glorot_uniform(), bias_init=bias_init, name=name)


# Names of published weights, see `jaxvision/pretrained/keymaps.py`.
KEYS = {
    "timm": ((r"^backbone\.", ""),),
    "openmmlab": (
        (r"^backbone\.stem\.proj\.", "backbone.patch_embed.projection."),
        (r"^backbone\.blocks\.", "backbone.layers."),
        (r"\.mlp_tokens\.fc1\.", ".token_mix.layers.0.0."),
        (r"\.mlp_tokens\.fc2\.", ".token_mix.layers.1."),
        (r"\.mlp_channels\.fc1\.", ".channel_mix.layers.0.0."),
        (r"\.mlp_channels\.fc2\.", ".channel_mix.layers.1."),
        (r"\.norm([12])\.", r".ln\1."),
        (r"^backbone\.norm\.", "backbone.ln1."),
        (r"^head\.", "head.fc."),
    ),
}
