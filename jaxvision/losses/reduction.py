"""Reduction of losses to (sum, count), so that every mean is finalised from sums over all devices."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def weighted_sum(
    values: Float[Array, "*elements"], weights: Float[Array, "*batch"] | Bool[Array, "*batch"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Sum of `values * weights`, and the sum of the weights over the same elements, both float32 scalars.

    Args:
      values: `weights` covers their leading axes and is repeated over the others, so sum / count is the mean over
        elements. What lies under a weight of zero never reaches the sum, not even as NaN.
      weights: bool (`batch["valid"]`) or real.
    """
    if values.shape[: weights.ndim] != weights.shape:
        raise ValueError(
            f"weighted_sum got weights {weights.shape} for values {values.shape}; "
            "weights must have the leading axes of the values"
        )
    factor = weights.astype(jnp.float32).reshape(weights.shape + (1,) * (values.ndim - weights.ndim))
    factor = jnp.broadcast_to(factor, values.shape)
    kept = jnp.where(factor != 0, values.astype(jnp.float32), jnp.zeros_like(factor))
    return jnp.sum(kept * factor), jnp.sum(factor)
