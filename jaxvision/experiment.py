"""From a config to an `Experiment`: the one place where data, task, optimizer and engine are put together."""

import dataclasses
import functools
import os
import re
import sys
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxvision import augment, errors, trees
from jaxvision import config as configs
from jaxvision.data.build import Data, build_data
from jaxvision.data.loader import Loader
from jaxvision.engine import distributed
from jaxvision.engine.evaluation import Evaluator
from jaxvision.engine.optimizers import OptimizerBundle, make_optimizer
from jaxvision.engine.parallel import SHARED, SPLIT, Parallel, check_batch_size, make_parallel
from jaxvision.engine.state import Preprocess, TrainState, Transforms, create_state, transforms_for
from jaxvision.engine.step import CompiledSteps, StepSettings, make_train_step
from jaxvision.engine.task import Batch, Task
from jaxvision.engine.tta import TTA, augmented
from jaxvision.trees import flatten

DTYPES = {"float32": jnp.float32, "bf16": jnp.bfloat16}
EVAL_BATCH_SIZE = "data.eval_batch_size (or data.batch_size)"
EXAMPLES = 12
"""Evaluation samples whose predictions a run draws at its end."""
TRAINING_TRANSFORMS = ("augment", "closing_augment")
"""Keys of the data section."""
VERSIONS = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A config with everything that follows from it.

    Attributes:
      config: the completed config.
      parallel: devices and map.
      data: training and evaluation loaders.
      task: what is trained.
      steps_per_epoch: updates per pass over the training data.
      total_steps: updates of the run.
      bundle: the schedule's optimizer with its parameter table.
      transforms: optimizer of each objective.
      settings: of the train step.
      example: a batch of this process's rows, as the loader makes them.
    """

    config: Any
    parallel: Parallel
    data: Data
    task: Task
    steps_per_epoch: int
    total_steps: int
    bundle: OptimizerBundle
    transforms: Transforms
    settings: StepSettings
    example: Batch

    def every(self, section: configs.Evaluation | configs.Checkpoint) -> int | None:
        """A section's `every_steps`, or its `every_epochs` in steps; None where neither is set."""
        if section.every_epochs is None:
            return section.every_steps
        return max(1, round(section.every_epochs * self.steps_per_epoch))

    def epoch(self, step: int) -> float:
        """Passes over the training data after `step` updates."""
        return step / self.steps_per_epoch

    def samples(self, step: int) -> np.ndarray:
        """Indices of the training samples of the global batch of a step (1-based)."""
        loader = dataclasses.replace(self.data.train, process_index=0, process_count=1)
        return np.asarray(next(loader.train(step - 1))["index"])

    def create(self) -> TrainState:
        """A fresh, replicated state."""
        return self.parallel.create(self._creator(), jax.random.key(self.config.seed), self.example)

    def abstract_state(self) -> TrainState:
        """Shapes, dtypes and sharding of the state."""
        shapes = jax.eval_shape(self._creator(), jax.random.key(0), self.example)
        sharding = self.parallel.sharding(SHARED)
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes)

    def _creator(self) -> Callable[..., TrainState]:
        frozen = {name for name, held in trees.flatten(self.bundle.frozen_mask).items() if held}
        return functools.partial(
            create_state,
            task=self.task,
            transforms=self.transforms,
            frozen=frozen.__contains__,
            ema=self.settings.ema is not None,
            preprocess=self.settings.preprocess,
        )

    def train_step(self) -> Any:
        """The mapped step; `.lower(state, batch).compile()` makes the program."""
        step = make_train_step(self.task, self.transforms, self.settings)
        return self.parallel.map(step, inputs=(SHARED, SPLIT), outputs=(SHARED, SHARED), donate=(0,))

    def compile_train_step(self, state: TrainState) -> CompiledSteps:
        """The step for every shape of batch that the training data have."""
        batches = [self.parallel.abstract_batch(batch) for batch in self.data.train.example_batches()]
        return CompiledSteps(self.train_step(), state, batches)

    def evaluator(self) -> Evaluator:
        return Evaluator(
            augmented(self.task, build_tta(self.config.evaluation.tta)),
            self.parallel,
            preprocess=build_preprocess(self.config, train=False),
            dtype=self.settings.dtype,
            total_steps=self.total_steps,
            examples=EXAMPLES,
        )


def prepare(config: Any) -> Parallel:
    """Makes the process ready: compilation cache, other processes, the user's imports, devices."""
    set_compilation_cache()
    distributed.initialize(config.parallel.heartbeat_timeout_seconds)
    configs.import_extensions(config.imports)
    with errors.setup():
        devices = make_parallel("jit" if config.log.debug_nans else config.parallel.map, config.parallel.devices)
    if config.log.debug_nans:
        devices = dataclasses.replace(devices, devices=devices.devices[:1])
    return devices


def build(config: Any, devices: Parallel | None = None, data: Data | None = None) -> Experiment:
    """Builds everything that a config describes; nothing is trained and no file is written.

    Args:
      config: completed.
      devices: in place of those that it names, for a process that is ready for them (`prepare`).
      data: in place of those that it names.

    Raises:
      SetupError: parts that contradict each other; the text names the keys.
    """
    devices = prepare(config) if devices is None else devices
    schedule: configs.Schedule = configs.section(config, "schedule")
    with errors.setup():
        check_batch_size(config.data.batch_size, devices.shares, schedule.accumulate)
        check_batch_size(config.data.eval_batch_size or config.data.batch_size, devices.shares, name=EVAL_BATCH_SIZE)
        if data is None:
            data = build_data(config.data, config.seed, jax.process_index(), jax.process_count())
        task = build_task(config, class_names=data.class_names, num_classes=data.num_classes)
    total_steps = length_of(schedule, data.train.steps_per_epoch)
    with errors.setup():
        for name in TRAINING_TRANSFORMS:
            share = config.data.batch_size // devices.shares
            augment.check_groups(build_transforms(config, name), share, f"each of {devices.shares} shares")
        preprocess = training_preprocess(config, data.train)
    example = data.train.example_batch()
    params = jax.eval_shape(lambda key, batch: task.init(key, preprocess(batch, key)), jax.random.key(0), example)
    schedule = dataclasses.replace(schedule, freeze=(*schedule.freeze, *frozen_paths(task, params["params"])))
    with errors.setup():
        bundle = make_optimizer(
            schedule,
            params["params"],
            optimizer=configs.build("optimizer", schedule.optimizer),
            learning_rate=configs.build("learning_rate", schedule.learning_rate),
            total_steps=total_steps,
            steps_per_epoch=data.train.steps_per_epoch,
            batch_size=config.data.batch_size,
        )
    settings = StepSettings(
        total_steps=total_steps,
        accumulate=schedule.accumulate,
        closing_step=closing_step(schedule, data.train.steps_per_epoch),
        ema=schedule.ema,
        ema_ramp=schedule.ema_ramp,
        dtype=DTYPES[config.precision],
        preprocess=preprocess,
        axis_name=devices.axis_name,
        learning_rate=bundle.learning_rate,
    )
    return Experiment(
        config=config,
        parallel=devices,
        data=data,
        task=task,
        steps_per_epoch=data.train.steps_per_epoch,
        total_steps=total_steps,
        bundle=bundle,
        transforms=transforms_for(task.objectives, bundle.transform),
        settings=settings,
        example=example,
    )


def build_task(config: Any, *, class_names: tuple[str, ...], num_classes: int) -> Task:
    """The config's task around its model; the classes of model and data must agree."""
    model = configs.build("model", config.model)
    given = getattr(model, "num_classes", num_classes)
    if given != num_classes:
        raise ValueError(
            f"model.num_classes={given}, but the data have {num_classes} classes ({', '.join(class_names[:5])}, ...): "
            f"set --config.model.num_classes={num_classes}"
        )
    return configs.build("task", config.task, model=model, class_names=tuple(class_names))


def frozen_paths(task: Task, params: Any) -> tuple[str, ...]:
    """Patterns of the parameters that no decay may move: what the task or its model keeps frozen, or the model's parts,
    by their `frozen_stages` or a norm "frozen_bn".

    Args:
      params: of the task, or their shapes.
    """
    model = getattr(task, "model", None)
    fields = [field.name for field in dataclasses.fields(model)] if dataclasses.is_dataclass(model) else []
    parts = {name: getattr(model, name) for name in fields if name not in ("parent", "name")}
    own = [f"{name}/{pattern}" for name, part in parts.items() for pattern in getattr(part, "frozen_paths", ())]
    for name, part in parts.items():
        if getattr(getattr(part, "norm", None), "kind", None) == "frozen_bn":
            own += frozen_norms(name, flatten(params))
    return (*task.frozen_paths, *getattr(model, "frozen_paths", ()), *own)


def frozen_norms(part: str, paths: Iterable[str]) -> list[str]:
    """One pattern of the scales and biases of all norms below `part`, if there are any."""
    norms = [path.removesuffix("/scale") for path in paths if path.startswith(f"{part}/") and path.endswith("/scale")]
    return [f"({'|'.join(map(re.escape, norms))})/(scale|bias)"] if norms else []


def length_of(schedule: configs.Schedule, steps_per_epoch: int) -> int:
    """Steps of the whole run."""
    return schedule.steps or (schedule.epochs or 0) * steps_per_epoch


def closing_step(schedule: configs.Schedule, steps_per_epoch: int) -> int | None:
    """The step (0-based) with which the closing epochs begin; None where there are none.

    Raises:
      SetupError: they are longer than the run.
    """
    if not schedule.closing_epochs:
        return None
    total, steps = length_of(schedule, steps_per_epoch), round(schedule.closing_epochs * steps_per_epoch)
    if steps > total:
        given = f"schedule.closing_epochs={schedule.closing_epochs:g}"
        raise errors.SetupError(f"{given} ({steps} steps) is longer than the run ({total} steps)")
    return total - steps


def build_preprocess(config: Any, *, train: bool) -> Preprocess:
    """The device transforms of evaluation, or those of training, as one function of a batch and a key.

    The closing epochs of a training are left out, see `training_preprocess`.
    """
    return augment.pipeline(build_transforms(config, "augment" if train else None))


def training_preprocess(config: Any, loader: Loader) -> Preprocess:
    """The device transforms of training as one function of a batch and a key, those of the closing epochs included.

    Args:
      config: a whole config.
      loader: of the training data.

    Raises:
      SetupError: closing transforms without closing epochs, or a run of more samples than positions can tell apart.
    """
    schedule: configs.Schedule = configs.section(config, "schedule")
    first = closing_step(schedule, loader.steps_per_epoch)
    usual, closing = (augment.pipeline(build_transforms(config, name)) for name in TRAINING_TRANSFORMS)
    if first is None and config.data.closing_augment:
        raise errors.SetupError("data.closing_augment is never used: set schedule.closing_epochs, or leave it empty")
    if first is None:
        return usual
    if loader.position(length_of(schedule, loader.steps_per_epoch)) > 2**32:
        raise errors.SetupError("a run with closing epochs has at most 2**32 samples: shorten it")
    return augment.changed_at(loader.position(first), usual, closing)


def build_transforms(config: Any, before: str | None = None) -> list[Any]:
    """The device transforms of the data section: those of evaluation, and in front of them those called `before`.

    Pixels that none of them normalises are divided by 255, as float32.

    Args:
      before: one of `TRAINING_TRANSFORMS`.

    Raises:
      ValueError: transforms of evaluation that mix samples.
    """
    names = ("eval_transforms",) if before is None else (before, "eval_transforms")
    chosen = [configs.build("augment", spec) for name in names for spec in config.data[name]]
    for spec in config.data.eval_transforms:
        if isinstance(configs.build("augment", spec), augment.GroupTransform):
            raise ValueError(f"data.eval_transforms holds {spec.name!r}, which mixes samples: move it to data.augment")
    normalised = any(isinstance(transform, augment.Normalize) for transform in chosen)
    return chosen if normalised else [*chosen, augment.Normalize()]


def build_tta(spec: Any) -> TTA | None:
    """Test-time augmentation by name, "name:first argument", mapping, or the text `dict(name=..., ...)`; or "none"."""
    if spec == "none":
        return None
    if isinstance(spec, str) and spec.startswith(("dict(", "{")):
        with errors.setup():
            spec = configs.literal(spec)
    return spec if spec is None or isinstance(spec, TTA) else configs.build("tta", spec)


def set_compilation_cache() -> None:
    """Keeps compiled programs in the user's cache folder, unless JAX was told another place."""
    if getattr(jax.config, "jax_compilation_cache_dir", None) is None:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        jax.config.update("jax_compilation_cache_dir", str(Path(home) / "jaxvision" / "xla"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def environment() -> dict[str, Any]:
    """Versions and devices, for the workdir and for comparing hosts."""
    from jaxvision import __version__

    devices = jax.devices()
    return {
        "jaxvision": __version__,
        "python": sys.version.split()[0],
        **{name: metadata.version(name) for name in VERSIONS},
        "devices": f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform})",
        "processes": jax.process_count(),
    }
