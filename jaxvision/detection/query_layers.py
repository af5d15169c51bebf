"""Layers that detectors with queries share: where pictures lie on the canvas, residual steps, the head."""

import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxvision import layers
from jaxvision.layers.cross_attention import xavier_uniform

Initializer = nn.initializers.Initializer


def in_picture(
    size: Float[Array, "b 2"], canvas: tuple[int, int], grid: tuple[int, int]
) -> Bool[Array, "b height width"]:
    """Which cells of a `grid` over the canvas belong to pictures of these heights and widths.

    The rule is that of nearest pixels: a cell counts where the first pixel that it stands for does.
    """
    first = (np.arange(cells, dtype=np.int64) * pixels // cells for cells, pixels in zip(grid, canvas, strict=True))
    rows, columns = (jnp.asarray(pixel, jnp.float32)[None] < size[:, i, None] for i, pixel in enumerate(first))
    return rows[:, :, None] & columns[:, None]


def flatten(levels: Mapping[str, Float[Array, "b _ _ c"]]) -> Float[Array, "b s c"]:
    """The cells of all levels behind each other, row by row."""
    return jnp.concatenate([x.reshape(x.shape[0], -1, *x.shape[3:]) for x in levels.values()], axis=1)


class Add(nn.Module):
    """Layer norm `norm` of the sum of a shortcut and what a layer says about it, after dropout.

    Attributes:
      dropout: probability of dropping what the layer says, while training.
    """

    dropout: float

    @nn.compact
    def __call__(self, x: Float[Array, "b n c"], y: Float[Array, "b n c"], *, train: bool) -> Float[Array, "b n c"]:
        return layers.LayerNorm(name="norm")(x + nn.Dropout(self.dropout)(y, deterministic=not train))


class FeedForward(nn.Module):
    """Linear layers `fc1` and `fc2`, with ReLU and dropout between.

    Attributes:
      features: hidden size.
      dropout: between the two.
    """

    features: int
    dropout: float

    @nn.compact
    def __call__(self, x: Float[Array, "b n c"], *, train: bool) -> Float[Array, "b n c"]:
        y = nn.relu(layers.Dense(self.features, kernel_init=xavier_uniform, name="fc1")(x))
        y = nn.Dropout(self.dropout)(y, deterministic=not train)
        return layers.Dense(x.shape[-1], kernel_init=xavier_uniform, name="fc2")(y)


class BoxBranch(nn.Module):
    """Three linear layers, `layers_0` to `layers_2`, with ReLU between, to four numbers.

    Attributes:
      last_kernel, last_bias: how the last one starts; None: as `layers.Dense`.
    """

    last_kernel: Initializer | None = None
    last_bias: Initializer | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "*b c"]) -> Float[Array, "*b 4"]:
        for i in range(2):
            x = nn.relu(layers.Dense(x.shape[-1], name=f"layers_{i}")(x))
        options: dict[str, Any] = {} if self.last_kernel is None else {"kernel_init": self.last_kernel}
        return layers.Dense(4, bias_init=self.last_bias, name="layers_2", **options)(x)


def prior_logit(prior: float) -> float:
    """The logit of a probability."""
    return -math.log((1 - prior) / prior)
