"""Several questions about one image: heads of their own classes and losses on one backbone (Caruana 1997).

    config.model = dict(name="multi_head", backbone="resnet18",
                        heads=(dict(name="digit", num_classes=10), dict(name="parity", num_classes=2)))
    config.task = dict(name="multi_task_classification", losses=(dict(head="parity", weight=0.5),))

A label that is not known is negative: it has no loss, no gradient and no part in the metrics, as in OpenMMLab's
`MultiTaskHead`. Class names of the data are "head/class"; results are named "head/top1", "head/loss", ...
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt8

from jaxvision import layers, registry
from jaxvision.classification.results import ClassTable, RankedClasses
from jaxvision.classification.task import ClassificationTask, images_of
from jaxvision.engine.analysis import Analysis, Findings, Settings
from jaxvision.engine.task import Aux, Batch, Context, PyTree, Sums, Task
from jaxvision.errors import setup
from jaxvision.ops import pool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Head:
    """A question.

    Attributes:
      name: a Python identifier; the variables lie under `head_<name>`.
      num_classes: possible answers.
    """

    name: str
    num_classes: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeadLoss:
    """How the answers of one head are taught; heads without one have these defaults.

    Attributes:
      head: its name.
      weight: of its loss in the sum.
      criterion, label_smoothing: as of `ClassificationTask`.
    """

    head: str
    weight: float = 1.0
    criterion: str = "cross_entropy"
    label_smoothing: float = 0.0


class MultiHeadClassifier(nn.Module):
    """Logits `{head: [B, num_classes]}` of linear layers on the same features.

    Variables lie under "backbone" and "head_<name>".

    Attributes:
      backbone: as of `Classifier`.
      heads: at least one, of different names.
      dropout: share of pooled features dropped while training (rng collection "dropout").
    """

    backbone: nn.Module
    heads: tuple[Head, ...]
    dropout: float = 0.0

    def __post_init__(self) -> None:
        names = [head.name for head in self.heads]
        if not names or len(set(names)) != len(names) or not all(name.isidentifier() for name in names):
            raise ValueError(f"heads are called {names}: expected one or more different identifiers")
        super().__post_init__()

    @property
    def num_classes(self) -> int:
        """Classes of all heads together."""
        return sum(head.num_classes for head in self.heads)

    @nn.compact
    def __call__(
        self, inputs: Array | Mapping[str, Array], *, train: bool = False, targets: Any = None
    ) -> dict[str, Float[Array, "b c"]]:
        """`inputs`: float images [B, H, W, C] or `{"image": images}`; `targets` are not used."""
        images = inputs["image"] if isinstance(inputs, Mapping) else inputs
        levels = self.backbone(images, train=train)
        features = levels["pooled"] if "pooled" in levels else pool.global_avg_pool(list(levels.values())[-1])
        features = nn.Dropout(self.dropout)(features, deterministic=not train)
        return {head.name: layers.Dense(head.num_classes, name=f"head_{head.name}")(features) for head in self.heads}


@dataclasses.dataclass(frozen=True)
class MultiTaskClassification(Task):
    """One label per image and head.

    A batch has `label`, int32 `[B, heads]` in the order of the model's heads, or `{head: [B]}`; negative: not known.

    Attributes:
      model: returns `{head: logits}` and has a field `heads`.
      losses: of the heads that differ from the defaults.
      topk, show_best: see `ClassificationTask`.
      class_names: "head/class" of all heads, in their order.
    """

    model: nn.Module
    losses: tuple[HeadLoss, ...] = ()
    topk: tuple[int, ...] = (1, 5)
    show_best: int = 5
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        known = [head.name for head in self.model.heads]
        given = [loss.head for loss in self.losses]
        for name in given:
            if name not in known:
                raise ValueError(f"losses name an unknown head {name!r}: {registry.hint(name, known)}")
        if len(set(given)) != len(given) or any(loss.weight < 0 for loss in self.losses):
            raise ValueError(f"losses are {self.losses}: expected one for each head, with weights of at least 0")
        for head in self.model.heads:
            names = self._names(head.name)
            if self.class_names and len(names) != head.num_classes:
                raise ValueError(
                    f"head {head.name!r} has {head.num_classes} classes, the data {len(names)} names "
                    f"'{head.name}/...': {', '.join(names[:5])}"
                )
        for _ in self.tasks.values():  # each checks its own fields
            pass

    @property
    def tasks(self) -> dict[str, ClassificationTask]:
        """What each head alone would be."""
        losses = {loss.head: loss for loss in self.losses}
        tasks = {}
        for head in self.model.heads:
            loss = losses.get(head.name, HeadLoss(head=head.name))
            tasks[head.name] = ClassificationTask(
                _Classes(head.num_classes),
                loss.criterion,
                label_smoothing=loss.label_smoothing,
                topk=self.topk,
                show_best=self.show_best,
                class_names=self._names(head.name),
            )
        return tasks

    def init(self, rng: PRNGKeyArray, batch: Batch) -> dict[str, PyTree]:
        return dict(self.model.init(rng, images_of(batch)[:1], train=False))

    def loss(self, params: PyTree, collections: Mapping[str, PyTree], batch: Batch, ctx: Context) -> tuple[Array, Aux]:
        rngs = None if ctx.rng is None else {"dropout": ctx.rng}
        outputs, updated = self.model.apply(
            {"params": params, **collections},
            ctx.cast(images_of(batch)),
            train=ctx.train,
            mutable=list(collections),
            rngs=rngs,
        )
        weights = {loss.head: loss.weight for loss in self.losses}
        total = jnp.zeros((), jnp.float32)
        metrics: dict[str, Sums] = {}
        for name, task in self.tasks.items():
            own, logits = self._of(name, batch), outputs[name].astype(jnp.float32)
            value, sums = task.mean_loss(logits, own, ctx)
            total = total + weights.get(name, 1.0) * value
            hits = task.hits(logits, own["label"], own["valid"])
            metrics |= {f"{name}/{metric}": pair for metric, pair in {"loss": sums, **hits}.items()}
        return total, Aux(metrics=jax.lax.stop_gradient(metrics), collections=dict(updated))

    def predict(
        self, variables: Mapping[str, PyTree], batch: Batch, ctx: Context, carry: PyTree = None
    ) -> tuple[dict[str, dict[str, Array]], PyTree]:
        """`{head: {scores, label, logits}}`; see `ClassificationTask.predict`."""
        outputs: Any = self.model.apply(variables, ctx.cast(images_of(batch)), train=False)
        return {
            name: task.merged({"logits": outputs[name].astype(jnp.float32)}) for name, task in self.tasks.items()
        }, carry

    def metrics(self) -> dict[str, Any]:
        return {
            f"{name}/{key}": _OfHead(self, name, metric)
            for name, task in self.tasks.items()
            for key, metric in task.metrics().items()
        }

    def draw(self, sample: Mapping[str, Any], prediction: Mapping[str, Any]) -> UInt8[np.ndarray, "h w 3"]:
        """The image beside the best class of each head."""
        from jaxvision.visualization.classification import draw_classification

        best = [(name, int(one["label"]), np.asarray(one["scores"])) for name, one in prediction.items()]
        names = [f"{head} {self.tasks[head].name_of(label)}" for head, label, _ in best]
        scores = np.asarray([scores[label] for _, label, scores in best], np.float32)
        return draw_classification(sample["image"], scores, names, None, count=len(names))

    def to_json(self, sample: Mapping[str, Any], prediction: Mapping[str, Any]) -> dict[str, Any]:
        """`{head: {class, label, score, top5}}`."""
        return {name: task.to_json(sample, prediction[name]) for name, task in self.tasks.items()}

    def found(self, sample: Mapping[str, Any], prediction: Mapping[str, Any]) -> dict[str, RankedClasses]:
        """The best classes of each head."""
        return {name: task.found(sample, prediction[name]) for name, task in self.tasks.items()}

    def result_files(self, folder: epath.Path) -> ClassTable:
        """`classes.csv`, with a column `head`."""
        return ClassTable(folder, self.found)

    def telling(self, *, score_threshold: float | None = None, top_k: int | None = None) -> "MultiTaskClassification":
        """`top_k` is `show_best`."""
        super().telling(score_threshold=score_threshold)
        with setup():
            return self if top_k is None else dataclasses.replace(self, show_best=top_k)

    def plots(self, results: Mapping[str, Any]) -> dict[str, Callable[[Any], None]]:
        plots = {}
        for name, task in self.tasks.items():
            for file, write in task.plots(_results_of(name, results)).items():
                plots[f"{name}_{file}"] = write
        return plots

    def summary(self, results: Mapping[str, Any]) -> Sequence[str]:
        return [
            f"{name}: {line}" for name, task in self.tasks.items() for line in task.summary(_results_of(name, results))
        ]

    def analyses(self, settings: Settings) -> Mapping[str, Analysis]:
        """Those of the heads, over the samples whose label is known."""
        heads = {name: task.analyses(settings) for name, task in self.tasks.items()}
        return {
            view: _of_heads({name: views[view] for name, views in heads.items()}) for view in next(iter(heads.values()))
        }

    def _names(self, head: str) -> tuple[str, ...]:
        return tuple(name.partition("/")[2] for name in self.class_names if name.partition("/")[0] == head)

    def _of(self, name: str, batch: Batch) -> dict[str, Any]:
        """The batch as a head alone would see it: only samples with a known label are valid."""
        labels = batch["label"]
        if isinstance(labels, Mapping):
            own = labels[name]
        else:
            own = _column(labels, [head.name for head in self.model.heads].index(name), len(self.model.heads))
        known: Bool[Array, " b"] = own >= 0
        # Any class will do where the loss is left out; a negative one would make it NaN.
        return {**batch, "label": jnp.where(known, own, 0), "valid": batch["valid"] & known}


class _Classes(nn.Module):
    """Stands for the model of one head."""

    num_classes: int


@dataclasses.dataclass(frozen=True)
class _OfHead:
    """A metric of one head over the samples whose label is known."""

    task: MultiTaskClassification
    head: str
    metric: Any

    def update(self, predictions: Mapping[str, Any], batch: Batch) -> Any:
        return self.metric.update(predictions[self.head], self.task._of(self.head, batch))

    def compute(self, state: Any) -> dict[str, Any]:
        return {f"{self.head}/{name}": value for name, value in self.metric.compute(state).items()}


def _of_heads(analyses: Mapping[str, Analysis]) -> Analysis:
    """One analysis of the analyses of all heads; a sample's labels are in the order of the heads."""
    order = list(analyses)

    def look(sample: Mapping[str, Any], prediction: Mapping[str, Any]) -> dict[str, Any]:
        labels = np.asarray(sample["label"])
        return {
            name: analysis.look({**sample, "label": labels[order.index(name)]}, prediction[name])
            for name, analysis in analyses.items()
            if analysis.look is not None and labels[order.index(name)] >= 0
        }

    def conclude(results: Mapping[str, Any], kept: Sequence[Any]) -> Findings:
        lines: list[str] = []
        json: dict[str, Any] = {}
        pictures: dict[str, np.ndarray] = {}
        for name, analysis in analyses.items():
            own = [sample[name] for sample in kept if name in sample]
            found = analysis.conclude(_results_of(name, results), own)
            lines += [f"{name}:", *found.lines]
            json[name] = found.json
            pictures |= {f"{name}_{file}": picture for file, picture in found.pictures.items()}
        return Findings(lines, json, pictures)

    return Analysis(conclude, None if all(analysis.look is None for analysis in analyses.values()) else look)


def _column(labels: Int[Array, "b heads"], column: int, heads: int) -> Int[Array, " b"]:
    if labels.ndim != 2 or labels.shape[1] != heads or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(
            f"multi-task classification expected integer labels [batch, {heads}], a column for each head, "
            f"got {labels.dtype} {labels.shape}"
        )
    return labels[:, column]


def _results_of(head: str, results: Mapping[str, Any]) -> dict[str, Any]:
    return {name.partition("/")[2]: value for name, value in results.items() if name.partition("/")[0] == head}
