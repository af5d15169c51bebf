"""Image classification as a task: its losses, its predictions, its metrics and its pictures.

The model is any flax module whose `apply(variables, images, train=...)` returns logits `[B, num_classes]` and that has
a field `num_classes`. A batch holds `image` `[B, H, W, C]` (float, after the transforms), `label` (int `[B]`, or float
`[B, num_classes]` of 0 and 1 with `multi_label`) and `valid` `[B]`. In training labels are rows of
probabilities, float `[B, num_classes]`, where Mixup or CutMix have added the key `mixed`; evaluation has whole labels.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath
from jaxtyping import Array, Float, PRNGKeyArray, UInt8

from jaxvision import losses, registry
from jaxvision.augment.views import View
from jaxvision.classification import analysis
from jaxvision.classification.metrics import (
    Accuracy,
    ClassScores,
    ConfusionMatrix,
    MeanLoss,
    MultiLabelMAP,
    topk_hits,
)
from jaxvision.classification.results import ClassTable, RankedClasses
from jaxvision.engine.analysis import Analysis, ImageScore, Settings
from jaxvision.engine.task import Aux, Batch, Context, PyTree, Sums, Task
from jaxvision.errors import SetupError, setup

CRITERIA = ("cross_entropy", "binary_cross_entropy", "focal")
CONFUSION_UP_TO = 1000
"""Classes up to which the whole confusion matrix is kept; for more, precision and recall come from counts per class."""


@dataclasses.dataclass(frozen=True)
class ClassificationTask(Task):
    """Classification with one label per image, or several.

    Attributes:
      model: see the top of this file.
      criterion: `cross_entropy`; `binary_cross_entropy`, the mean over classes of one-against-the-rest losses; `focal`,
        the sigmoid focal loss (Lin et al. 2017), summed over classes and divided by the number of positives.
      label_smoothing: share of the target spread over all classes, for images with one label.
      target_threshold: of `binary_cross_entropy` with one label per image: targets become 1 above it, else 0, after
        smoothing. So both classes of a mixed image count as present ("ResNet strikes back", Wightman et al. 2021,
        arXiv:2110.00476, sec. 3.2; timm: BinaryCrossEntropy). None: targets stay the shares.
      class_weights: factor of each class; `cross_entropy` is divided by the weights of the true classes, as in torch
        (for rows of probabilities by their mean weight, where torch divides by 1).
      alpha: weight of positives against negatives, of `focal` (paper: 0.25).
      gamma: focusing exponent, of `focal` (paper: 2).
      multi_label: whether an image has any number of labels.
      topk: accuracies; those that a model of so few classes cannot miss (k >= num_classes) are left out.
      show_best: classes named in pictures and JSON.
      show_above: score from which JSON counts a class as present, with `multi_label`.
      class_names: by label; without them classes are numbered.
    """

    model: nn.Module
    criterion: str = "cross_entropy"
    label_smoothing: float = 0.0
    target_threshold: float | None = None
    class_weights: tuple[float, ...] | None = None
    alpha: float = 0.25
    gamma: float = 2.0
    multi_label: bool = False
    topk: tuple[int, ...] = (1, 5)
    show_best: int = 5
    show_above: float = 0.5
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.criterion not in CRITERIA:
            raise ValueError(f"unknown criterion {self.criterion!r}: {registry.hint(self.criterion, CRITERIA)}")
        if self.multi_label and self.criterion == "cross_entropy":
            raise ValueError("multi_label needs criterion='binary_cross_entropy' or 'focal': softmax allows one label")
        if self.label_smoothing and (self.multi_label or self.criterion == "focal"):
            several = " of several labels" if self.multi_label else ""
            raise ValueError(
                f"label_smoothing={self.label_smoothing} has no meaning with criterion={self.criterion!r}{several}"
            )
        if not 0 <= self.label_smoothing <= 1:
            raise ValueError(f"label_smoothing={self.label_smoothing}: expected a share in [0, 1]")
        if self.target_threshold is not None and (self.multi_label or self.criterion != "binary_cross_entropy"):
            raise ValueError(
                f"target_threshold={self.target_threshold} needs criterion='binary_cross_entropy' and one label per "
                "image"
            )
        for name in ("class_weights", "class_names"):
            values = getattr(self, name)
            if values and len(values) != self.num_classes:
                raise ValueError(f"{len(values)} {name} for a model of {self.num_classes} classes")
        if not self.topk or min(self.topk) < 1:
            raise ValueError(f"topk={self.topk}: expected at least one number, each 1 or more")
        if self.show_best < 1 or not 0 <= self.show_above <= 1:
            raise ValueError(
                f"show_best={self.show_best} and show_above={self.show_above}: expected at least one class, and a "
                "score in [0, 1]"
            )

    @property
    def num_classes(self) -> int:
        """Number of logits of the model."""
        return self.model.num_classes

    def init(self, rng: PRNGKeyArray, batch: Batch) -> dict[str, PyTree]:
        return dict(self.model.init(rng, images_of(batch)[:1], train=False))

    def loss(self, params: PyTree, collections: Mapping[str, PyTree], batch: Batch, ctx: Context) -> tuple[Array, Aux]:
        variables = {"params": params, **collections}
        rngs = None if ctx.rng is None else {"dropout": ctx.rng}
        logits, updated = self.model.apply(
            variables, ctx.cast(images_of(batch)), train=ctx.train, mutable=list(collections), rngs=rngs
        )
        logits = logits.astype(jnp.float32)
        loss, sums = self.mean_loss(logits, batch, ctx)
        metrics = {"loss": sums, **self.hits(logits, batch["label"], batch["valid"])}
        return loss, Aux(metrics=jax.lax.stop_gradient(metrics), collections=dict(updated))

    def predict(
        self, variables: Mapping[str, PyTree], batch: Batch, ctx: Context, carry: PyTree = None
    ) -> tuple[dict[str, Array], PyTree]:
        """`scores` `[B, C]` (softmax or, with the other criteria, sigmoid), `label` `[B]` int32, `logits` `[B, C]`."""
        outputs: Any = self.model.apply(variables, ctx.cast(images_of(batch)), train=False)
        return self.merged({"logits": outputs.astype(jnp.float32)}), carry

    def invert(self, predictions: Mapping[str, Array], view: View) -> dict[str, Array]:
        """`scores` and `logits`: a view shows the same classes."""
        return {name: predictions[name] for name in ("scores", "logits")}

    def merged(self, entries: Mapping[str, Array]) -> dict[str, Array]:
        """Predictions from `logits` `[B, C]`, or from `scores`, whose logits are then those that would give them."""
        softmax = self.criterion == "cross_entropy"
        if "logits" in entries:
            logits = entries["logits"]
            scores = jax.nn.softmax(logits) if softmax else jax.nn.sigmoid(logits)
        else:
            scores = entries["scores"]
            least = float(jnp.finfo(jnp.float32).tiny)
            logits = jnp.log(jnp.maximum(scores, least))
            logits = logits if softmax else logits - jnp.log(jnp.maximum(1.0 - scores, least))
        # The label is that of the logits: scores of very sure models are rounded to ties.
        label = jnp.argmax(logits, axis=-1).astype(jnp.int32)
        return {"scores": scores, "label": label, "logits": logits}

    def mean_loss(self, logits: Float[Array, "b c"], batch: Batch, ctx: Context) -> tuple[Array, Sums]:
        """The local loss, divided by the mean over devices of its count, and (sum, count)."""
        values, weights = self.sample_losses(logits, batch["label"], mixed="mixed" in batch)
        total = jnp.sum(jnp.where(batch["valid"], values, 0.0))
        count = jnp.sum(jnp.where(batch["valid"], weights, 0.0))
        mean_count = ctx.mean(count)
        return total / jnp.where(mean_count > 0, mean_count, 1.0), (total, count)

    def sample_losses(
        self, logits: Float[Array, "b c"], labels: Array, *, mixed: bool = False
    ) -> tuple[Float[Array, " b"], Float[Array, " b"]]:
        """Loss of each sample, and the weight with which it counts in the denominator of a mean.

        Args:
          mixed: whether labels are rows of probabilities.
        """
        rows = mixed or self.multi_label
        self._check_labels(logits, labels, rows)
        weights = None if self.class_weights is None else jnp.asarray(self.class_weights, jnp.float32)
        if self.criterion == "cross_entropy":
            values = losses.cross_entropy(logits, labels, label_smoothing=self.label_smoothing, class_weights=weights)
            if weights is None:
                return values, jnp.ones_like(values)
            return values, jnp.sum(labels * weights[None], axis=-1) if rows else weights[labels]
        targets = labels if rows else jax.nn.one_hot(labels, self.num_classes, dtype=jnp.float32)
        if self.label_smoothing:
            targets = optax.smooth_labels(targets, self.label_smoothing)
        if self.target_threshold is not None:
            targets = (targets > self.target_threshold).astype(jnp.float32)
        if self.criterion == "focal":
            elements = losses.focal(logits, targets, alpha=self.alpha, gamma=self.gamma)
        else:
            elements = losses.binary_cross_entropy(logits, targets)
        if weights is not None:
            elements *= weights[None]
        if self.criterion == "focal":
            return jnp.sum(elements, axis=-1), jnp.sum(targets, axis=-1)
        values = jnp.mean(elements, axis=-1)
        return values, jnp.ones_like(values)

    def metrics(self) -> dict[str, Any]:
        loss = MeanLoss(self.sample_losses)
        if self.multi_label:
            return {"loss": loss, "classes": ClassScores(self.num_classes), "map": MultiLabelMAP()}
        classes = ConfusionMatrix if self.num_classes <= CONFUSION_UP_TO else ClassScores
        return {"loss": loss, "accuracy": Accuracy(self._topk), "classes": classes(self.num_classes)}

    def draw(self, sample: Mapping[str, Any], prediction: Mapping[str, Any]) -> UInt8[np.ndarray, "h w 3"]:
        """The image beside the best classes; `sample` has `image` `[H, W, C]` and, where it is known, `label`."""
        from jaxvision.visualization.classification import draw_classification

        scores = np.asarray(prediction["scores"])
        return draw_classification(sample["image"], scores, self.class_names, sample.get("label"), count=self.show_best)

    def to_json(self, sample: Mapping[str, Any], prediction: Mapping[str, Any]) -> dict[str, Any]:
        """`class`, `label` and `score` of the best class, `top5` (of `show_best`) with the same of the best ones.

        With `multi_label` also `classes`: the names of those that score above `show_above`.
        """
        best = self.found(sample, prediction)
        top = [{"class": name, "label": label, "score": score} for name, label, score in best]
        result = {**top[0], f"top{self.show_best}": top}
        if self.multi_label:
            scores = np.asarray(prediction["scores"])
            result["classes"] = [self.name_of(i) for i in self._order(prediction) if scores[i] > self.show_above]
        return result

    def found(self, sample: Mapping[str, Any], prediction: Mapping[str, Any]) -> RankedClasses:
        """The `show_best` classes, best first."""
        labels = np.asarray(self._order(prediction)[: self.show_best], np.int32)
        scores = np.asarray(prediction["scores"], np.float32)[labels]
        return RankedClasses(labels, scores, tuple(self.name_of(int(i)) for i in labels))

    def _order(self, prediction: Mapping[str, Any]) -> list[int]:
        """Labels, best first: a stable order of equal scores, with the predicted label first."""
        scores, best = np.asarray(prediction["scores"]), int(prediction["label"])
        return sorted(range(len(scores)), key=lambda i: (i != best, -scores[i], i))

    def result_files(self, folder: epath.Path) -> ClassTable:
        """`classes.csv`."""
        return ClassTable(folder, self.found)

    def telling(self, *, score_threshold: float | None = None, top_k: int | None = None) -> "ClassificationTask":
        """`top_k` is `show_best`; `score_threshold`, of several labels, `show_above`."""
        if score_threshold is not None and not self.multi_label:
            raise SetupError(
                f"score_threshold={score_threshold}: one label is told of each image, whatever its score; top_k says "
                "how many classes are listed"
            )
        above = self.show_above if score_threshold is None else score_threshold
        with setup():
            return dataclasses.replace(self, show_above=above, show_best=self.show_best if top_k is None else top_k)

    def plots(self, results: Mapping[str, Any]) -> dict[str, Callable[[Any], None]]:
        if "confusion_matrix" not in results:
            return {}

        def confusion(path: Any) -> None:
            from jaxvision.visualization.confusion import plot_confusion

            plot_confusion(np.asarray(results["confusion_matrix"]), self.class_names, path)

        return {"confusion_matrix.png": confusion}

    def summary(self, results: Mapping[str, Any]) -> Sequence[str]:
        return [line for line in (_reached(results), self._worst(results), self._confused(results)) if line]

    @property
    def _topk(self) -> tuple[int, ...]:
        return tuple(k for k in dict.fromkeys(self.topk) if k < self.num_classes) or (1,)

    def hits(self, logits: Array, labels: Array, valid: Array) -> dict[str, tuple[Array, Array]]:
        """Training accuracy as (sum, count): of samples, or with several labels of single decisions."""
        count = jnp.sum(valid, dtype=jnp.float32)
        if self.multi_label:
            right = jnp.sum((logits > 0) == (labels > 0.5), axis=-1, dtype=jnp.float32)
            return {"label_accuracy": (jnp.sum(jnp.where(valid, right, 0.0)), count * float(self.num_classes))}
        if jnp.issubdtype(labels.dtype, jnp.floating):  # mixed: the class with the largest share counts
            labels = jnp.argmax(labels, axis=-1).astype(jnp.int32)
        hits = topk_hits(logits, labels, self._topk)
        return {f"top{k}": (jnp.sum(hit & valid, dtype=jnp.float32), count) for k, hit in hits.items()}

    def _check_labels(self, logits: Array, labels: Array, rows: bool) -> None:
        if logits.shape[-1] != self.num_classes:
            raise ValueError(f"the model returned {logits.shape[-1]} logits and says num_classes={self.num_classes}")
        expected = logits.shape if rows else logits.shape[:1]
        whole = jnp.issubdtype(labels.dtype, jnp.integer)
        if labels.shape != expected or whole == rows:
            kind = "float" if rows else "integer"
            raise ValueError(
                f"classification with multi_label={self.multi_label} expected {kind} labels {expected}, "
                f"got {labels.dtype} {labels.shape}"
            )

    def analyses(self, settings: Settings) -> Mapping[str, Analysis]:
        return analysis.analyses(self, settings)

    @property
    def image_score(self) -> ImageScore | None:
        return analysis.image_score(self)

    def name_of(self, label: int) -> str:
        """The class's name, or its number."""
        return self.class_names[label] if self.class_names else str(label)

    def _worst(self, results: Mapping[str, Any], count: int = 3) -> str:
        if "f1_per_class" not in results:
            return ""
        f1, recall, precision = (np.asarray(results[f"{n}_per_class"]) for n in ("f1", "recall", "precision"))
        matrix = results.get("confusion_matrix")
        seen = np.flatnonzero(np.asarray(matrix).sum(axis=1) > 0) if matrix is not None else np.arange(len(f1))
        worst = [int(i) for i in seen[np.argsort(f1[seen], kind="stable")] if f1[i] < 1][:count]
        if not worst:
            return ""
        told = (
            f"{self.name_of(i)} (F1 {f1[i]:.3f}, recall {recall[i]:.3f}, precision {precision[i]:.3f})" for i in worst
        )
        return "weakest classes: " + ", ".join(told)

    def _confused(self, results: Mapping[str, Any], count: int = 3) -> str:
        if "confusion_matrix" not in results:
            return ""
        matrix = np.asarray(results["confusion_matrix"])
        wrong = np.where(np.eye(len(matrix), dtype=bool), 0, matrix)
        pairs = []
        for place in np.argsort(-wrong, axis=None, kind="stable")[:count]:
            true, taken = divmod(int(place), len(matrix))
            if wrong[true, taken]:
                total = matrix[true].sum()
                pairs.append(f"{self.name_of(true)} taken for {self.name_of(taken)} ({wrong[true, taken]} of {total})")
        return "most confused: " + ", ".join(pairs) if pairs else ""


def images_of(batch: Batch) -> Float[Array, "b h w c"]:
    image = batch["image"]
    if not jnp.issubdtype(image.dtype, jnp.floating):
        raise TypeError(
            f"classification got {image.dtype} images, expected floating point: "
            "add dict(name='normalize', ...) to data.eval_transforms"
        )
    return image


def _reached(results: Mapping[str, Any]) -> str:
    """The first line of a summary: what was reached, the telling numbers first."""
    parts = [f"top-{name[3:]} {100 * results[name]:.2f}%" for name in results if name.startswith("top")]
    named = {"map": "mAP", "label_accuracy": "label accuracy", "f1": "macro F1", "precision": "macro precision"}
    parts += [f"{text} {results[name]:.4f}" for name, text in named.items() if name in results]
    parts += [f"macro recall {results['recall']:.4f}"] if "recall" in results else []
    return ", ".join([*parts, f"loss {results['loss']:.4f}"] if "loss" in results else parts)
