"""Stochastic depth (Huang et al. 2016, arXiv:1603.09382), per sample, scaled while training as in timm's DropPath."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray


def drop_path(x: Float[Array, "b ..."], rate: float, key: PRNGKeyArray) -> Float[Array, "b ..."]:
    """Zeroes whole samples with probability `rate` in [0, 1] and divides the others by `1 - rate`."""
    if not 0 <= rate <= 1:
        raise ValueError(f"drop_path got rate={rate}; a probability lies in [0, 1]")
    if rate == 0:
        return x
    if rate == 1:
        return jnp.zeros_like(x)
    keep = jax.random.bernoulli(key, 1 - rate, (x.shape[0],) + (1,) * (x.ndim - 1))
    return jnp.where(keep, x / (1 - rate), jnp.zeros_like(x))


class DropPath(nn.Module):
    """`drop_path` while training, the identity otherwise. Draws from the rng collection "dropout"."""

    rate: float

    @nn.compact
    def __call__(self, x: Float[Array, "b ..."], *, train: bool) -> Float[Array, "b ..."]:
        return drop_path(x, self.rate, self.make_rng("dropout")) if train and self.rate else x
