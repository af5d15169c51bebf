"""Swin Transformer V2 (Liu et al. 2022, arXiv:2111.09883): scaled cosine attention, norms behind the branches, biases
from a small network that takes any window.

Sizes and names are timm's, whose numbers torchvision (at its windows of 8), OpenMMLab and Hugging Face share; "12to16"
has the windows of 16 of a network that was first trained with windows of 12. Each stage's window is written out: at the
published image size the last map is half a window wide, and the reference shrinks the window to it. See `swin` for what
the two versions share, images of any size among it.
"""

import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxvision import layers
from jaxvision.backbones import swin
from jaxvision.backbones.swin import BASE, LARGE, SMALL, TINY, Perceptron, dense, neighbours
from jaxvision.layers import windows

_W8 = {"window_size": (8, 8, 8, 8)}
_W16 = {"window_size": (16, 16, 16, 8)}
_FROM_12 = {"pretrained_window_size": (12, 12, 12, 6)}
_192 = {"": {"window_size": (12, 12, 12, 6)}, "to16_192to256": {**_W16, **_FROM_12}}
_192["to24_192to384"] = {"window_size": (24, 24, 24, 12), **_FROM_12}

SIZES: Mapping[str, Mapping[str, Any]] = {
    **{
        f"swinv2_{name}_window{window}_256": {**size, **form}
        for name, size in (("tiny", TINY), ("small", SMALL), ("base", BASE))
        for window, form in ((8, _W8), (16, _W16))
    },
    **{
        f"swinv2_{name}_window12{form or '_192'}": {**size, **_192[form]}
        for name, size in (("base", BASE), ("large", LARGE))
        for form in _192
    },
}
"""Name -> fields of `SwinTransformerV2`, in timm's names."""

LEVELS = swin.LEVELS
_MOST = math.log(100)
_HIDDEN = 512
"""Units of the network of biases."""


class WindowAttention(nn.Module):
    """Attention by the cosine of query and key with a bias that a network computes from the relative position (3.3).

    The key has no bias. Parameters beyond the linear layers': `qv_bias` [2 c], that of query and value, and
    `logit_scale` [heads, 1, 1], the logarithm of what the cosines are multiplied with, at most 100.

    Attributes:
      heads: number of attention heads.
      window: side of the windows in tokens.
      pretrained_window: the window of the first training; 0: this one.
    """

    heads: int
    window: int
    pretrained_window: int = 0

    @nn.compact
    def __call__(
        self, x: Float[Array, "w n c"], apart: Bool[np.ndarray, "v n n"] | None = None
    ) -> Float[Array, "w n c"]:
        *batch, channels = x.shape
        bias = self.param("qv_bias", nn.initializers.zeros, (2 * channels,), jnp.float32).astype(x.dtype)
        bias = jnp.concatenate([bias[:channels], jnp.zeros_like(bias[:channels]), bias[channels:]])
        qkv = dense(3 * channels, use_bias=False, name="qkv")(x) + bias[None, None]
        query, key, value = (qkv.reshape(*batch, 3, self.heads, -1)[..., i, :, :] for i in range(3))
        scale = self.param("logit_scale", nn.initializers.constant(math.log(10)), (self.heads, 1, 1), jnp.float32)
        scale = jnp.exp(jnp.minimum(scale, _MOST)).reshape(1, 1, -1, 1)
        y = windows.attention_in_windows(
            (direction(query) * scale).astype(x.dtype), direction(key).astype(x.dtype), value, self.bias(), apart
        )
        return dense(channels, name="proj")(y)

    @nn.nowrap
    def bias(self) -> Float[Array, "h n n"]:
        """The bias of each pair of tokens."""
        positions = windows.log_spaced_positions(self.window, self.pretrained_window or self.window)
        y = nn.relu(dense(_HIDDEN, name="cpb_mlp_0")(jnp.asarray(positions)))
        y = dense(self.heads, use_bias=False, name="cpb_mlp_2")(y)
        return windows.pairwise_bias(16 * jax.nn.sigmoid(y), self.window)


class Block(swin.Block):
    """Window attention and a perceptron, each in front of a norm and beside a shortcut (fig. 1, right).

    Attributes:
      pretrained_window: see `WindowAttention`.
    """

    pretrained_window: int = 0

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w c"]:
        attention = WindowAttention(self.heads, self.window, self.pretrained_window, name="attn")
        y = windows.attend_in_windows(x, self.window, self.shifted, attention)
        y = layers.LayerNorm(scale_init=nn.initializers.zeros, name="norm1")(y)
        x = x + layers.DropPath(self.drop_path, name="drop_path1")(y, train=train)
        y = Perceptron(4 * x.shape[-1], name="mlp")(x)
        y = layers.LayerNorm(scale_init=nn.initializers.zeros, name="norm2")(y)
        return x + layers.DropPath(self.drop_path, name="drop_path2")(y, train=train)


class PatchMerging(nn.Module):
    """Joins each 2x2 tokens to one of twice the channels, the norm last."""

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        x = dense(2 * x.shape[-1], use_bias=False, name="reduction")(neighbours(x))
        return layers.LayerNorm(name="norm")(x)


class SwinTransformerV2(swin.SwinTransformer):
    """A Swin Transformer of the second version; fields as there, and:

    Attributes:
      pretrained_window_size: windows of each stage in the first training; 0: those of this network.
    """

    window_size: tuple[int, ...] = (8, 8, 8, 8)
    pretrained_window_size: tuple[int, ...] = (0, 0, 0, 0)

    def __post_init__(self) -> None:
        if not isinstance(self.pretrained_window_size, tuple) or len(self.pretrained_window_size) != 4:
            raise ValueError(
                f"{type(self).__name__} got pretrained_window_size={self.pretrained_window_size!r}; "
                "it takes a number for each of four stages"
            )
        super().__post_init__()

    @property
    def block(self) -> type[nn.Module]:
        return Block

    @property
    def merging(self) -> type[nn.Module]:
        return PatchMerging

    @nn.nowrap
    def block_options(self, stage: int) -> dict[str, Any]:
        return {**super().block_options(stage), "pretrained_window": self.pretrained_window_size[stage]}


def direction(x: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
    """Vectors of length 1 in float32; a padded token's key is 0 and stays so, with a finite derivative."""
    x = x.astype(jnp.float32)
    squares = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    zero = squares <= 1e-24  # keys of padding; second derivatives of the root overflow there
    return x * jnp.where(zero, 1e12, jax.lax.rsqrt(jnp.where(zero, 1.0, squares)))


def _drop_key_bias(value: np.ndarray) -> np.ndarray:
    query, _, value = np.split(value, 3)
    return np.concatenate([query, value])


def _add_key_bias(value: np.ndarray) -> np.ndarray:
    query, value = np.split(value, 2)
    return np.concatenate([query, np.zeros_like(query), value])


# Names of published weights, see `jaxvision/pretrained/keymaps.py`. torchvision keeps a bias of the key and does
# not use it.
_PARTS = (r"^(.*)\.qv_bias$", r"\1.q_bias + \1.v_bias")
KEYS = {
    "timm": (*swin.KEYS["timm"], _PARTS),
    "torchvision": (
        *swin.TORCHVISION,
        (r"\.qv_bias$", ".qkv.bias"),
        (r"/qv_bias$", _drop_key_bias, _add_key_bias),
    ),
    "openmmlab": (
        *swin.OPENMMLAB,
        _PARTS,
        (r"/downsample/reduction/kernel$", swin.from_unfold, swin.to_unfold),
    ),
    "huggingface": (
        *swin.EMBED_HUGGINGFACE,
        (r"^swin\.", "swinv2."),
        (r"\.attn\.proj\.", ".attention.output.dense."),
        (r"\.attn\.cpb_mlp\.", ".attn.continuous_position_bias_mlp."),
        (r"\.attn\.", ".attention.self."),
        (r"^(.*)\.qkv\.weight$", r"\1.query.weight + \1.key.weight + \1.value.weight"),
        (r"^(.*)\.qv_bias$", r"\1.query.bias + \1.value.bias"),
        (r"\.mlp\.fc1\.", ".intermediate.dense."),
        (r"\.mlp\.fc2\.", ".output.dense."),
    ),
}
IGNORED = (*swin.IGNORED, r"\.relative_coords_table$", r"\.k_bias$")
FRESH = swin.FRESH
INPUT = (256, 256, 3)
