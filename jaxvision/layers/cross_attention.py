"""Multi-head attention of one sequence to another (Vaswani et al. 2017, arXiv:1706.03762, section 3.2.2)."""

import flax.linen as nn
import jax.numpy as jnp
from jax.nn.initializers import Initializer
from jaxtyping import Array, Bool, Float

from jaxvision.layers.attention import attend
from jaxvision.layers.conv import Dense

xavier_uniform = nn.initializers.xavier_uniform()
MASKED = -1e9
"""Added to the product with a key that nothing may see. It is finite, so that a query without any key left has a mean
of them all, and no NaN."""


class MultiHeadAttention(nn.Module):
    """Queries look at keys and take values; torch's `nn.MultiheadAttention`.

    Parameters: `in_proj` [c, 3 c] for the queries, the keys and the values, in this order, and `out_proj` [c, c].

    Attributes:
      heads: the channels are split into this many independent attentions.
      dropout: probability of dropping an attention weight while training.
      kernel_init: of both.
    """

    heads: int
    dropout: float = 0.0
    kernel_init: Initializer = xavier_uniform

    @nn.compact
    def __call__(
        self,
        query: Float[Array, "b n c"],
        key: Float[Array, "b m c"],
        value: Float[Array, "b m c"],
        real: Bool[Array, "b m"] | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "b n c"]:
        """Attends over the axis before the last.

        Args:
          real: which keys there are; the others are padding that no query sees. None: all.

        Raises:
          ValueError: `heads` does not divide the channels.
        """
        channels = query.shape[-1]
        if channels % self.heads:
            raise ValueError(
                f"MultiHeadAttention {self.name!r} got heads={self.heads} for {channels} channels: not divisible"
            )
        projected = ThreeDense(self.kernel_init, name="in_proj")(query, key, value)
        q, k, v = (jnp.swapaxes(x.reshape(*x.shape[:2], self.heads, channels // self.heads), 1, 2) for x in projected)
        bias = None if real is None else jnp.where(real, 0.0, MASKED)[:, None, None]
        drop = nn.Dropout(self.dropout, deterministic=not train) if self.dropout else None
        y = jnp.swapaxes(attend(q, k, v, bias, drop=drop), 1, 2).reshape(query.shape)
        return Dense(channels, kernel_init=self.kernel_init, bias_init=nn.initializers.zeros, name="out_proj")(y)


class ThreeDense(nn.Module):
    """Three linear maps as one parameter: `kernel` [c, 3 c], `bias` [3 c]."""

    kernel_init: Initializer

    @nn.compact
    def __call__(self, *inputs: Float[Array, "b _ c"]) -> list[Float[Array, "b _ c"]]:
        channels = inputs[0].shape[-1]
        kernel = self.param("kernel", self.kernel_init, (channels, 3 * channels), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (3 * channels,), jnp.float32)
        maps = zip(jnp.split(kernel, 3, axis=1), jnp.split(bias, 3), strict=True)
        return [x @ w.astype(x.dtype) + b.astype(x.dtype)[None, None] for x, (w, b) in zip(inputs, maps, strict=True)]
