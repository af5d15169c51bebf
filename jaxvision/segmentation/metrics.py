"""Scores of label maps from one confusion matrix: accuracy, IoU, Dice, F-score, frequency-weighted IoU.

The matrix is counted on the device in 32-bit integers per batch and added up on the host in 64. Pixels whose true label
is 255 or no class do not count. A batch with `semantic_original` is scored on the pixels of the original images, else
on those of the canvas. IoU: Everingham et al. 2010 (VOC); the pixel accuracy, the mean accuracy and the
frequency-weighted IoU: Long et al. 2015 (arXiv:1411.4038), section 5.

Conventions of OpenMMLab's `IoUMetric`: a score of a class that no pixel decides (neither true nor predicted; for
accuracy: not true) is nan, and means leave it out. Its F-score of a class that occurs but is never predicted is nan,
too; here it is 0, as the Dice coefficient of both is.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


@dataclasses.dataclass(frozen=True)
class SegmentationScores:
    """`confusion_matrix` int64 [C, C] (rows: truth, columns: prediction) and what follows from it, see `scores_of`.

    Attributes:
      num_classes: C.
      beta: of the F-score: recall counts `beta` times as much as precision.
    """

    num_classes: int
    beta: float = 1.0

    def update(self, predictions: Mapping[str, Array], batch: Mapping[str, Any]) -> Int[Array, "c c"]:
        truth, found = batch["semantic"], predictions["labels"]
        if "semantic_original" in batch:
            truth, found = batch["semantic_original"], predictions["original_labels"]
        truth = jnp.asarray(truth).astype(jnp.int32)
        return confusion(truth, found.astype(jnp.int32), self.num_classes, batch["valid"])

    def compute(self, state: Int[np.ndarray, "c c"]) -> dict[str, Any]:
        return scores_of(np.asarray(state), self.beta)


def confusion(
    truth: Int[Array, "b h w"], found: Int[Array, "b h w"], classes: int, valid: Array | None = None
) -> Int[Array, "c c"]:
    """Pixels of each true class (rows) that were taken for each class (columns).

    Args:
      truth: what is no class in [0, classes) is not counted.
      found: in [0, classes).
      valid: which images count, [b]; None: all.
    """
    known = (truth >= 0) & (truth < classes)
    known = known if valid is None else known & valid[:, None, None]
    cells = jnp.where(known, truth * classes + found, classes * classes).reshape(-1)
    counts = jnp.zeros(classes * classes + 1, jnp.int32).at[cells].add(1)
    return counts[:-1].reshape(classes, classes)


def scores_of(matrix: Int[np.ndarray, "c c"], beta: float = 1.0) -> dict[str, Any]:
    """Scores of a confusion matrix with the truth in rows; nan where nothing decides.

    Returns:
      `miou`, `macc`, `aacc`, `fwiou`, `mdice`, `mfscore`, `mprecision`, `mrecall`, and of each class `iou_per_class`,
      `acc_per_class`, `dice_per_class`, `fscore_per_class`, `precision_per_class`; `confusion_matrix` itself. The
      recall of a class is its accuracy.
    """
    counts = matrix.astype(np.float64)
    hits, true, found = np.diagonal(counts), counts.sum(axis=1), counts.sum(axis=0)
    total, factor = counts.sum(), beta * beta
    per_class = {
        "iou": _ratio(hits, true + found - hits),
        "acc": _ratio(hits, true),
        "dice": _ratio(2 * hits, true + found),
        "fscore": _ratio((1 + factor) * hits, factor * true + found),
        "precision": _ratio(hits, found),
    }
    seen = true > 0
    frequent = float(np.sum(true[seen] * per_class["iou"][seen]) / total) if total else float("nan")
    return {
        "miou": _mean(per_class["iou"]),
        "macc": _mean(per_class["acc"]),
        "aacc": float(hits.sum() / total) if total else float("nan"),
        "fwiou": frequent,
        "mdice": _mean(per_class["dice"]),
        "mfscore": _mean(per_class["fscore"]),
        "mprecision": _mean(per_class["precision"]),
        "mrecall": _mean(per_class["acc"]),
        **{f"{name}_per_class": values for name, values in per_class.items()},
        "confusion_matrix": matrix,
    }


def _ratio(part: Float[np.ndarray, " c"], whole: Float[np.ndarray, " c"]) -> Float[np.ndarray, " c"]:
    return np.where(whole > 0, part / np.where(whole > 0, whole, 1), np.nan)


def _mean(values: Float[np.ndarray, " c"]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
