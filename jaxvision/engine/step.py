"""The train step: a pure per-device function from (state, batch) to (state, metrics).

Cost beside the task's own loss and gradient: one reduction of the gradients over devices, the optimizer's update, and
one select per parameter that drops a non-finite update (fused by XLA into the update).
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool

from jaxvision import trees
from jaxvision.engine.metrics import StepMetrics
from jaxvision.engine.state import EMA_COLLECTIONS, Preprocess, TrainState, Transforms, objective_masks
from jaxvision.engine.task import Aux, Batch, Context, Objective, Sums, Task

PyTree = Any
Metrics = dict[str, Sums]
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, StepMetrics]]

AVERAGED_COLLECTIONS = ("batch_stats",)
"""Averaged over devices after each step; integers in them (a count) and every other collection must be equal on all."""


@dataclasses.dataclass(frozen=True)
class StepSettings:
    """How a step runs, beside the task.

    Attributes:
      total_steps: length of the run.
      accumulate: micro-batches per update, each a part of every device's share of the batch.
      closing_step: the step with which the closing epochs begin, None where there are none.
      ema: decay of the exponential moving average, None for none.
      ema_ramp: steps in which the decay rises from 0, see `config.Schedule`.
      dtype: compute dtype of the precision policy.
      preprocess: device transforms between the loader and the task.
      axis_name: the mapped axis, None under plain jit.
      learning_rate: (step, optimizer state of the first objective) -> rate; logged as a metric where given.
    """

    total_steps: int = 1
    accumulate: int = 1
    closing_step: int | None = None
    ema: float | None = None
    ema_ramp: float = 0.0
    dtype: Any = jnp.float32
    preprocess: Preprocess | None = None
    axis_name: str | None = None
    learning_rate: Callable[[Array, PyTree], Array] | None = None

    def context(self, **kwargs: Any) -> Context:
        fixed: dict[str, Any] = {"total_steps": self.total_steps, "closing_step": self.closing_step}
        return Context(**fixed, axis_name=self.axis_name, dtype=self.dtype, **kwargs)

    def ema_decay(self, step: Array) -> Array | float:
        """Decay of the moving average in the update that follows `step` others."""
        assert self.ema is not None
        if not self.ema_ramp:
            return self.ema
        return self.ema * -jnp.expm1(-(step + 1).astype(jnp.float32) / self.ema_ramp)


def make_train_step(task: Task, transforms: Transforms, settings: StepSettings) -> TrainStep:
    """Returns the per-device step; `engine.parallel` maps and compiles it."""
    objectives = task.objectives

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, StepMetrics]:
        key = _step_key(state, settings.axis_name)
        if settings.preprocess is not None:
            # The run's key, not the step's: augmentation depends on the sample's position alone.
            batch = settings.preprocess(batch, state.rng)
        ctx = settings.context(rng=key, step=state.step, train=True)
        new, finite, metrics = state, jnp.ones((), bool), {}
        for number, objective in enumerate(objectives):
            own_ctx = dataclasses.replace(ctx, rng=jax.random.fold_in(key, number))
            new, fine, values = _train_objective(new, batch, own_ctx, objective, transforms[objective.name], settings)
            finite &= fine
            prefix = f"{objective.name}/" if len(objectives) > 1 else ""
            metrics.update({f"{prefix}{name}": value for name, value in values.items()})
        new = task.after_update(state, new, ctx)
        if settings.ema is not None:
            new = new.replace(ema=_average(state.ema, new, settings.ema_decay(state.step)))
        new = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new.replace(rng=None), state.replace(rng=None))
        new = new.replace(step=state.step + 1, rng=state.rng)
        one = jnp.ones((), jnp.float32)
        metrics["finite"] = (finite.astype(jnp.float32), one)
        if settings.learning_rate is not None:
            rate = settings.learning_rate(state.step, state.opt_state[objectives[0].name])
            metrics["learning_rate"] = (jnp.asarray(rate, jnp.float32), one)
        return new, StepMetrics.pack(metrics)

    return train_step


class CompiledSteps:
    """A train step compiled ahead for every shape of batch that a run will see: nothing compiles on the way.

    Attributes:
      programs: the compiled step by the shapes of its batch's leaves.
    """

    def __init__(self, mapped: Any, state: TrainState, batches: Sequence[Batch]):
        """Compiles.

        Args:
          mapped: the step of `Parallel.map`.
          state: placed or abstract.
          batches: one placed or abstract batch of each shape; the first is the one that reports describe.
        """
        self.programs = {_shapes(batch): mapped.lower(state, batch).compile() for batch in batches}

    @property
    def first(self) -> Any:
        return next(iter(self.programs.values()))

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, StepMetrics]:
        if len(self.programs) == 1:
            return self.first(state, batch)
        return self.programs[_shapes(batch)](state, batch)


def _shapes(batch: Batch) -> tuple[tuple[int, ...], ...]:
    return tuple(x.shape for x in jax.tree.leaves(batch))


def _step_key(state: TrainState, axis_name: str | None) -> Array:
    key = jax.random.fold_in(state.rng, state.step)
    return key if axis_name is None else jax.random.fold_in(key, jax.lax.axis_index(axis_name))


def _average(ema: dict[str, PyTree], state: TrainState, decay: Array | float) -> dict[str, PyTree]:
    current = {"params": state.params, **{name: state.collections[name] for name in ema if name in EMA_COLLECTIONS}}
    return jax.tree.map(lambda a, x: decay * a + (1.0 - decay) * x if _is_float(x) else x, ema, current)


def _train_objective(
    state: TrainState,
    batch: Batch,
    ctx: Context,
    objective: Objective,
    transform: optax.GradientTransformationExtraArgs,
    settings: StepSettings,
) -> tuple[TrainState, Bool[Array, ""], Metrics]:
    """One objective's update; at steps that `every` leaves out nothing is computed and its metrics count nothing."""

    def update(state: TrainState) -> tuple[TrainState, Bool[Array, ""], Metrics]:
        return _update(state, batch, ctx, objective, transform, settings)

    if objective.every == 1:
        return update(state)

    def skip(state: TrainState) -> tuple[TrainState, Bool[Array, ""], Metrics]:
        _, _, metrics = jax.eval_shape(update, state)
        return state, jnp.ones((), bool), jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), metrics)

    return jax.lax.cond(state.step % objective.every == 0, update, skip, state)


def _update(
    state: TrainState,
    batch: Batch,
    ctx: Context,
    objective: Objective,
    transform: optax.GradientTransformationExtraArgs,
    settings: StepSettings,
) -> tuple[TrainState, Bool[Array, ""], Metrics]:
    mask = objective_masks((objective,), state.params)[objective.name]
    trained, others = trees.partition(state.params, mask)
    axis = settings.axis_name

    def loss_and_grad(trained: PyTree) -> tuple[Array, Aux, PyTree]:
        """Loss, aux and gradient of the global batch; identical on every device."""
        local, others_v, collections = _to_varying((trained, others, _averaged(state.collections)), axis)
        collections = {**state.collections, **collections}

        def loss_fn(trained: PyTree, collections: PyTree, batch: Batch, ctx: Context) -> tuple[Array, Aux]:
            return objective.loss(trees.merge(trained, others_v, state.frozen), collections, batch, ctx)

        if settings.accumulate > 1:
            loss, aux, grads = _accumulated(loss_fn, local, collections, batch, ctx, settings.accumulate, axis)
        else:
            (loss, aux), grads = jax.value_and_grad(loss_fn, has_aux=True)(local, collections, batch, ctx)
        if axis is not None:
            loss, grads = jax.lax.pmean((loss, grads), axis)
            averaged = _average_over_devices(state.collections, aux.collections, axis)
            aux = Aux(jax.lax.psum(aux.metrics, axis), {**aux.collections, **averaged})
        return loss, aux, grads

    loss, aux, grads = loss_and_grad(trained)
    grad_norm = optax.tree.norm(grads)
    # The schedule counts steps of the run, also where its objective is trained only at some of them.
    extra = {"step": state.step} if objective.optimizer is None else {}
    with jax.numpy_dtype_promotion("standard"):
        updates, opt_state = transform.update(
            grads,
            state.opt_state[objective.name],
            trained,
            value=loss,
            grad=grads,
            value_fn=_global_value(lambda p: loss_and_grad(p)[::2]),
            **extra,
        )
        trained = optax.apply_updates(trained, updates)
    one = jnp.ones((), jnp.float32)
    metrics = {
        "loss": (loss.astype(jnp.float32), one),
        "grad_norm": (grad_norm.astype(jnp.float32), one),
        **jax.tree.map(lambda x: x.astype(jnp.float32), aux.metrics),
    }
    new = state.replace(
        params=trees.merge(trained, others),
        collections={**state.collections, **aux.collections},
        opt_state={**state.opt_state, objective.name: opt_state},
    )
    return new, jnp.isfinite(loss) & jnp.isfinite(grad_norm), metrics


def _is_float(x: Array) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating)


def _averaged(collections: dict[str, PyTree]) -> dict[str, PyTree]:
    return {name: value for name, value in collections.items() if name in AVERAGED_COLLECTIONS}


def _average_over_devices(old: dict[str, PyTree], new: dict[str, PyTree], axis: str) -> dict[str, PyTree]:
    """Averages the change: a mean of equal numbers rounds, and frozen statistics would drift."""

    def average(before: Array, after: Array) -> Array:
        return before + jax.lax.pmean(after - before, axis) if _is_float(after) else after

    return {name: jax.tree.map(average, old[name], value) for name, value in _averaged(new).items()}


def _to_varying(tree: PyTree, axis: str | None) -> PyTree:
    """Marks replicated values as per-device ones, so that `grad` gives each device's own gradient."""
    return tree if axis is None else jax.tree.map(lambda x: jax.lax.pcast(x, axis, to="varying"), tree)


def _global_value(value_and_grad: Callable[[PyTree], tuple[Array, PyTree]]) -> Callable[[PyTree], Array]:
    """A loss that line searches may differentiate: its gradient is the reduced one, not the device's own."""

    @jax.custom_vjp
    def value(params: PyTree) -> Array:
        return value_and_grad(params)[0]

    def backward(grads: PyTree, cotangent: Array) -> tuple[PyTree]:
        return (jax.tree.map(lambda g: cotangent.astype(g.dtype) * g, grads),)

    value.defvjp(value_and_grad, backward)

    def value_fn(params: PyTree, step: Array | None = None) -> Array:
        return value(params)  # optax passes every extra argument that it does not know on to it

    return value_fn


def _accumulated(
    loss_fn: Callable[..., tuple[Array, Aux]],
    params: PyTree,
    collections: PyTree,
    batch: Batch,
    ctx: Context,
    parts: int,
    axis: str | None,
) -> tuple[Array, Aux, PyTree]:
    """Loss and gradient over micro-batches, equal to those of the whole batch up to batch statistics.

    A first pass runs the loss only for what it hands to `ctx.mean` (counts of positives, of valid samples); XLA removes
    everything else from it. The second pass divides by those counts averaged over all parts and devices, so uneven
    parts weigh as in one large batch. Batch statistics are updated part after part, and contrastive terms see the
    negatives of their part alone: there the result differs from the large batch.
    """
    split = jax.tree.map(lambda x: x.reshape(parts, x.shape[0] // parts, *x.shape[1:]), dict(batch))
    numbers = jnp.arange(parts)

    def key(number: Array) -> Array | None:
        return None if ctx.rng is None else jax.random.fold_in(ctx.rng, number)

    def count(_: None, item: tuple[Array, Batch]) -> tuple[None, tuple[PyTree, ...]]:
        seen: list[PyTree] = []

        def record(tree: PyTree) -> PyTree:
            seen.append(tree)
            return tree

        number, part = item
        loss_fn(params, collections, part, dataclasses.replace(ctx, rng=key(number), reduce_mean=record))
        return None, tuple(seen)

    _, counts = jax.lax.scan(count, None, (numbers, split))
    means = jax.tree.map(lambda x: jnp.mean(x.astype(jnp.float32), axis=0), counts)
    means = means if axis is None else jax.lax.pmean(means, axis)

    def train(carry: tuple[PyTree, PyTree], item: tuple[Array, Batch]) -> tuple[tuple[PyTree, PyTree], Any]:
        total, collections = carry
        replay: Iterator[PyTree] = iter(means)

        def recall(tree: PyTree) -> PyTree:
            return jax.tree.map(lambda mean, x: mean.astype(x.dtype), next(replay), tree)

        number, part = item
        part_ctx = dataclasses.replace(ctx, rng=key(number), reduce_mean=recall)
        (loss, aux), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, collections, part, part_ctx)
        total = jax.tree.map(lambda a, g: a + g / parts, total, grads)
        return (total, {**collections, **aux.collections}), (loss, aux.metrics)

    start = jax.tree.map(jnp.zeros_like, params)
    (grads, collections), (losses, metrics) = jax.lax.scan(train, (start, collections), (numbers, split))
    summed = jax.tree.map(lambda x: jnp.sum(x, axis=0), metrics)
    return jnp.mean(losses), Aux(summed, collections), grads
