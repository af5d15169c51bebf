"""The two-layer perceptron of transformer blocks and the learned scale of residual branches."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer
from jaxtyping import Array, Float

from jaxvision.layers.conv import Dense, torch_kernel_init


def gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """The exact GELU, x * Phi(x) (Hendrycks and Gimpel 2016, arXiv:1606.08415): torch's default, not flax's."""
    return jax.nn.gelu(x, approximate=False)


class Mlp(nn.Module):
    """Dense layers `fc1` and `fc2` on the last axis with an activation between.

    Attributes:
      features: hidden size.
      out: output size; None: that of the input.
      activation: between the two.
      kernel_init, bias_init: of both layers; None takes the default of `Dense`.
    """

    features: int
    out: int | None = None
    activation: Callable[[Array], Array] = gelu
    kernel_init: Initializer = torch_kernel_init
    bias_init: Initializer | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "*batch c"]) -> Float[Array, "*batch d"]:
        options: dict[str, Any] = {"kernel_init": self.kernel_init, "bias_init": self.bias_init}
        y = self.activation(Dense(self.features, name="fc1", **options)(x))
        return Dense(self.out or x.shape[-1], name="fc2", **options)(y)


class GatedMlp(nn.Module):
    """`fc2` of the product of the halves of `fc1`, the first one activated: SwiGLU (Shazeer 2020, arXiv:2002.05202).

    Attributes:
      features: hidden size, that of each half.
      activation: of the first half.
      kernel_init, bias_init: as in `Mlp`.
    """

    features: int
    activation: Callable[[Array], Array] = jax.nn.silu
    kernel_init: Initializer = torch_kernel_init
    bias_init: Initializer | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "*batch c"]) -> Float[Array, "*batch c"]:
        options: dict[str, Any] = {"kernel_init": self.kernel_init, "bias_init": self.bias_init}
        gate, y = jnp.split(Dense(2 * self.features, name="fc1", **options)(x), 2, axis=-1)
        return Dense(x.shape[-1], name="fc2", **options)(self.activation(gate) * y)


class LayerScale(nn.Module):
    """Multiplies each channel by a learned `gamma` [c] (Touvron et al. 2021, arXiv:2103.17239, section 2).

    Attributes:
      initial: value that gamma starts from; tiny, so that a deep network starts as its shortcuts.
    """

    initial: float = 1e-5

    @nn.compact
    def __call__(self, x: Float[Array, "*batch c"]) -> Float[Array, "*batch c"]:
        gamma = self.param("gamma", nn.initializers.constant(self.initial), (x.shape[-1],), jnp.float32)
        return x * gamma.astype(x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))
