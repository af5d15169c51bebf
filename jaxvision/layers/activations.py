"""Piecewise activations with torch's formulas and its derivatives at their kinks, and names for activations in tables.

jax's own `relu6` has the slope 1/2 at 0 and 6; torch's has 0. Hard sigmoid and hard swish: Howard et al. 2019
(arXiv:1905.02244), section 5.2. At a kink the derivative here is that of the flat side.
"""

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def relu6(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """min(max(x, 0), 6)."""
    return jnp.where(x <= 0, jnp.zeros_like(x), jnp.where(x >= 6, jnp.full_like(x, 6), x))


def hard_sigmoid(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """relu6(x + 3) / 6."""
    return jnp.where(x <= -3, jnp.zeros_like(x), jnp.where(x >= 3, jnp.ones_like(x), x / 6 + 0.5))


def hard_swish(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """x * hard_sigmoid(x)."""
    return x * hard_sigmoid(x)


@dataclasses.dataclass(frozen=True)
class LeakyReLU:
    """max(x, slope * x); hashable by value, as fields of modules are."""

    slope: float

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        return nn.leaky_relu(x, self.slope)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": nn.relu,
    "relu6": relu6,
    "silu": jax.nn.silu,
    "sigmoid": nn.sigmoid,
    "hard_sigmoid": hard_sigmoid,
    "hard_swish": hard_swish,
}
"""Name -> function. Modules keep the name, which a config can write."""


def activation(name: str) -> Callable[[Array], Array]:
    """The function of this name; raises ValueError for one that `ACTIVATIONS` lacks."""
    if name not in ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r}; known: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]
