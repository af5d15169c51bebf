"""The train state: one pytree with everything that a run must keep to continue exactly."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PRNGKeyArray

from jaxvision import trees
from jaxvision.engine.task import Batch, Objective, Task

PyTree = Any
Preprocess = Callable[[Batch, PRNGKeyArray], Batch]
Transforms = Mapping[str, optax.GradientTransformationExtraArgs]
EMA_COLLECTIONS = ("batch_stats",)


class TrainState(flax.struct.PyTreeNode):
    """Everything a run keeps.

    Attributes:
      step: int32 scalar, completed updates.
      params: trained parameters, with None where a parameter is frozen.
      collections: `batch_stats` and whatever else the task's variables hold.
      frozen: parameters without gradient, optimizer state or average, with None where a parameter is trained.
      opt_state: optimizer state by objective.
      ema: `{"params": ..., "batch_stats": ...}` averaged over updates, or an empty dict.
      rng: the run's random key; steps fold their number and device into it.
    """

    step: Int[Array, ""]
    params: PyTree
    collections: dict[str, PyTree]
    frozen: PyTree
    opt_state: dict[str, PyTree]
    ema: dict[str, PyTree]
    rng: PRNGKeyArray

    @property
    def all_params(self) -> PyTree:
        """Trained and frozen parameters in one tree."""
        return trees.merge(self.params, self.frozen)

    def variables(self, *, ema: bool = False) -> dict[str, PyTree]:
        """What `task.predict` takes; with `ema`, averaged values where the run keeps them."""
        if ema and self.ema:
            averaged = {name: value for name, value in self.ema.items() if name != "params"}
            return {"params": trees.merge(self.ema["params"], self.frozen), **self.collections, **averaged}
        return {"params": self.all_params, **self.collections}

    def with_variables(self, variables: Mapping[str, PyTree]) -> "TrainState":
        """The state with other weights: parameters, collections and, where it is kept, their average."""
        held = jax.tree.map(lambda leaf: leaf is not None, self.frozen, is_leaf=lambda leaf: leaf is None)
        frozen, params = trees.partition(variables["params"], held)
        collections = {name: variables[name] for name in self.collections}
        averaged = {name: params if name == "params" else collections[name] for name in self.ema}
        return self.replace(params=params, frozen=frozen, collections=collections, ema=averaged)


def transforms_for(
    objectives: tuple[Objective, ...], default: optax.GradientTransformation | None
) -> dict[str, optax.GradientTransformationExtraArgs]:
    """The optimizer of each objective: its own, else the schedule's."""
    names = [objective.name for objective in objectives]
    if len(set(names)) != len(names):
        raise ValueError(f"objectives need different names, got {names}")
    transforms = {}
    for objective in objectives:
        chosen = objective.optimizer or default
        if chosen is None:
            raise ValueError(f"objective {objective.name!r} has no optimizer and the schedule gives none")
        transforms[objective.name] = optax.with_extra_args_support(chosen)
    return transforms


def objective_masks(objectives: tuple[Objective, ...], params: PyTree) -> dict[str, PyTree]:
    """For each objective the mask of the parameters that it trains; a pattern without a match is an error."""
    masks = {}
    for objective in objectives:
        mask = trees.mask_by_pattern(params, objective.trains)
        if not any(jax.tree.leaves(mask)):
            names = list(trees.flatten(params))
            raise ValueError(
                f"objective {objective.name!r} trains nothing: no parameter matches {objective.trains!r}; "
                f"there are {names[:8]}{' ...' if len(names) > 8 else ''}"
            )
        masks[objective.name] = mask
    return masks


def create_state(
    key: PRNGKeyArray,
    batch: Batch,
    *,
    task: Task,
    transforms: Transforms,
    frozen: Callable[[str], bool] = lambda name: False,
    ema: bool = False,
    preprocess: Preprocess | None = None,
) -> TrainState:
    """Builds a fresh state; pure, to be called under `jit` so that no two of its arrays share memory.

    Args:
      key: typed key of the run.
      batch: arrays in the structure of a batch (their values are not used).
      task: what is trained.
      transforms: optimizer of each objective.
      frozen: whether the parameter of this path is frozen.
      ema: whether an exponential moving average is kept.
      preprocess: device transforms between the loader and the task.
    """
    init_key, state_key = jax.random.split(key)
    if preprocess is not None:
        batch = preprocess(batch, init_key)
    variables = dict(task.init(init_key, batch))
    if "params" not in variables:
        raise ValueError(f"{type(task).__name__}.init returned no 'params', only {sorted(variables)}")
    held, params = trees.partition(variables["params"], trees.mask_by_name(variables["params"], frozen))
    collections = {name: value for name, value in variables.items() if name != "params"}
    masks = objective_masks(task.objectives, params)
    with jax.numpy_dtype_promotion("standard"):
        opt_state = {
            name: transform.init(trees.partition(params, masks[name])[0]) for name, transform in transforms.items()
        }
    averaged = {"params": params, **{name: collections[name] for name in EMA_COLLECTIONS if name in collections}}
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        collections=collections,
        frozen=held,
        opt_state=opt_state,
        ema=averaged if ema else {},
        rng=state_key,
    )
