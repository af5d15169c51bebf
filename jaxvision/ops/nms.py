"""Greedy non-maximum suppression, exact and of static shape, and Soft-NMS (Bodla et al. 2017, arXiv:1704.04503)."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxvision.ops.top_k import top_k

TILE = 128
"""On CPUs up to twice as fast as 256; smaller tiles gain little there and cost an accelerator more rounds."""

Boxes = tuple[Array, ...]
"""left, top, right, bottom, area and, where classes matter, label: each an array of its own, which vectorises."""


def nms(
    boxes: Float[Array, "n 4"],
    scores: Float[Array, " n"],
    *,
    iou_threshold: float,
    max_outputs: int,
    labels: Int[Array, " n"] | None = None,
    valid: Bool[Array, " n"] | None = None,
) -> tuple[Int[Array, " k"], Bool[Array, " k"]]:
    """Goes through the boxes by descending score and keeps each one that no kept box overlaps by more than a threshold.

    Boxes are taken in tiles of 128. A tile is first compared with the boxes kept so far, which lie side by side in a
    small buffer, and then solved in itself: starting from all of its boxes, "keep what nothing kept suppresses" is
    repeated until nothing changes, which is the greedy answer after at most as many rounds as its longest chain of
    suppression. The walk ends with the last valid box or at `max_outputs`. With k kept boxes that is one sort, at most
    15 n (k + 128) FLOPs for the overlaps and 2 * 128 n more in each round, and memory for n + k boxes and two 128 x 128
    masks (32 KiB), never n^2. `vmap` it over images: the loops then run as long as the slowest image needs. No gradient
    passes.

    Args:
      iou_threshold: a box with an IoU of more than this (not: equal) with a kept box of its label is dropped. As in
        torchvision's CPU kernel the IoU has float32 precision and the threshold all its digits, so an IoU of 3 / 10,
        in float32 a little more than 0.3, is dropped at 0.3 (its CUDA kernel and mmcv round the threshold too and keep
        the box); and two boxes without area (0 / 0) never suppress each other.
      max_outputs: k; any size, also beyond n.
      labels: only boxes of one label suppress each other; None means one label. Equality itself is tested:
        moving the boxes of each label apart, as torchvision and mmcv do, loses bits of the coordinates.
      valid: which boxes take part.

    Returns:
      int32 indices of kept boxes by descending score, equal scores by ascending index (as torchvision's stable sort
      has it), and which rows are kept boxes. The others are padding: index 0, not valid.

    Raises:
      ValueError: shapes that do not belong together.
    """
    n = _check(boxes, scores, labels, valid, max_outputs)
    size, tile = min(max_outputs, n), min(TILE, n)
    if size == 0:
        return jnp.zeros(max_outputs, jnp.int32), jnp.zeros(max_outputs, bool)
    padding = (0, -n % tile)
    threshold = _round_down(iou_threshold)
    _, order, valid = top_k(jax.lax.stop_gradient(scores), n, valid)
    fields = tuple(jnp.pad(field[order], padding) for field in _fields(boxes, labels))
    order, valid = jnp.pad(order, padding), jnp.pad(valid, padding)
    end = jnp.max(jnp.where(valid, jnp.arange(len(valid)) + 1, 0))
    rank = jnp.arange(tile)
    earlier = rank[:, None] < rank[None, :]

    def unfinished(state):
        start, count, *_ = state
        return (start < end) & (count < size)

    def add_tile(state):
        start, count, places, kept = state
        boxes = tuple(jax.lax.dynamic_slice_in_dim(field, start, tile) for field in fields)
        alive = jax.lax.dynamic_slice_in_dim(valid, start, tile)
        alive = _survivors(alive, boxes, kept, count, threshold)
        alive = _solve(alive, _suppresses(boxes, boxes, threshold) & earlier)
        place = jnp.where(alive, count + jnp.cumsum(alive, dtype=jnp.int32) - 1, size + tile)
        kept = tuple(buffer.at[place].set(field, mode="drop") for buffer, field in zip(kept, boxes, strict=True))
        places = places.at[place].set(start + rank, mode="drop")
        return start + tile, count + alive.sum(dtype=jnp.int32), places, kept

    # Not jnp.zeros: under shard_map's check of replication the state of a loop must vary over devices from the start.
    kept = tuple(jnp.zeros_like(field, shape=size + tile) for field in fields)
    start, places = jnp.zeros_like(end), jnp.zeros_like(order, shape=size + tile)
    _, count, places, _ = jax.lax.while_loop(unfinished, add_tile, (start, start, places, kept))
    is_kept = jnp.arange(max_outputs) < jnp.minimum(count, size)
    indices = jnp.pad(order[places[:size]], (0, max_outputs - size))
    return jnp.where(is_kept, indices, 0), is_kept


def soft_nms(
    boxes: Float[Array, "n 4"],
    scores: Float[Array, " n"],
    *,
    max_outputs: int,
    method: str = "linear",
    iou_threshold: float = 0.3,
    sigma: float = 0.5,
    min_score: float = 1e-3,
    labels: Int[Array, " n"] | None = None,
    valid: Bool[Array, " n"] | None = None,
) -> tuple[Int[Array, " k"], Float[Array, " k"], Bool[Array, " k"]]:
    """Takes the best box again and again, and lowers the scores of the boxes that overlap it instead of dropping them.

    The defaults and details are those of mmcv.ops.soft_nms: a box is dropped once its lowered score is below
    `min_score`, which is looked at after each choice, so the best box of all is always taken. Each choice costs one
    row of IoU: at most about 20 n k FLOPs in k steps, one after the other; for n of a few thousand. No gradient
    passes.

    Args:
      max_outputs: k; any size, also beyond n.
      method: "linear" (times 1 - IoU where IoU >= `iou_threshold`) | "gaussian" (times exp(-IoU^2 / `sigma`)).
      labels, valid: as in `nms`.

    Returns:
      int32 indices by descending lowered score (equal ones by ascending index), these scores, and which rows are
      boxes. The others are padding: index 0, score 0.

    Raises:
      ValueError: an unknown method, or shapes that do not belong together.
    """
    if method not in ("linear", "gaussian"):
        raise ValueError(f"unknown method of soft_nms {method!r}: expected 'linear' or 'gaussian'")
    n = _check(boxes, scores, labels, valid, max_outputs)
    size, dtype = min(max_outputs, n), scores.dtype
    if size == 0:
        return jnp.zeros(max_outputs, jnp.int32), jnp.zeros(max_outputs, dtype), jnp.zeros(max_outputs, bool)
    fields = _fields(boxes, labels)
    scores = jax.lax.stop_gradient(scores).astype(jnp.float32)
    alive = jnp.ones_like(scores, bool) if valid is None else valid

    def unfinished(state):
        count, _, alive, *_ = state
        return (count < size) & alive.any()

    def take_best(state):
        count, scores, alive, indices, taken = state
        at_least = jnp.maximum(scores, jnp.finfo(jnp.float32).min)  # -inf is still better than not alive
        best = jnp.argmax(jnp.where(alive, at_least, -jnp.inf)).astype(jnp.int32)
        indices, taken = indices.at[count].set(best), taken.at[count].set(scores[best])
        alive = alive.at[best].set(False)
        iou = _iou(tuple(field[best] for field in fields), fields)
        lowered = 1 - iou if method == "linear" else jnp.exp(-jnp.square(iou) / sigma)
        if method == "linear":
            lowered = jnp.where(iou >= iou_threshold, lowered, 1.0)
        scores = jnp.where(alive, scores * lowered, scores)
        return count + 1, scores, alive & (scores >= min_score), indices, taken

    first = jnp.zeros_like(scores, jnp.int32, shape=())
    empty = jnp.zeros_like(scores, jnp.int32, shape=size), jnp.zeros_like(scores, shape=size)
    count, _, _, indices, taken = jax.lax.while_loop(unfinished, take_best, (first, scores, alive, *empty))
    rest = (0, max_outputs - size)
    return jnp.pad(indices, rest), jnp.pad(taken, rest).astype(dtype), jnp.arange(max_outputs) < count


def _survivors(alive: Array, boxes: Boxes, kept: Boxes, count: Array, threshold: float) -> Array:
    """Which of `boxes` none of the first `count` of `kept` suppresses; looks at one tile of them at a time."""
    tile = len(alive)

    def unfinished(state):
        start, alive = state
        return (start < count) & alive.any()

    def step(state):
        start, alive = state
        chunk = tuple(jax.lax.dynamic_slice_in_dim(field, start, tile) for field in kept)
        is_kept = start + jnp.arange(tile) < count
        return start + tile, alive & ~(_suppresses(chunk, boxes, threshold) & is_kept[:, None]).any(axis=0)

    return jax.lax.while_loop(unfinished, step, (jnp.zeros_like(count), alive))[1]


def _solve(alive: Array, suppresses: Array) -> Array:
    """The fixed point of: a box is kept if it is alive and no kept box before it suppresses it."""

    def step(state):
        keep, _ = state
        return alive & ~(suppresses & keep[:, None]).any(axis=0), keep

    start = step((alive, alive))
    return jax.lax.while_loop(lambda state: (state[0] != state[1]).any(), step, start)[0]


def _suppresses(first: Boxes, second: Boxes, threshold: float) -> Bool[Array, "n m"]:
    """Whether the IoU is above the threshold and the labels are equal."""
    return _iou(tuple(field[:, None] for field in first), tuple(field[None, :] for field in second)) > threshold


def _iou(a: Boxes, b: Boxes) -> Array:
    """Of fields that broadcast; 0 between boxes of different labels, and of two boxes without area."""
    width = jnp.maximum(jnp.minimum(a[2], b[2]) - jnp.maximum(a[0], b[0]), 0.0)
    height = jnp.maximum(jnp.minimum(a[3], b[3]) - jnp.maximum(a[1], b[1]), 0.0)
    intersection = width * height
    union = a[4] + b[4] - intersection
    comparable = union != 0 if len(a) == 5 else (union != 0) & (a[5] == b[5])
    return jnp.where(comparable, intersection / union, 0.0)


def _round_down(threshold: float) -> float:
    """The largest float32 that is not above: a float32 is above it exactly where it is above the threshold itself."""
    single = np.float32(threshold)
    return float(single if float(single) <= threshold else np.nextafter(single, np.float32(-np.inf)))


def _fields(boxes: Array, labels: Array | None) -> Boxes:
    left, top, right, bottom = jax.lax.stop_gradient(boxes).astype(jnp.float32).T
    fields = left, top, right, bottom, (right - left) * (bottom - top)
    return fields if labels is None else (*fields, labels)


def _check(boxes: Array, scores: Array, labels: Array | None, valid: Array | None, max_outputs: int) -> int:
    n = scores.shape[0] if scores.ndim == 1 else -1
    if boxes.shape != (n, 4) or any(x is not None and x.shape != (n,) for x in (labels, valid)) or max_outputs < 0:
        shapes = [None if x is None else x.shape for x in (boxes, scores, labels, valid)]
        raise ValueError(
            "nms takes boxes [N, 4], scores, labels and valid [N] of one image (vmap it over images) and "
            f"max_outputs >= 0, and got the shapes {shapes}, max_outputs={max_outputs}"
        )
    return n
