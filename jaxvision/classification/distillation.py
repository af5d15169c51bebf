"""Knowledge distillation: a classifier that also follows a trained, larger one (Hinton et al. 2015, arXiv:1503.02531).

    config.task = dict(name="distillation", teacher=dict(name="regnety_160", num_classes=1000), form="hard")
    config.pretrained = dict(teacher="torchvision:regnet_y_16gf")

The teacher is any registered model. Its parameters are among those that get no gradient, optimizer state or average
(`params/teacher/...`), its statistics a collection of their own (`teacher/batch_stats/...`), and it runs in evaluation
mode on the images that the student sees. A student with two heads (DeiT: Touvron et al. 2021, arXiv:2012.12877) has a
method `both` that returns (logits, distillation logits): the labels teach the first, the teacher the second. Any other
student learns both with its one head.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxvision import losses, registry
from jaxvision.classification.task import ClassificationTask, images_of
from jaxvision.engine.task import Aux, Batch, Context, PyTree

Form = Literal["hard", "soft"]
TEACHER = "teacher"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistillationTask(ClassificationTask):
    """Classification whose loss is `(1 - weight) * that of the labels + weight * that of the teacher`.

    Attributes:
      teacher: returns logits of the student's classes.
      form: `hard`: cross-entropy with the class that the teacher finds most likely (DeiT, eq. 3); `soft`: `temperature`
        squared times the divergence KL(teacher, student) of both softmax at that temperature (Hinton et al., sec. 2;
        DeiT, eq. 2). Sums over classes, means over images; DeiT's program also divides `soft` by the classes.
      weight: share of the teacher's loss (DeiT: 0.5 with `hard`, 0.1 with `soft`).
      temperature: of `soft` (DeiT: 3).
    """

    teacher: nn.Module
    form: Form = "hard"
    weight: float = 0.5
    temperature: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.form not in get_args(Form):
            raise ValueError(f"unknown form {self.form!r}: {registry.hint(self.form, get_args(Form))}")
        if self.multi_label:
            raise ValueError("distillation follows a distribution over classes: multi_label has none")
        if not 0 <= self.weight <= 1 or not self.temperature > 0:
            raise ValueError(
                f"weight={self.weight} and temperature={self.temperature}: expected 0..1, and a number above 0"
            )
        classes = getattr(self.teacher, "num_classes", self.num_classes)
        if classes != self.num_classes:
            raise ValueError(
                f"the teacher has {classes} classes, the model {self.num_classes}: set num_classes of both"
            )

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        return {TEACHER: self.teacher}

    def for_prediction(self) -> ClassificationTask:
        """The student's: no weights of the teacher are read."""
        names = (field.name for field in dataclasses.fields(ClassificationTask) if field.init)
        return ClassificationTask(**{name: getattr(self, name) for name in names})

    @property
    def frozen_paths(self) -> tuple[str, ...]:
        return (f"{TEACHER}/.*",)

    def init(self, rng: PRNGKeyArray, batch: Batch) -> dict[str, PyTree]:
        own = super().init(rng, batch)
        variables = dict(self.teacher.init(jax.random.fold_in(rng, 1), images_of(batch)[:1], train=False))
        params = {**own.pop("params"), TEACHER: variables.pop("params")}
        return {"params": params, **own, **({TEACHER: variables} if variables else {})}

    def loss(self, params: PyTree, collections: Mapping[str, PyTree], batch: Batch, ctx: Context) -> tuple[Array, Aux]:
        images, rngs = ctx.cast(images_of(batch)), None if ctx.rng is None else {"dropout": ctx.rng}
        own = {name: value for name, value in collections.items() if name != TEACHER}
        two_heads = callable(getattr(self.model, "both", None))
        outputs, updated = self.model.apply(
            {"params": _without_teacher(params), **own},
            images,
            train=ctx.train,
            mutable=list(own),
            rngs=rngs,
            method="both" if two_heads else None,
        )
        logits, followed = jax.tree.map(lambda x: x.astype(jnp.float32), outputs if two_heads else (outputs, outputs))
        variables = {"params": params[TEACHER], **collections.get(TEACHER, {})}
        taught: Any = self.teacher.apply(variables, images, train=False)
        by_label, sums = self.mean_loss(logits, batch, ctx)
        by_teacher, teacher_sums = self._teacher_loss(followed, jax.lax.stop_gradient(taught), batch, ctx)
        metrics = {
            "label_loss": sums,
            "teacher_loss": teacher_sums,
            **self.hits((logits + followed) / 2.0, batch["label"], batch["valid"]),
        }
        loss = (1.0 - self.weight) * by_label + self.weight * by_teacher
        return loss, Aux(metrics=jax.lax.stop_gradient(metrics), collections=dict(updated))

    def predict(
        self, variables: Mapping[str, PyTree], batch: Batch, ctx: Context, carry: PyTree = None
    ) -> tuple[dict[str, Array], PyTree]:
        """That of the student alone; see `ClassificationTask.predict`."""
        own = {name: value for name, value in variables.items() if name != TEACHER}
        return super().predict({**own, "params": _without_teacher(own["params"])}, batch, ctx, carry)

    def teacher_losses(self, logits: Float[Array, "b c"], taught: Float[Array, "b c"]) -> Float[Array, " b"]:
        """Loss of each image's logits against the teacher's."""
        taught = taught.astype(jnp.float32)
        if self.form == "hard":
            return losses.cross_entropy(logits, jnp.argmax(taught, axis=-1).astype(jnp.int32))
        own, target = (jax.nn.log_softmax(x / self.temperature) for x in (logits, taught))
        return self.temperature**2 * jnp.sum(jnp.exp(target) * (target - own), axis=-1)

    def _teacher_loss(
        self, logits: Array, taught: Array, batch: Batch, ctx: Context
    ) -> tuple[Array, tuple[Array, Array]]:
        values = self.teacher_losses(logits, taught)
        total = jnp.sum(jnp.where(batch["valid"], values, 0.0))
        count = jnp.sum(batch["valid"], dtype=jnp.float32)
        mean_count = ctx.mean(count)
        return total / jnp.where(mean_count > 0, mean_count, 1.0), (total, count)


def _without_teacher(params: Mapping[str, PyTree]) -> dict[str, PyTree]:
    return {name: value for name, value in params.items() if name != TEACHER}
