"""The k best of a padded set, itself padded."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def top_k(
    scores: Float[Array, "*b n"], k: int, valid: Bool[Array, "*b n"] | None = None
) -> tuple[Float[Array, "*b k"], Int[Array, "*b k"], Bool[Array, "*b k"]]:
    """The k highest scores in descending order; equal ones by ascending index, NaN before all (as torch sorts).

    Where fewer than k are valid the rest is padding: score 0, index 0, not valid. Values are differentiable.

    Args:
      k: any static size, also beyond n.
      valid: which scores take part; None takes all.

    Returns:
      Scores, int32 indices into the last axis, and which rows are not padding.

    Raises:
      ValueError: a negative k, or scores that are not floating-point.
    """
    if k < 0 or not scores.shape or not jnp.issubdtype(scores.dtype, jnp.floating):
        raise ValueError(
            f"top_k takes floating-point scores [..., N] and k >= 0, and got {scores.dtype} {scores.shape}, k={k}"
        )
    if valid is None:
        valid = jnp.ones_like(scores, bool)
    missing = [(0, 0)] * (scores.ndim - 1) + [(0, max(k - scores.shape[-1], 0))]
    scores, valid = jnp.pad(scores, missing), jnp.pad(valid, missing)
    # Below every valid score, -inf included, lies padding; -0 equals 0, which XLA's sort would tell apart.
    keys = jnp.maximum(jnp.where(scores == 0, jnp.zeros_like(scores), scores), jnp.finfo(scores.dtype).min)
    keys = jnp.where(valid, keys, -jnp.inf).astype(scores.dtype)
    _, indices = jax.lax.top_k(jax.lax.stop_gradient(keys), k)
    valid = jnp.take_along_axis(valid, indices, axis=-1)
    values = jnp.where(valid, jnp.take_along_axis(scores, indices, axis=-1), jnp.zeros((), scores.dtype))
    return values, jnp.where(valid, indices, 0), valid
