"""Classification losses over optax: what is added is ignored labels, class weights and torch's label smoothing.

Numbers are those of torch.nn.functional.cross_entropy and binary_cross_entropy_with_logits with reduction="none",
and of the sigmoid focal loss of Lin et al. 2017 (arXiv:1708.02002).
"""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int


def cross_entropy(
    logits: Float[Array, "*batch k"],
    labels: Int[Array, "*batch"] | Float[Array, "*batch k"],
    *,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    class_weights: Float[Array, "k"] | None = None,
) -> Float[Array, "*batch"]:
    """Softmax cross-entropy per sample, float32; zero where the label is `ignore_index`.

    To average, divide by the number of labels that are not ignored (torch divides by the sum of their class weights).

    Args:
      labels: class indices, or target probabilities. An index outside [0, k) that is not ignored gives NaN.
      label_smoothing: share in [0, 1] of each target spread evenly over the classes (Szegedy et al. 2016,
        arXiv:1512.00567, sec. 7).
      ignore_index: label of samples without loss and gradient; 255 is usual for pixels.
      class_weights: factor of each class's term.
    """
    logits = logits.astype(jnp.float32)
    classes = logits.shape[-1]
    expected = logits.shape if jnp.issubdtype(labels.dtype, jnp.floating) else logits.shape[:-1]
    if labels.shape != expected:
        raise ValueError(
            f"cross_entropy got {labels.dtype} labels {labels.shape} for logits {logits.shape}, expected {expected}"
        )
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"cross_entropy got label_smoothing={label_smoothing}; it lies in [0, 1]")
    if jnp.issubdtype(labels.dtype, jnp.floating):
        return _soft_cross_entropy(logits, labels.astype(jnp.float32), label_smoothing, class_weights)

    labels = labels.astype(jnp.int32)
    ignored = labels == ignore_index
    known = (labels >= 0) & (labels < classes)
    safe = jnp.where(known, labels, 0)
    if label_smoothing == 0:
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, safe)
        if class_weights is not None:
            losses *= class_weights.astype(jnp.float32)[safe]
    else:
        losses = _soft_cross_entropy(logits, jax.nn.one_hot(safe, classes), label_smoothing, class_weights)
    return jnp.where(ignored, 0.0, jnp.where(known, losses, jnp.nan))


def binary_cross_entropy(
    logits: Float[Array, "*shape"], targets: Float[Array, "*shape"] | Int[Array, "*shape"]
) -> Float[Array, "*shape"]:
    """Sigmoid cross-entropy per element, float32 (multi-label classification). Targets lie in [0, 1]."""
    _check_same_shape("binary_cross_entropy", logits, targets)
    return optax.sigmoid_binary_cross_entropy(logits.astype(jnp.float32), targets.astype(jnp.float32))


def focal(
    logits: Float[Array, "*shape"],
    targets: Float[Array, "*shape"] | Int[Array, "*shape"],
    *,
    alpha: float | None = 0.25,
    gamma: float = 2.0,
) -> Float[Array, "*shape"]:
    """Sigmoid focal loss per element, float32: cross-entropy times alpha_t (1 - p_t)^gamma.

    To average, divide the sum by the number of positives (sec. 4.1).

    Args:
      targets: in [0, 1]; between 0 and 1, p_t and alpha_t are interpolated.
      alpha: weight of positives, 1 - alpha that of negatives (0.25 with gamma=2: table 1b); None weights neither.
      gamma: focusing exponent; 0 gives the weighted cross-entropy.
    """
    _check_same_shape("focal", logits, targets)
    return optax.sigmoid_focal_loss(logits.astype(jnp.float32), targets.astype(jnp.float32), alpha=alpha, gamma=gamma)


def _soft_cross_entropy(logits: Array, targets: Array, label_smoothing: float, class_weights: Array | None) -> Array:
    targets = optax.smooth_labels(targets, label_smoothing) if label_smoothing else targets
    if class_weights is not None:
        targets *= class_weights.astype(jnp.float32).reshape((1,) * (targets.ndim - 1) + (-1,))
    return optax.safe_softmax_cross_entropy(logits, targets)


def _check_same_shape(name: str, logits: Array, targets: Array) -> None:
    if logits.shape != targets.shape:
        raise ValueError(f"{name} got targets {targets.shape} for logits {logits.shape}; the shapes must be equal")
