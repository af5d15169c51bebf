"""Optimizers by name over optax, with parameter groups, clipping and a schedule.

A constructor (`adamw(weight_decay=0.05)`) describes an optimizer; `make_optimizer` turns it, once the parameters and
the length of the run are known, into one optax transformation. An update is

    clip by value, clip by global norm -> direction of the optimizer -> times -learning_rate(step) * multiplier

over the parameters that are not frozen; the learning rate is applied last, as torch does. Weight decay is the
optimizer's own: an L2 term in the gradient for sgd, adam, rmsprop and lars; decoupled, and so multiplied by the
learning rate, for adamw and lion; inside the trust ratio for lamb.

The update rules are those of `torch.optim` and, for lars, lamb and lion, of timm. What differs from optax: lars applies
the learning rate after the momentum and takes the trust ratio of the paper; lamb and lars leave parameters that are
exempt from weight decay without a trust ratio; the bias corrections of Adam's moments do not cancel in float32.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from jaxvision.engine.parameter_groups import LayerIndex, ParameterTable, PyTree, parameter_table
from jaxvision.engine.schedules import Horizon, LearningRate, batch_scale, make_schedule
from jaxvision.trees import flatten, map_with_path

Direction = Callable[[ParameterTable], optax.GradientTransformation]


@dataclasses.dataclass(frozen=True)
class OptimizerSpec:
    """A described optimizer.

    Attributes:
      name: its registered name.
      direction: table of parameters -> transformation of gradients into a direction, before the learning rate.
      line_search: scales the step that the learning rate gave; its updates need `value`, `grad` and `value_fn`.
    """

    name: str
    direction: Direction
    line_search: optax.GradientTransformationExtraArgs | None = None


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
    """What `make_optimizer` reads of a schedule's configuration; any object with these attributes will do.

    Attributes:
      warmup: length of the warm-up in `warmup_unit`; see `schedules.make_schedule` for this and the next three.
      warmup_unit: "epochs" or "steps".
      warmup_factor: factor of the learning rate at step 0.
      warmup_kind: "linear", "constant" or "exponential".
      clip_norm: largest global norm of the gradient of all trained parameters.
      clip_value: largest absolute value of an element of the gradient; applied before `clip_norm`.
      rules: multipliers by path; see `parameter_groups.parameter_table` for this and the next three.
      no_weight_decay_on_norm_and_bias: no weight decay on parameters of at most one dimension nor on position
        embeddings, added tokens and their like.
      layer_decay: layer-wise decay of the learning rate.
      freeze: patterns of parameters that are not trained.
      base_batch_size: global batch that the learning rate was chosen for; None: no scaling.
      scaling: "linear" or "sqrt" in batch size / base batch size.
    """

    warmup: float = 0.0
    warmup_unit: str = "epochs"
    warmup_factor: float = 0.001
    warmup_kind: str = "linear"
    clip_norm: float | None = None
    clip_value: float | None = None
    rules: tuple[Any, ...] = ()
    no_weight_decay_on_norm_and_bias: bool = False
    layer_decay: float | None = None
    freeze: tuple[str, ...] = ()
    base_batch_size: int | None = None
    scaling: str = "linear"


class OptimizerState(NamedTuple):
    """State of a transformation made by `make_optimizer`.

    Attributes:
      steps: int32 scalar, updates so far; the schedule's step unless the update is told `step`.
      plateau: state of `reduce_on_plateau`, else None.
      direction: state of the optimizer, with None in place of frozen parameters.
      line_search: state of the line search, else None.
    """

    steps: Int[Array, ""]
    plateau: Any
    direction: Any
    line_search: Any


class LearningRateFn(Protocol):
    """The learning rate at a step; `reduce_on_plateau` needs the state to know its reductions.

    The state of any other transformation (an objective's own optimizer) is ignored.
    """

    def __call__(self, step: Int[Array, ""] | int, state: PyTree | None = None) -> Float[Array, ""]: ...


@dataclasses.dataclass(frozen=True)
class OptimizerBundle:
    """What `make_optimizer` returns.

    Attributes:
      transform: `init(params)`; `update(grads, state, params, *, value, grad, value_fn, step)`. All extra arguments are
        optional, but `reduce_on_plateau` needs `value` (the loss, equal on all devices) and `lbfgs` needs `value`,
        `grad` and `value_fn` (`params -> loss`). `step` replaces the state's own count in the schedule, for an
        objective that is trained only every few steps. Trees may have holes (None) where the parameters that the
        table knows are trained by someone else.
      table: every parameter with its group.
      learning_rate: the rate at a step, for logs, before the multipliers of groups.
      frozen_mask: the tree of the parameters, True where a parameter is not trained.
    """

    transform: optax.GradientTransformationExtraArgs
    table: ParameterTable
    learning_rate: LearningRateFn
    frozen_mask: PyTree


def sgd(momentum: float = 0.0, nesterov: bool = False, weight_decay: float = 0.0) -> OptimizerSpec:
    """Stochastic gradient descent, dampening 0 (torch.optim.SGD); L2 weight decay."""
    _check_fractions(momentum=momentum)
    _check_momentum(momentum, nesterov)

    def direction(table: ParameterTable) -> optax.GradientTransformation:
        return optax.chain(_add_decay(weight_decay, table), _trace(momentum, nesterov))

    return OptimizerSpec("sgd", direction)


def adam(b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, weight_decay: float = 0.0) -> OptimizerSpec:
    """Adam (Kingma and Ba 2015; torch.optim.Adam); L2 weight decay in the gradient. See `adamw`."""
    _check_fractions(b1=b1, b2=b2)

    def direction(table: ParameterTable) -> optax.GradientTransformation:
        return optax.chain(_add_decay(weight_decay, table), _adam_direction(b1, b2, eps))

    return OptimizerSpec("adam", direction)


def adamw(b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, weight_decay: float = 0.01) -> OptimizerSpec:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019; torch.optim.AdamW)."""
    _check_fractions(b1=b1, b2=b2)

    def direction(table: ParameterTable) -> optax.GradientTransformation:
        return optax.chain(_adam_direction(b1, b2, eps), _add_decay(weight_decay, table))

    return OptimizerSpec("adamw", direction)


def lion(b1: float = 0.9, b2: float = 0.99, weight_decay: float = 0.0) -> OptimizerSpec:
    """Sign of an interpolated momentum (Chen et al. 2023); decoupled weight decay."""
    _check_fractions(b1=b1, b2=b2)

    def direction(table: ParameterTable) -> optax.GradientTransformation:
        return optax.chain(optax.scale_by_lion(b1, b2), _add_decay(weight_decay, table))

    return OptimizerSpec("lion", direction)


def rmsprop(
    decay: float = 0.99, eps: float = 1e-8, momentum: float = 0.0, nesterov: bool = False, weight_decay: float = 0.0
) -> OptimizerSpec:
    """RMSProp (Tieleman and Hinton 2012; torch.optim.RMSprop, where `decay` is alpha); L2 weight decay.

    `eps` is added outside the root; see `rmsprop_tf`.
    """
    _check_fractions(decay=decay, momentum=momentum)
    _check_momentum(momentum, nesterov)

    def direction(table: ParameterTable) -> optax.GradientTransformation:
        scale = optax.scale_by_rms(decay, eps, eps_in_sqrt=False)
        return optax.chain(_add_decay(weight_decay, table), scale, _trace(momentum, nesterov))

    return OptimizerSpec("rmsprop", direction)


def rmsprop_tf(
    decay: float = 0.9, eps: float = 1e-10, momentum: float = 0.0, nesterov: bool = False, weight_decay: float = 0.0
) -> OptimizerSpec:
    """RMSProp as TensorFlow has it, with which MobileNet v3 and EfficientNet were trained (timm: RMSpropTF).

    `eps` is added inside the root, and the average of squares starts at one. L2 weight decay. The learning rate is
    applied after the momentum; TensorFlow applies it before, which differs where the rate changes.
    """
    _check_fractions(decay=decay, momentum=momentum)
    _check_momentum(momentum, nesterov)

    def direction(table: ParameterTable) -> optax.GradientTransformation:
        scale = optax.scale_by_rms(decay, eps, initial_scale=1.0)
        return optax.chain(_add_decay(weight_decay, table), scale, _trace(momentum, nesterov))

    return OptimizerSpec("rmsprop_tf", direction)


def lamb(b1: float = 0.9, b2: float = 0.999, eps: float = 1e-6, weight_decay: float = 0.01) -> OptimizerSpec:
    """Adam's direction plus weight decay, rescaled to the norm of each parameter (You et al. 2020; timm: Lamb).

    Parameters whose weight-decay multiplier is 0 are not rescaled. The global clipping that NVIDIA's variant builds in
    is `schedule.clip_norm = 1.0`.
    """
    _check_fractions(b1=b1, b2=b2)

    def direction(table: ParameterTable) -> optax.GradientTransformation:
        def rescale(path: str, update: Array, param: Array) -> Array:
            if table[path].weight_decay == 0.0:
                return update
            return update * _ratio(_norm(param), _norm(update))

        moments = _adam_direction(b1, b2, eps)
        return optax.chain(moments, _add_decay(weight_decay, table), _with_params(rescale))

    return OptimizerSpec("lamb", direction)


def lars(
    momentum: float = 0.9,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    trust_coefficient: float = 0.001,
    eps: float = 1e-8,
) -> OptimizerSpec:
    """SGD whose step is proportional to the norm of each parameter (You et al. 2017; timm: Lars); L2 weight decay.

    The gradient is multiplied by `trust_coefficient * |w| / (|g| + weight_decay * |w| + eps)`. Parameters whose
    weight-decay multiplier is 0 take plain SGD steps.
    """
    _check_fractions(momentum=momentum)
    _check_momentum(momentum, nesterov)

    def direction(table: ParameterTable) -> optax.GradientTransformation:
        def rescale(path: str, gradient: Array, param: Array) -> Array:
            if table[path].weight_decay == 0.0:
                return gradient
            decay = weight_decay * table[path].weight_decay
            norm, size = _norm(param), _norm(gradient)
            ratio = trust_coefficient * norm / (size + decay * norm + eps)
            return (gradient + decay * param) * jnp.where((norm > 0.0) & (size > 0.0), ratio, 1.0)

        return optax.chain(_with_params(rescale), _trace(momentum, nesterov))

    return OptimizerSpec("lars", direction)


def lbfgs(memory_size: int = 10, max_line_search_steps: int = 20) -> OptimizerSpec:
    """Limited-memory BFGS with a zoom line search (Liu and Nocedal 1989; Nocedal and Wright, algorithms 3.5 and 3.6).

    For deterministic objectives. The line search tries the learning rate first: give it `constant(1.0)`.
    """
    if memory_size < 1 or max_line_search_steps < 1:
        raise ValueError(f"expected positive numbers, got {memory_size=}, {max_line_search_steps=}")
    line_search = optax.scale_by_zoom_linesearch(max_line_search_steps, initial_guess_strategy="one")
    return OptimizerSpec("lbfgs", lambda table: optax.scale_by_lbfgs(memory_size), line_search)


def make_optimizer(
    settings: Any,
    params: PyTree,
    *,
    optimizer: OptimizerSpec,
    learning_rate: LearningRate,
    total_steps: int,
    steps_per_epoch: int,
    batch_size: int,
    layer_index: LayerIndex | None = None,
) -> OptimizerBundle:
    """Builds the transformation, the table and the schedule of a run.

    Args:
      settings: has the attributes of `OptimizerSettings`.
      params: the whole tree of parameters, frozen ones included: arrays or `jax.ShapeDtypeStruct`.
      optimizer: from `sgd`, `adamw`, ...
      learning_rate: from `schedules.cosine`, ...
      total_steps: updates in the run.
      steps_per_epoch: updates per epoch.
      batch_size: samples per update over all devices and accumulated micro-batches, for the scaling rule.
      layer_index: layers for `layer_decay`; None: `parameter_groups.layer_indices`.

    Raises:
      ValueError: settings that contradict each other, the run or the parameters; the text names the field.
    """
    table = parameter_table(
        params,
        rules=settings.rules,
        no_weight_decay_on_norm_and_bias=settings.no_weight_decay_on_norm_and_bias,
        layer_decay=settings.layer_decay,
        freeze=settings.freeze,
        layer_index=layer_index,
    )
    schedule = make_schedule(
        learning_rate,
        total_steps=total_steps,
        steps_per_epoch=steps_per_epoch,
        warmup=settings.warmup,
        warmup_unit=settings.warmup_unit,
        warmup_factor=settings.warmup_factor,
        warmup_kind=settings.warmup_kind,
        scale=batch_scale(batch_size, settings.base_batch_size, settings.scaling),
    )
    if optimizer.line_search is not None:
        _check_line_search(optimizer, settings, table)
    clips = _clips(settings.clip_value, settings.clip_norm)
    direction = optax.chain(*clips, optimizer.direction(table))
    plateau = None
    if learning_rate.plateau is not None:
        plateau = learning_rate.plateau(Horizon(total_steps, steps_per_epoch))

    def rate(step: Int[Array, ""] | int, state: PyTree | None = None) -> Float[Array, ""]:
        value = schedule(jnp.asarray(step, jnp.int32))
        if isinstance(state, OptimizerState) and state.plateau is not None:
            return value * state.plateau.scale
        return value

    return OptimizerBundle(
        transform=_transformation(direction, optimizer.line_search, plateau, rate, table),
        table=table,
        learning_rate=rate,
        frozen_mask=map_with_path(lambda path, _: table[path].frozen, params),
    )


def _transformation(
    direction: optax.GradientTransformation,
    line_search: optax.GradientTransformationExtraArgs | None,
    plateau: optax.GradientTransformationExtraArgs | None,
    rate: LearningRateFn,
    table: ParameterTable,
) -> optax.GradientTransformationExtraArgs:
    def init(params: PyTree) -> OptimizerState:
        # The one place where optax runs: it mixes dtypes, which strict promotion refuses.
        with jax.numpy_dtype_promotion("standard"):
            trained = _trained(params, table)
            return OptimizerState(
                steps=jnp.zeros((), jnp.int32),
                plateau=plateau.init(jnp.zeros((), jnp.float32)) if plateau else None,
                direction=direction.init(trained),
                line_search=line_search.init(trained) if line_search else None,
            )

    def update(
        updates: PyTree, state: OptimizerState, params: PyTree | None = None, **extra: Any
    ) -> tuple[PyTree, OptimizerState]:
        if params is None:
            raise ValueError("update(grads, state, params) needs the parameters")
        with jax.numpy_dtype_promotion("standard"):
            return _update(updates, state, params, **extra)

    def _update(
        updates: PyTree,
        state: OptimizerState,
        params: PyTree,
        *,
        value: Float[Array, ""] | None = None,
        grad: PyTree | None = None,
        value_fn: Callable[[PyTree], Float[Array, ""]] | None = None,
        step: Int[Array, ""] | None = None,
        **_: Any,
    ) -> tuple[PyTree, OptimizerState]:
        trained = _trained(params, table)
        step_size = rate(state.steps if step is None else step, state)
        moves, direction_state = direction.update(_trained(updates, table), state.direction, trained)

        def scale(path: str, move: Array, param: Array) -> Array:
            return (-(step_size * table[path].learning_rate) * move).astype(param.dtype)

        moves = map_with_path(scale, moves, trained)
        search_state, plateau_state = None, None
        if line_search is not None:
            if value is None or grad is None or value_fn is None:
                raise ValueError("this optimizer searches along a line: update(..., value=, grad=, value_fn=)")
            moves, search_state = line_search.update(
                moves,
                state.line_search,
                trained,
                value=value,
                grad=_trained(grad, table),
                value_fn=lambda candidate: value_fn(_merge(candidate, params)),
            )
        if plateau is not None:
            if value is None:
                raise ValueError("reduce_on_plateau follows the training loss: update(..., value=loss)")
            # After the step, as torch's scheduler: what this loss changes takes effect at the next one.
            _, plateau_state = plateau.update(jnp.zeros((), jnp.float32), state.plateau, value=value)
        new_state = OptimizerState(state.steps + 1, plateau_state, direction_state, search_state)
        return _merge(moves, jax.tree.map(jnp.zeros_like, updates)), new_state

    return optax.GradientTransformationExtraArgs(init, update)


def _trained(tree: PyTree, table: ParameterTable) -> PyTree:
    """The tree with None in place of frozen parameters, for which optax keeps no state."""
    return map_with_path(lambda path, leaf: None if table[path].frozen else leaf, tree)


def _merge(part: PyTree, whole: PyTree) -> PyTree:
    """`whole` with the leaves that `part` has."""
    leaves = flatten(part)
    return map_with_path(lambda path, leaf: leaves.get(path, leaf), whole)


def _with_params(function: Callable[[str, Array, Array], Array]) -> optax.GradientTransformation:
    """A stateless transformation `function(path, update, parameter)`."""
    return optax.stateless(lambda updates, params: map_with_path(function, updates, params))


def _add_decay(weight_decay: float, table: ParameterTable) -> optax.GradientTransformation:
    if weight_decay < 0.0:
        raise ValueError(f"weight_decay is {weight_decay}; expected at least 0")

    def add(path: str, update: Array, param: Array) -> Array:
        decay = weight_decay * table[path].weight_decay
        return update + decay * param if decay else update

    return _with_params(add) if weight_decay else optax.identity()


def _trace(momentum: float, nesterov: bool) -> optax.GradientTransformation:
    return optax.trace(momentum, nesterov) if momentum else optax.identity()


def _adam_direction(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    """Bias-corrected first moment over the root of the second."""

    def init(params: PyTree) -> optax.ScaleByAdamState:
        mu, nu = jax.tree.map(jnp.zeros_like, params), jax.tree.map(jnp.zeros_like, params)
        return optax.ScaleByAdamState(jnp.zeros((), jnp.int32), mu, nu)

    def unbias(beta: float, count: Int[Array, ""]) -> Float[Array, ""] | float:
        # 1 - beta ** count in float32, as optax.scale_by_adam has it, is off by 1.3e-5 for 0.999 in the first step.
        return -jnp.expm1(count * math.log(beta)) if beta else 1.0

    def update(
        updates: PyTree, state: optax.ScaleByAdamState, params: PyTree | None = None
    ) -> tuple[PyTree, optax.ScaleByAdamState]:
        count = state.count + 1
        mu = jax.tree.map(lambda m, g: b1 * m + (1.0 - b1) * g, state.mu, updates)
        nu = jax.tree.map(lambda v, g: b2 * v + (1.0 - b2) * jnp.square(g), state.nu, updates)
        scale_mu, scale_nu = unbias(b1, count), unbias(b2, count)
        direction = jax.tree.map(lambda m, v: m / scale_mu / (jnp.sqrt(v / scale_nu) + eps), mu, nu)
        return direction, optax.ScaleByAdamState(count, mu, nu)

    return optax.GradientTransformation(init, update)


def _norm(x: Array) -> Float[Array, ""]:
    return jnp.sqrt(jnp.sum(jnp.square(x)))


def _ratio(norm: Float[Array, ""], size: Float[Array, ""]) -> Float[Array, ""]:
    """`norm / size`, or 1 where either is 0."""
    safe = (norm > 0.0) & (size > 0.0)
    return jnp.where(safe, norm / jnp.where(safe, size, 1.0), 1.0)


def _clips(clip_value: float | None, clip_norm: float | None) -> Sequence[optax.GradientTransformation]:
    for name, limit in (("clip_value", clip_value), ("clip_norm", clip_norm)):
        if limit is not None and not limit > 0.0:
            raise ValueError(f"schedule.{name} is {limit}; expected a number above 0, or None for no clipping")
    clips = []
    if clip_value is not None:
        clips.append(optax.clip(clip_value))
    if clip_norm is not None:
        clips.append(optax.clip_by_global_norm(clip_norm))
    return clips


def _check_line_search(optimizer: OptimizerSpec, settings: Any, table: ParameterTable) -> None:
    """A line search moves along the true gradient's direction: whatever bends it breaks the search."""
    bent = [name for name in ("clip_value", "clip_norm") if getattr(settings, name) is not None]
    if any(row.learning_rate != 1.0 for row in table.rows):
        bent.append("layer_decay or rules with learning_rate")
    if bent:
        raise ValueError(f"{optimizer.name} searches along its own direction and cannot be used with {bent}")


def _check_fractions(**numbers: float) -> None:
    for name, number in numbers.items():
        if not 0.0 <= number < 1.0:
            raise ValueError(f"{name} is {number}; expected a number in [0, 1)")


def _check_momentum(momentum: float, nesterov: bool) -> None:
    if nesterov and not momentum:
        raise ValueError("nesterov needs a momentum above 0")
