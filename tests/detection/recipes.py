"""What a published recipe of a detector says, and the same of one of our configs; see `tests/recipes.py`."""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from jaxvision import config as jv_config
from jaxvision.experiment import frozen_paths
from jaxvision.registry import lookup
from tests.recipes import FLIP, SGD, hold, holds, optimizer_of

IMAGES = 118_287
"""Of train2017. (OpenMMLab leaves out 1,021 without an object.)"""
SHORT_SIDE = {"name": "resize_side", "short": 800, "long": 1333}
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
"""123.675, 116.28, 103.53 and 58.395, 57.12, 57.375, over 255."""
FROZEN = {"name": "resnet50", "frozen_stages": 1, "norm": {"name": "frozen_bn"}}


@dataclasses.dataclass(frozen=True)
class DetectorRecipe:
    """A row of the table; what it leaves out is that of most of OpenMMLab's `*_1x_coco`.

    Attributes:
      source: file that its facts are from.
      model: registered name, and fields that differ from its defaults.
      learning_rate: at the end of the warm-up, for this `batch`.
      steps_down: epochs from which on the rate is a tenth of what it was; None: `rates` says it.
      rates: epoch -> learning rate at its first step.
      warmup: step -> share of the learning rate.
      epochs, batch, optimizer, clip_norm, ema: as in the config.
      undecayed: parameters without weight decay, by path and number of dimensions; None: all are decayed.
      factor: of the learning rate of a parameter, by path; None: 1 for all.
      frozen: parameters that are not trained, by path and number of dimensions.
      host, eval_host: host transforms; None: not compared.
      augment: device transforms of training but the normalisation; None: not compared.
      canvas: of prediction, (height, width).
      buckets: canvases of training, where they are others.
      eval_buckets: the same of evaluation; None: as of training.
      normalize: mean and standard deviation, where white is 1.
      pretrained: card of the backbone; None: not compared.
      task: fields.
    """

    source: str
    model: Mapping[str, Any]
    learning_rate: float
    steps_down: tuple[int, ...] | None = (8, 11)
    rates: Mapping[float, float] = dataclasses.field(default_factory=dict)
    warmup: Mapping[int, float] = dataclasses.field(default_factory=lambda: {0: 0.001, 500: 1.0})
    epochs: int = 12
    batch: int = 16
    optimizer: Mapping[str, Any] = dataclasses.field(default_factory=lambda: SGD | {"weight_decay": 1e-4})
    clip_norm: float | None = None
    ema: float | None = None
    undecayed: Callable[[str, int], bool] | None = None
    factor: Callable[[str], float] | None = None
    frozen: Callable[[str, int], bool] | None = None
    host: tuple[Any, ...] | None = (SHORT_SIDE,)
    eval_host: tuple[Any, ...] | None = (SHORT_SIDE,)
    augment: tuple[Any, ...] | None = (FLIP,)
    canvas: tuple[int, int] = (1344, 1344)
    buckets: tuple[tuple[int, int], ...] = ((800, 1344), (1344, 800))
    eval_buckets: tuple[tuple[int, int], ...] | None = None
    normalize: Mapping[str, Any] = dataclasses.field(default_factory=lambda: IMAGENET)
    pretrained: str | None = "torchvision:resnet50"
    task: Mapping[str, Any] = dataclasses.field(default_factory=lambda: {"name": "detection", "protocols": ("coco",)})


def resnet(path: str, dimensions: int) -> bool:
    """A ResNet's stem and first stage, and all of its norms; those too of a stage that regions are put through."""
    first = path.startswith(("backbone/conv1/", "backbone/bn1/", "backbone/layer1_"))
    norm = re.search(r"/(bn\d|downsample_1)/(scale|bias)$", path) is not None
    return first or (norm and path.startswith(("backbone/", "shared_head/")))


def check(name: str, recipe: DetectorRecipe) -> None:
    """Fails where the config `name`, completed, says something else than the recipe."""
    config = jv_config.load(name)
    data, schedule = config.data, jv_config.section(config, "schedule")
    source = data.source.get("source", data.source)  # proposals may lie beside the images
    assert source.get("dataset", source.name).startswith("coco")
    assert config.model.name == lookup("model", recipe.model["name"]).name
    holds(config.model, {"num_classes": 80} | {key: value for key, value in recipe.model.items() if key != "name"})
    holds(config.task, recipe.task)
    assert (schedule.epochs, data.batch_size, data.repeats) == (recipe.epochs, recipe.batch, 1)
    assert (schedule.clip_norm, schedule.clip_value, schedule.accumulate) == (recipe.clip_norm, None, 1)
    assert schedule.ema == recipe.ema
    holds(schedule.optimizer, recipe.optimizer)
    assert recipe.pretrained in (None, (config.pretrained or {}).get("backbone"))

    assert tuple(data.image_size) == recipe.canvas and tuple(map(tuple, data.buckets)) == recipe.buckets
    eval_buckets = recipe.buckets if recipe.eval_buckets is None else recipe.eval_buckets
    assert tuple(map(tuple, data.eval_buckets)) == eval_buckets
    for given, expected in ((data.host_transforms, recipe.host), (data.eval_host_transforms, recipe.eval_host)):
        if expected is not None:
            hold(given, expected)
    if recipe.augment is not None:
        hold([one for one in data.augment if one.name != "normalize"], recipe.augment)
    hold(data.eval_transforms, ({"name": "normalize", **recipe.normalize},))

    steps = IMAGES // recipe.batch
    task = jv_config.build("task", config.task, model=jv_config.build("model", config.model), class_names=())
    bundle = optimizer_of(config, schedule, steps, lambda params: frozen_paths(task, params))
    for step, rate in _rates(recipe, steps).items():
        got = float(bundle.learning_rate(step))
        assert math.isclose(got, rate, rel_tol=2e-4, abs_tol=1e-9), f"step {step}: {got}, published {rate}"
    undecayed = recipe.undecayed or (lambda path, dimensions: False)
    factor = recipe.factor or (lambda path: 1.0)
    frozen = recipe.frozen or resnet
    for row in bundle.table.rows:
        assert row.frozen == frozen(row.path, len(row.shape)), row.path
        if not row.frozen:
            assert math.isclose(row.learning_rate, factor(row.path)), row.path
            assert row.weight_decay == (0.0 if undecayed(row.path, len(row.shape)) else 1.0), row.path


def _rates(recipe: DetectorRecipe, steps: int) -> dict[int, float]:
    """Step -> learning rate."""
    rates = {step: share * recipe.learning_rate for step, share in recipe.warmup.items()}
    for number, epoch in enumerate(recipe.steps_down or ()):
        rates[epoch * steps - 1] = recipe.learning_rate / 10**number
        rates[epoch * steps] = recipe.learning_rate / 10 ** (number + 1)
    return rates | {round(epoch * steps): rate for epoch, rate in recipe.rates.items()}
