"""Weighted boxes fusion (Solovyev et al. 2021, arXiv:1910.13302): one box from those that several models say."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxvision.ops.boxes import box_iou
from jaxvision.ops.top_k import top_k

State = tuple[Array, Array, Array, Array, Array, Array]


def weighted_boxes_fusion(
    boxes: Float[Array, "n 4"],
    scores: Float[Array, " n"],
    *,
    sources: int,
    iou_threshold: float = 0.55,
    max_outputs: int,
    labels: Int[Array, " n"] | None = None,
    valid: Bool[Array, " n"] | None = None,
) -> tuple[Float[Array, "k 4"], Float[Array, " k"], Int[Array, " k"], Bool[Array, " k"]]:
    """Goes through the boxes by descending score; each joins the cluster that it overlaps most, or opens one.

    A fused box is the mean of its cluster by score, and its score the plain mean, times the share of the sources that
    the cluster has a box of (as many boxes as sources or more: 1), as in section 3.1. The defaults are those of the
    authors' package `ensemble_boxes`. Each box costs one row of IoU: about 20 n^2 FLOPs in n steps, one after the
    other; for n of a few thousand. `vmap` it over images. No gradient passes.

    Args:
      scores: positive.
      sources: models (or views) that the boxes come from.
      iou_threshold: a box joins a cluster whose fused box it overlaps by more than this.
      max_outputs: k; any size, also beyond n.
      labels: only boxes of one label are fused; None means one label, 0.
      valid: which boxes take part.

    Returns:
      Boxes, scores, labels and which rows are boxes, by descending score, equal ones in the order of their clusters.
      The others are zeros.

    Raises:
      ValueError: shapes that do not belong together, or no source.
    """
    n = boxes.shape[0]
    if boxes.shape != (n, 4) or scores.shape != (n,) or sources < 1 or max_outputs < 0:
        raise ValueError(
            f"weighted_boxes_fusion got boxes {boxes.shape}, scores {scores.shape}, sources={sources}, "
            f"max_outputs={max_outputs}: expected [N, 4], [N], at least one source and no negative number"
        )
    labels = jnp.zeros_like(scores, jnp.int32) if labels is None else labels
    if n == 0:
        empty = jnp.zeros((max_outputs, 4), boxes.dtype), jnp.zeros(max_outputs, scores.dtype)
        return *empty, jnp.zeros(max_outputs, labels.dtype), jnp.zeros(max_outputs, bool)
    boxes, scores = jax.lax.stop_gradient((boxes.astype(jnp.float32), scores.astype(jnp.float32)))
    scores, order, valid = top_k(scores, n, valid)
    boxes, labels = boxes[order], labels[order]
    number = jnp.sum(valid, dtype=jnp.int32)
    places = jnp.arange(n)

    def add(state: State) -> State:
        i, clusters, totals, weights, counts, of_label = state
        overlap = box_iou(boxes[i][None], _quotient(totals, weights))[0]
        overlap = jnp.where((places < clusters) & (of_label == labels[i]), overlap, -1.0)
        best = jnp.argmax(overlap).astype(jnp.int32)
        place = jnp.where(overlap[best] > iou_threshold, best, clusters)
        return (
            i + 1,
            jnp.maximum(clusters, place + 1),
            totals.at[place].add(scores[i] * boxes[i]),
            weights.at[place].add(scores[i]),
            counts.at[place].add(1.0),
            of_label.at[place].set(labels[i]),
        )

    first = jnp.zeros_like(number)
    zeros = jnp.zeros_like(scores)
    start = (first, first, jnp.zeros_like(boxes), zeros, zeros, jnp.zeros_like(labels))
    _, clusters, totals, weights, counts, of_label = jax.lax.while_loop(lambda state: state[0] < number, add, start)
    means = _quotient(weights[:, None], counts)[:, 0] * jnp.minimum(counts, float(sources)) / float(sources)
    means, rows, kept = top_k(means, max_outputs, places < clusters)
    fused = jnp.where(kept[:, None], _quotient(totals, weights)[rows], 0.0)
    return fused, means, jnp.where(kept, of_label[rows], 0), kept


def _quotient(values: Float[Array, "n d"], divisors: Float[Array, " n"]) -> Float[Array, "n d"]:
    return values / jnp.where(divisors > 0, divisors, 1.0)[:, None]
