"""From the scores of every cell to detections: what all dense detectors share.

The best pairs of box and class of each level, of at most `candidates`, are decoded, clipped and suppressed. So what is
sorted is short, and every shape is static.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxvision.ops import clip_boxes, nms, top_k
from jaxvision.registry import hint
from jaxvision.structures import Detections

SCORES = ("product", "geometric_mean")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Suppression:
    """How detections are chosen. Defaults are those of OpenMMLab's one-stage detectors.

    Attributes:
      score_threshold: pairs that score no more are left out.
      candidates: pairs of each level that are kept before the suppression.
      iou_threshold: of boxes of one class that overlap more, the better one stays.
      max_detections: of an image.
      min_size: boxes of which a side is no longer than this many pixels are left out; negative: none are.
      class_agnostic: of boxes that overlap more, whatever their classes, the better one stays.
    """

    score_threshold: float = 0.05
    candidates: int = 1000
    iou_threshold: float = 0.5
    max_detections: int = 100
    min_size: float = 0.0
    class_agnostic: bool = False

    def __post_init__(self) -> None:
        if self.candidates < 1 or self.max_detections < 1:
            raise ValueError(f"{self}: candidates and max_detections are at least 1")


Decode = Callable[[Float[Array, "k 4"], Float[Array, "k d"]], Float[Array, "k 4"]]


def best_pairs(
    logits: Float[Array, "n c"], count: int, quality: Float[Array, " n"] | None = None
) -> tuple[Float[Array, " k"], Int[Array, " k"], Int[Array, " k"]]:
    """The `count` largest logits (or all): their values, rows and classes; of equals the earlier row, then class.

    The same as sorting all n * c of them, ties included: no pair can be among the best whose row is not among the
    `count` best rows by their largest value. So two short selections replace one of a hundred times the length.

    Args:
      quality: a logit of each row; values are then float32 logarithms of the product of both probabilities.
    """
    rows, classes = logits.shape
    if rows > count:
        _, kept, _ = top_k(_log_product(jnp.max(logits, axis=-1), quality), count)
        kept = jnp.sort(kept)  # the order of the rows decides ties
        logits, quality = logits[kept], None if quality is None else quality[kept]
    else:
        kept = jnp.arange(rows, dtype=jnp.int32)
    ordered = _log_product(logits, None if quality is None else quality[:, None])
    values, pairs, _ = top_k(ordered.reshape(-1), min(count, logits.size))
    return values, kept[pairs // classes], pairs % classes


def _log_product(logits: Float[Array, "*n"], quality: Float[Array, "*m"] | None) -> Float[Array, "*n"]:
    if quality is None:
        return logits
    return jax.nn.log_sigmoid(logits.astype(jnp.float32)) + jax.nn.log_sigmoid(quality.astype(jnp.float32))


def detect(
    logits: Sequence[Float[Array, "b n c"]],
    codes: Sequence[Float[Array, "b n d"]],
    priors: Sequence[Float[Array, "n p"]],
    decode: Decode,
    size: Float[Array, "b 2"],
    settings: Suppression,
    quality: Sequence[Float[Array, "b n"]] | None = None,
    score: str = "product",
    logarithms: bool = False,
) -> Detections:
    """Detections of a batch, in pixels of the canvas.

    Args:
      logits: of each level; their sigmoid is the score of a class.
      codes: what the model says about each box.
      priors: the anchors or points of each level.
      decode: `(priors, codes) -> boxes xyxy`.
      size: height and width of each picture, to which boxes are clipped.
      quality: of each level, a logit of how good each box is.
      score: what the quality does. "product": a pair's score is that of its class times the quality, but candidates are
        chosen by, and must exceed the threshold with, the score of the class alone (OpenMMLab). "geometric_mean": the
        square root of the product, which decides from the beginning (torchvision).
      logarithms: `logits` are the logarithms of the scores, as of a softmax; then there is no quality.
    """
    if logarithms and quality is not None:
        raise ValueError("detect got a quality beside logarithms of scores: it multiplies what a sigmoid gives")
    if score not in SCORES:
        raise ValueError(f"unknown score {score!r}: {hint(score, SCORES)}")
    ranked = quality is not None and score == "geometric_mean"

    def one(levels: Sequence[tuple[Array, Array, Array | None]], size: Float[Array, " 2"]) -> Detections:
        found = []
        for (level_logits, level_codes, level_quality), level_priors in zip(levels, priors, strict=True):
            values, rows, labels = best_pairs(level_logits, settings.candidates, level_quality if ranked else None)
            boxes = clip_boxes(decode(level_priors[rows], level_codes[rows]), size)
            values = values.astype(jnp.float32)
            score_of = jnp.exp if logarithms else jax.nn.sigmoid
            confidences = scores = jnp.exp(0.5 * values) if ranked else score_of(values)
            if level_quality is not None and not ranked:
                scores = confidences * jax.nn.sigmoid(level_quality[rows].astype(jnp.float32))
            found.append((boxes, scores, labels, confidences))
        boxes, scores, labels, confidences = (jnp.concatenate(parts) for parts in zip(*found, strict=True))
        return suppress(boxes, scores, labels, jnp.ones_like(scores, bool), settings, confidences)

    qualities = [None] * len(logits) if quality is None else quality
    return jax.vmap(one)(tuple(zip(logits, codes, qualities, strict=True)), size)


def suppress(
    boxes: Float[Array, "k 4"],
    scores: Float[Array, " k"],
    labels: Int[Array, " k"],
    valid: Bool[Array, " k"],
    settings: Suppression,
    confidences: Float[Array, " k"] | None = None,
) -> Detections:
    """The detections of one image among its candidates, best first.

    Args:
      confidences: what must exceed the threshold, where it is not the scores.
    """
    sides = boxes[:, 2:] - boxes[:, :2]
    confident = (scores if confidences is None else confidences) > settings.score_threshold
    valid = valid & confident & jnp.all(sides > settings.min_size, axis=-1)
    kept, real = nms(
        boxes,
        scores,
        iou_threshold=settings.iou_threshold,
        max_outputs=settings.max_detections,
        labels=None if settings.class_agnostic else labels,
        valid=valid,
    )

    def rows(values: Array) -> Array:
        taken = values[kept]
        return jnp.where(real.reshape(-1, *[1] * (taken.ndim - 1)), taken, jnp.zeros_like(taken))

    return Detections(rows(boxes), rows(scores), rows(labels), real)
