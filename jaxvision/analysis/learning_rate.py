"""The learning rate of every parameter group of a config, over the whole run; nothing is trained, no image is read."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from jaxvision import augment, errors, experiment
from jaxvision import config as configs
from jaxvision.data.build import build_data
from jaxvision.engine.optimizers import OptimizerBundle, make_optimizer
from jaxvision.engine.schedules import Horizon
from jaxvision.loading import example_batch

POINTS = 2000
"""Steps at which a longer run is read."""


@dataclasses.dataclass(frozen=True, eq=False)
class Rates:
    """The learning rates of a run.

    Attributes:
      steps: at which they were read, 0 ... total_steps - 1.
      groups: (words of the group, its parameters, its rates).
      steps_per_epoch, warmup_steps: of the run.
    """

    steps: Int[np.ndarray, " n"]
    groups: tuple[tuple[str, int, Float[np.ndarray, " n"]], ...]
    steps_per_epoch: int
    warmup_steps: int


def learning_rates(config: Any, examples: int | None = None) -> Rates:
    """Reads the schedule as the run would.

    Args:
      config: completed config.
      examples: training images, where the data are not here.

    Raises:
      SetupError: data that cannot be read, or settings that contradict each other.
    """
    configs.import_extensions(config.imports)
    with errors.setup():
        if examples is None:
            data = build_data(config.data, config.seed)
            per_epoch, classes = data.train.steps_per_epoch, (data.class_names, data.num_classes)
        else:
            per_epoch = max(1, examples // config.data.batch_size)
            classes = ((), config.model.get("num_classes"))
        bundle = _bundle(config, per_epoch, *classes)
    total = config.schedule.steps or (config.schedule.epochs or 0) * per_epoch
    steps = np.unique(np.linspace(0, total - 1, min(total, POINTS)).round().astype(np.int32))
    rates = np.asarray(jax.jit(jax.vmap(bundle.learning_rate))(jnp.asarray(steps)))
    groups = []
    for name, rows in bundle.table.groups.items():
        factor = 0.0 if rows[0].frozen else rows[0].learning_rate
        groups.append((name, sum(row.count for row in rows), rates * factor))
    warmup = Horizon(total, per_epoch).steps(config.schedule.warmup, config.schedule.warmup_unit)
    return Rates(steps, tuple(groups), per_epoch, warmup)


def _bundle(config: Any, per_epoch: int, class_names: tuple[str, ...], num_classes: int) -> OptimizerBundle:
    schedule: configs.Schedule = configs.section(config, "schedule")
    task = experiment.build_task(config, class_names=class_names, num_classes=num_classes)
    preprocess = augment.pipeline(experiment.build_transforms(config))
    batch = example_batch((*config.data.image_size, config.data.channels))
    variables = jax.eval_shape(lambda key, b: task.init(key, preprocess(b, key)), jax.random.key(0), batch)
    params = variables["params"]
    schedule = dataclasses.replace(schedule, freeze=(*schedule.freeze, *experiment.frozen_paths(task, params)))
    return make_optimizer(
        schedule,
        params,
        optimizer=configs.build("optimizer", schedule.optimizer),
        learning_rate=configs.build("learning_rate", schedule.learning_rate),
        total_steps=schedule.steps or (schedule.epochs or 0) * per_epoch,
        steps_per_epoch=per_epoch,
        batch_size=config.data.batch_size,
    )
