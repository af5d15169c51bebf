"""Classification metrics as sums: accuracy, confusion matrix, precision, recall and F1, mean loss, multi-label mAP.

All take the predictions of `ClassificationTask.predict` (`scores` `[B, C]`, `label` `[B]`, `logits` `[B, C]`) and a
batch with `label` and `valid`. Counts are integers on the device. Results of an evaluation without samples are nan.

Conventions, those of `sklearn.metrics` with `zero_division=0`: the precision of a class that was never predicted is 0,
as is the recall of a class without samples; macro means run over the classes that occur in the truth or in the
predictions. Among equal scores the lowest label ranks first, as `argmax` of numpy, JAX and torch has it
(`sklearn.metrics.top_k_accuracy_score` lets the highest label win, so that its top-1 need not equal the accuracy of
`argmax`). Rankings are those of the logits, since scores of very sure models round to ties. A logit that is nan ranks
first, so that a true class with it, or behind it, counts as missed.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

Predictions = Mapping[str, Array]
Batch = Mapping[str, Any]


def topk_hits(
    logits: Float[Array, "b c"], labels: Int[Array, " b"], topk: tuple[int, ...]
) -> dict[int, Bool[Array, " b"]]:
    """Whether the true class is among the `k` best, for each `k`; a label outside `[0, C)` never is."""
    classes = jnp.arange(logits.shape[1], dtype=labels.dtype)[None]
    place = labels[:, None]
    known = (labels >= 0) & (labels < logits.shape[1])
    true = jnp.take_along_axis(logits, jnp.where(known, labels, 0)[:, None], axis=1)
    behind = (logits < true) | ((logits == true) & (classes >= place))
    rank = jnp.sum(~behind, axis=1, dtype=jnp.int32)
    return {k: known & (rank < k) for k in topk}


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """Share of samples whose true class is among the `k` best: `top1`, `top5`, ..."""

    topk: tuple[int, ...] = (1, 5)

    def update(self, predictions: Predictions, batch: Batch) -> dict[str, Array]:
        valid = batch["valid"]
        hits = topk_hits(predictions["logits"], batch["label"], self.topk)
        sums = {f"top{k}": _count(hit & valid) for k, hit in hits.items()}
        return {**sums, "count": _count(valid)}

    def compute(self, state: Mapping[str, Any]) -> dict[str, float]:
        return {f"top{k}": _ratio(state[f"top{k}"], state["count"]) for k in self.topk}


@dataclasses.dataclass(frozen=True)
class ConfusionMatrix:
    """`confusion_matrix` `[C, C]` (rows: truth, columns: prediction) and what follows from it, see `class_scores`.

    Labels outside `[0, C)` have no row and are left out here, while `Accuracy` counts them as misses.
    """

    num_classes: int

    def update(self, predictions: Predictions, batch: Batch) -> Int[Array, "c c"]:
        labels = batch["label"]
        known = batch["valid"] & (labels >= 0) & (labels < self.num_classes)
        rows = jnp.where(known, labels, 0)
        zeros = jnp.zeros((self.num_classes, self.num_classes), jnp.int32)
        return zeros.at[rows, predictions["label"]].add(known.astype(jnp.int32))

    def compute(self, state: Int[np.ndarray, "c c"]) -> dict[str, Any]:
        matrix = np.asarray(state)
        scores = class_scores(np.diagonal(matrix), matrix.sum(axis=0), matrix.sum(axis=1))
        return {"confusion_matrix": matrix, **scores}


@dataclasses.dataclass(frozen=True)
class ClassScores:
    """Precision, recall and F1 from counts per class, see `class_scores`: for many classes or several labels.

    With float labels `[B, C]` (multi-label) a class is predicted where its score is above `threshold`, and
    `label_accuracy` is the share of right decisions over all samples and classes.
    """

    num_classes: int
    threshold: float = 0.5

    def update(self, predictions: Predictions, batch: Batch) -> dict[str, Array]:
        labels = batch["label"]
        if labels.ndim == 2:
            true = labels > 0.5
            predicted = predictions["scores"] > self.threshold
        else:
            classes = jnp.arange(self.num_classes, dtype=jnp.int32)[None]
            known = (labels >= 0) & (labels < self.num_classes)
            true = labels[:, None] == classes
            predicted = (predictions["label"][:, None] == classes) & known[:, None]
        valid = batch["valid"][:, None]
        true, predicted = true & valid, predicted & valid
        sums = {"hits": true & predicted, "predicted": predicted, "true": true}
        state = {name: jnp.sum(flags, axis=0, dtype=jnp.int32) for name, flags in sums.items()}
        return {**state, "decisions": _count(valid) * self.num_classes} if labels.ndim == 2 else state

    def compute(self, state: Mapping[str, Any]) -> dict[str, Any]:
        results = class_scores(state["hits"], state["predicted"], state["true"])
        if "decisions" in state:
            wrong = np.sum(state["predicted"]) + np.sum(state["true"]) - 2 * np.sum(state["hits"])
            results["label_accuracy"] = _ratio(state["decisions"] - wrong, state["decisions"])
        return results


@dataclasses.dataclass(frozen=True)
class MeanLoss:
    """Mean of `values(logits, labels) -> (values [B], weights [B])` over the data set, as `name`."""

    values: Callable[[Array, Array], tuple[Array, Array]]
    name: str = "loss"

    def update(self, predictions: Predictions, batch: Batch) -> dict[str, Float[Array, ""]]:
        values, weights = self.values(predictions["logits"], batch["label"])
        valid = batch["valid"]
        return {"sum": jnp.sum(jnp.where(valid, values, 0.0)), "count": jnp.sum(jnp.where(valid, weights, 0.0))}

    def compute(self, state: Mapping[str, Any]) -> dict[str, float]:
        return {self.name: _ratio(state["sum"], state["count"])}


@dataclasses.dataclass(frozen=True)
class MultiLabelMAP:
    """`map`: mean over classes of `sklearn.metrics.average_precision_score`, which needs the whole ranking.

    Classes without a positive sample have no average precision: nan in `average_precision_per_class`, and no part in
    the mean.
    """

    def select(self, predictions: Predictions, batch: Batch) -> dict[str, Array]:
        return {"logits": predictions["logits"], "label": batch["label"] > 0.5}

    def compute_all(self, rows: Mapping[str, Any]) -> dict[str, Any]:
        from sklearn.metrics import average_precision_score  # takes a second to import

        logits, labels = np.asarray(rows["logits"]), np.asarray(rows["label"])
        precisions = np.full(labels.shape[1], np.nan)
        for label in np.flatnonzero(labels.any(axis=0)):
            column = logits[:, label]
            if np.isfinite(column).all():
                precisions[label] = average_precision_score(labels[:, label], column)
            else:
                precisions[label] = 0.0
        known = precisions[~np.isnan(precisions)]
        return {"map": float(known.mean()) if known.size else float("nan"), "average_precision_per_class": precisions}


def class_scores(
    hits: Int[np.ndarray, " c"], predicted: Int[np.ndarray, " c"], true: Int[np.ndarray, " c"]
) -> dict[str, Any]:
    """Counts per class -> `precision`, `recall`, `f1` (macro means) and the same names with `_per_class` (arrays)."""
    hits, predicted, true = (np.asarray(x, np.float64) for x in (hits, predicted, true))
    per_class = {
        "precision": hits / np.maximum(predicted, 1),
        "recall": hits / np.maximum(true, 1),
        "f1": 2 * hits / np.maximum(predicted + true, 1),
    }
    present = (predicted > 0) | (true > 0)
    results: dict[str, Any] = {
        name: float(values[present].mean()) if present.any() else float("nan") for name, values in per_class.items()
    }
    return results | {f"{name}_per_class": values for name, values in per_class.items()}


def _count(flags: Bool[Array, "..."]) -> Int[Array, ""]:
    return jnp.sum(flags, dtype=jnp.int32)


def _ratio(total: Any, count: Any) -> float:
    return float(total) / float(count) if count else float("nan")
