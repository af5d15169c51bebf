"""What a published recipe says, and the same of one of our configs, completed and with its parameters known."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxvision import config as jv_config
from jaxvision.engine.optimizers import OptimizerBundle, make_optimizer
from jaxvision.registry import lookup

FOLDER = "image_folder:data/images"
IMAGES = {"tfds_records:imagenet2012": 1_281_167, "tfds:cifar10": 50_000, "tfds:cifar100": 50_000, FOLDER: 12_800}
"""Of the training part; for a folder of the user's own, any number."""
CROP = {"name": "random_resized_crop", "scale": (0.08, 1.0), "ratio": (3 / 4, 4 / 3)}
"""With the `interpolation` of the recipe."""
FLIP = "random_flip"
TIMM_ERASING = {"name": "random_erasing", "probability": 0.25, "mode": "normal", "area": (0.02, 1 / 3)}
SGD = {"name": "sgd", "momentum": 0.9, "nesterov": False}
ADAMW = {"name": "adamw", "b1": 0.9, "b2": 0.999, "eps": 1e-8}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A row of the table.

    Attributes:
      source: where its facts are from.
      data: the data set.
      model: registered name, and fields that differ from its defaults.
      epochs: of the run.
      batch: of all devices.
      optimizer: with all that the recipe says of it.
      rates: epoch -> learning rate at its first step.
      undecayed: parameters without weight decay, by path and number of dimensions; None: all are decayed.
      factor: of the learning rate of a parameter, by path; None: 1 for all.
      host: host transforms of training.
      augment: device transforms of training.
      sizes: sides in training, of the shorter side before the evaluation's crop, and of that crop.
      interpolation: of the window and of the evaluation's resizing.
      loss: fields of the task.
      repeats, clip_norm, ema: as in the config; a number of the average is compared to 1e-9.
    """

    source: str
    data: str
    model: Mapping[str, Any]
    epochs: int
    batch: int
    optimizer: Mapping[str, Any]
    rates: Mapping[float, float]
    undecayed: Callable[[str, int], bool] | None = None
    factor: Callable[[str], float] | None = None
    host: tuple[Any, ...] = (CROP,)
    augment: tuple[Any, ...] = (FLIP,)
    sizes: tuple[int, int | None, int] = (224, 256, 224)
    interpolation: str = "bilinear"
    loss: Mapping[str, Any] = dataclasses.field(default_factory=lambda: {"criterion": "cross_entropy"})
    repeats: int = 1
    clip_norm: float | None = None
    ema: float | None = None


def vectors(path: str, dimensions: int) -> bool:
    """Biases, and scales and shifts of normalisation (and of layer scale)."""
    return dimensions <= 1


def check(name: str, recipe: Recipe) -> None:
    """Fails where the config `name`, completed, says something else than the recipe."""
    config = jv_config.load(name)
    data, schedule = config.data, jv_config.section(config, "schedule")
    source = data.source
    assert f"{source.name}:{source.path if recipe.data == FOLDER else source.dataset}" == recipe.data
    assert config.model.name == lookup("model", recipe.model["name"]).name
    holds(config.model, {key: value for key, value in recipe.model.items() if key != "name"})
    assert (schedule.epochs, data.batch_size, data.repeats) == (recipe.epochs, recipe.batch, recipe.repeats)
    assert (schedule.clip_norm, schedule.clip_value, schedule.accumulate) == (recipe.clip_norm, None, 1)
    assert schedule.ema == recipe.ema or math.isclose(schedule.ema, recipe.ema, abs_tol=1e-9)
    holds(schedule.optimizer, recipe.optimizer)
    holds(config.task, recipe.loss)

    train, resize, test = recipe.sizes
    assert tuple(data.image_size) == (test, test)
    assert tuple(map(tuple, data.buckets)) == (() if train == test else ((train, train),))
    if resize is None:
        assert not data.host_transforms and not data.eval_host_transforms
    else:
        resampled = {"interpolation": recipe.interpolation}
        hold(data.host_transforms, tuple(one | resampled if one is CROP else one for one in recipe.host))
        shorter = {"name": "resize_side", "short": resize, "long": None, **resampled}
        hold(data.eval_host_transforms, (shorter, "center_crop"))
    hold([one for one in data.augment if one.name != "normalize"], recipe.augment)
    assert [one.name for one in data.eval_transforms] == ["normalize"]

    steps = IMAGES[recipe.data] // recipe.batch
    bundle = optimizer_of(config, schedule, steps)
    for epoch, rate in recipe.rates.items():
        got = float(bundle.learning_rate(round(epoch * steps)))
        assert math.isclose(got, rate, rel_tol=2e-4, abs_tol=1e-9), f"epoch {epoch}: {got}, published {rate}"
    undecayed = recipe.undecayed or (lambda path, dimensions: False)
    factor = recipe.factor or (lambda path: 1.0)
    for row in bundle.table.rows:
        assert math.isclose(row.learning_rate, factor(row.path)), row.path
        assert row.weight_decay == (0.0 if undecayed(row.path, len(row.shape)) else 1.0), row.path


def optimizer_of(
    config: Any, schedule: Any, steps: int, frozen: Callable[[Any], tuple[str, ...]] = lambda params: ()
) -> OptimizerBundle:
    """The optimizer of a config, with `steps` per epoch.

    Args:
      frozen: patterns beside `schedule.freeze`, of the shapes of the parameters.
    """
    model = jv_config.build("model", config.model)
    params = _shapes(model, (*config.data.image_size, config.data.channels))
    return make_optimizer(
        dataclasses.replace(schedule, freeze=(*schedule.freeze, *frozen(params))),
        params,
        optimizer=jv_config.build("optimizer", schedule.optimizer),
        learning_rate=jv_config.build("learning_rate", schedule.learning_rate),
        total_steps=schedule.epochs * steps,
        steps_per_epoch=steps,
        batch_size=config.data.batch_size,
    )


@functools.cache
def _shapes(model: Any, image: tuple[int, ...]) -> Any:
    """Of the parameters."""
    images = jnp.zeros((1, *image))
    return jax.eval_shape(lambda key: model.init(key, images, train=False), jax.random.key(0))["params"]


def hold(given: Any, expected: tuple[Any, ...]) -> None:
    """Fails unless transforms are those of a recipe, each a name or a mapping of facts."""
    assert len(given) == len(expected), f"{[one.name for one in given]}, published {expected}"
    for one, facts in zip(given, expected, strict=True):
        holds(one, {"name": facts} if isinstance(facts, str) else facts)


def holds(given: Any, facts: Mapping[str, Any]) -> None:
    """Fails where a part of a config says something else than the facts."""
    for key, value in facts.items():
        if isinstance(value, Mapping):
            holds(given[key], value)
        else:
            shown = given[key]
            near = isinstance(value, float) and math.isclose(shown, value, rel_tol=1e-6)
            assert near or shown == value, f"{key}={shown!r}, published {value!r}"
