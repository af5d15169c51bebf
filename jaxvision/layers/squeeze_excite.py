"""Squeeze-and-excitation (Hu et al. 2018, arXiv:1709.01507): channels weighted by a function of their global means."""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxvision.layers.conv import Conv


class SqueezeExcite(nn.Module):
    """Scales each channel by a gate in [0, 1], by two 1x1 convolutions with bias.

    Attributes:
      features: channels between the two.
      activation: between the two.
      gate: after the second one.
      names: of the two convolutions.
    """

    features: int
    activation: Callable[[Array], Array] = nn.relu
    gate: Callable[[Array], Array] = nn.sigmoid
    names: tuple[str, str] = ("fc1", "fc2")

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        y = jnp.mean(x.astype(jnp.float32), axis=(1, 2), keepdims=True).astype(x.dtype)
        y = self.activation(Conv(self.features, 1, name=self.names[0])(y))
        return x * self.gate(Conv(x.shape[-1], 1, name=self.names[1])(y))
