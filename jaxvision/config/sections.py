"""The sections of a config as frozen dataclasses: their fields, annotations and defaults are the schema.

A field that is declared with `slot(kind)` takes the name of a registered constructor or `dict(name=..., **arguments)`.
Fields with `excludes` are alternatives: the one that is set later empties the other.
"""

# ruff: noqa: RUF009 - `slot`, `either` and `section` return dataclass fields

import dataclasses
from typing import Any, Literal


def slot(kind: str, *, many: bool = False, default: Any = dataclasses.MISSING) -> Any:
    """A field that holds a `dict(name=...)` of a registered kind, or a tuple of them."""
    return dataclasses.field(default=default, metadata={"slot": kind, "many": many})


def either(default: Any, excludes: str) -> Any:
    """A field that is None where its alternative is set."""
    return dataclasses.field(default=default, metadata={"excludes": excludes})


def section() -> Any:
    """A field that is completed from the defaults of its dataclass."""
    return dataclasses.field(default_factory=dict)


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _check_period(section: Any) -> None:
    for name in ("every_epochs", "every_steps"):
        period = getattr(section, name)
        _check(period is None or period > 0, f"{name} is {period}: expected a positive number, or None")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """What is learned from.

    Attributes:
      source: the data set.
      batch_size: global, per optimizer update.
      image_size: height and width in pixels.
      channels: of the images: 1 grey, 3 RGB.
      host_transforms: of training, before images are decoded: crops, resizing, policies; for sources of files.
      eval_host_transforms: of evaluation and prediction; none stretches images to `image_size`.
      augment: device transforms of training.
      closing_augment: those of the last `schedule.closing_epochs`, in place of `augment`.
      eval_transforms: device transforms of training, after those, and of evaluation (normalisation); without a
        `normalize` among them pixels are divided by 255.
      eval_batch_size: global; None: `batch_size`.
      prefetch: batches that are prepared ahead.
      max_instances: rows for the objects of an image; more are counted and left out.
      buckets: canvases (height, width) of training instead of `image_size`; one per step, chosen by seed and step.
      eval_buckets: canvases of evaluation instead of `image_size`: each image lies on the one that shows it largest. A
        batch has one canvas, so that there is a last partial batch, and a compiled program, for each.
      original_buckets: canvases of the label maps of semantic segmentation at the original size of their images, on
        which predictions are then scored, pixel by pixel; each map lies on the smallest that holds it, and a batch has
        one of `eval_buckets` and one of these. Empty: predictions are scored on the canvas of evaluation.
      workers: threads that decode; None: one per core.
      repeats: times that an image is in a batch, each time augmented anew; epochs keep their length (repeated
        augmentation, Hoffer et al. 2020).
    """

    source: Any = slot("source")
    batch_size: int = 128
    image_size: tuple[int, int] = (32, 32)
    channels: int = 1
    host_transforms: Any = slot("host_transform", many=True, default=())
    eval_host_transforms: Any = slot("host_transform", many=True, default=())
    augment: Any = slot("augment", many=True, default=())
    closing_augment: Any = slot("augment", many=True, default=())
    eval_transforms: Any = slot("augment", many=True, default=())
    eval_batch_size: int | None = None
    prefetch: int = 2
    max_instances: int = 100
    buckets: tuple[tuple[int, int], ...] = ()
    eval_buckets: tuple[tuple[int, int], ...] = ()
    original_buckets: tuple[tuple[int, int], ...] = ()
    workers: int | None = None
    repeats: int = 1

    def __post_init__(self):
        for name in ("batch_size", "eval_batch_size", "channels", "max_instances", "workers", "repeats"):
            number = getattr(self, name)
            _check(number is None or number >= 1, f"{name} is {number}: expected at least 1")
        _check(min(self.image_size) >= 1, f"image_size is {self.image_size}: expected positive (height, width)")
        _check(self.prefetch >= 0, f"prefetch is {self.prefetch}: expected at least 0")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule:
    """Multipliers for the parameters whose path ("backbone/conv1/kernel") a regular expression matches."""

    pattern: str
    learning_rate: float = 1.0
    weight_decay: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class EarlyStopping:
    """Stops after `patience` evaluations in which `metric` did not improve by more than `min_delta`."""

    metric: str
    mode: Literal["max", "min"] = "max"
    patience: int = 10
    min_delta: float = 0.0

    def __post_init__(self):
        _check(self.patience >= 1, f"patience is {self.patience}: expected at least 1 evaluation")
        _check(self.min_delta >= 0, f"min_delta is {self.min_delta}: expected at least 0")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    """How parameters change.

    Attributes:
      epochs, steps: length of the run; exactly one of them.
      optimizer: its hyperparameters.
      learning_rate: its curve over the run.
      warmup: length of the warm-up in `warmup_unit`; 0 for none.
      warmup_factor: factor of the learning rate at step 0.
      warmup_kind: how the factor gets to 1.
      clip_norm: largest global norm of the gradient.
      clip_value: largest absolute value in the gradient.
      accumulate: micro-batches per update; `data.batch_size` is their sum.
      ema: decay of the moving average of parameters and batch statistics.
      ema_ramp: steps in which the decay rises from 0: it is multiplied by 1 - exp(-step / ema_ramp); 0: it does not.
      closing_epochs: last epochs of the run, which have the device transforms `data.closing_augment`, and in which a
        task may have other losses (YOLOX: 15, without mosaic); 0: there are none.
      rules: multipliers by parameter path.
      no_weight_decay_on_norm_and_bias: weight decay on matrices and kernels only, not on tokens and positions.
      layer_decay: factor of the learning rate from each layer to the one before it.
      freeze: regular expressions of parameter paths that are not trained.
      base_batch_size: the batch that the learning rate is given for; None: `data.batch_size`.
      scaling: how the learning rate follows the batch.
      early_stopping: when to stop before the end.
    """

    epochs: int | None = either(None, "steps")
    steps: int | None = either(None, "epochs")
    optimizer: Any = slot("optimizer", default="sgd")
    learning_rate: Any = slot("learning_rate", default="constant")
    warmup: float = 0.0
    warmup_unit: Literal["epochs", "steps"] = "epochs"
    warmup_factor: float = 0.0
    warmup_kind: Literal["linear", "quadratic", "constant", "exponential"] = "linear"
    clip_norm: float | None = None
    clip_value: float | None = None
    accumulate: int = 1
    ema: float | None = None
    ema_ramp: float = 0.0
    closing_epochs: float = 0.0
    rules: tuple[Rule, ...] = ()
    no_weight_decay_on_norm_and_bias: bool = False
    layer_decay: float | None = None
    freeze: tuple[str, ...] = ()
    base_batch_size: int | None = None
    scaling: Literal["linear", "sqrt"] = "linear"
    early_stopping: EarlyStopping | None = None

    def __post_init__(self):
        given = [n for n in (self.epochs, self.steps) if n is not None]
        _check(len(given) == 1, "the length of the run is missing: give epochs or steps")
        _check(given[0] >= 1, f"the length of the run is {given[0]}: expected at least 1")
        _check(self.accumulate >= 1, f"accumulate is {self.accumulate}: expected at least 1")
        _check(self.warmup >= 0, f"warmup is {self.warmup}: expected at least 0")
        _check(self.ema is None or 0 < self.ema < 1, f"ema is {self.ema}: expected a decay between 0 and 1")
        for name in ("ema_ramp", "closing_epochs"):
            _check(getattr(self, name) >= 0, f"{name} is {getattr(self, name)}: expected at least 0")
        for name in ("clip_norm", "clip_value", "layer_decay", "base_batch_size"):
            number = getattr(self, name)
            _check(number is None or number > 0, f"{name} is {number}: expected a positive number, or None")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """When to evaluate; the end of the run always is.

    Attributes:
      use_ema: evaluates the moving average where there is one.
      tta: test-time augmentation, in evaluation and prediction.
    """

    every_epochs: float | None = either(1.0, "every_steps")
    every_steps: int | None = either(None, "every_epochs")
    use_ema: bool = True
    tta: Any = slot("tta", default=None)

    def __post_init__(self):
        _check_period(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """When to save, and what to keep.

    Attributes:
      max_to_keep: newest checkpoints that stay.
      best_metric: evaluation metric; each evaluation that is the best so far is saved, and the best of all stays.
      best_mode: whether more or less of it is better.
    """

    every_epochs: float | None = either(1.0, "every_steps")
    every_steps: int | None = either(None, "every_epochs")
    max_to_keep: int = 2
    best_metric: str | None = None
    best_mode: Literal["max", "min"] = "max"

    def __post_init__(self):
        _check_period(self)
        _check(self.max_to_keep >= 1, f"max_to_keep is {self.max_to_keep}: expected at least 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Log:
    """What is written while training.

    Attributes:
      every_steps: between two records of the training metrics.
      tensorboard: also as TensorBoard events.
      profile_steps: (first step, number of steps) of a profile.
      debug_nans: finds the first operation with a non-finite result; slow.
    """

    every_steps: int = 50
    tensorboard: bool = True
    profile_steps: tuple[int, int] | None = None
    debug_nans: bool = False

    def __post_init__(self):
        _check(self.every_steps >= 1, f"every_steps is {self.every_steps}: expected at least 1")
        profiled = self.profile_steps
        _check(
            profiled is None or min(profiled) >= 1,
            f"profile_steps is {profiled}: expected (first step, number of steps), both at least 1",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parallel:
    """How the step is spread.

    Attributes:
      map: "auto" is pmap in one process and shard_map across several.
      devices: how many to use; None: all.
      heartbeat_timeout_seconds: after which a lost host is an error.
    """

    map: Literal["auto", "pmap", "shard_map", "jit"] = "auto"
    devices: int | None = None
    heartbeat_timeout_seconds: int = 100

    def __post_init__(self):
        _check(self.devices is None or self.devices >= 1, f"devices is {self.devices}: expected at least 1, or None")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """A whole config.

    Attributes:
      task: the direction: losses, predictions, metrics.
      model: the architecture.
      precision: compute dtype; parameters, statistics and losses stay float32.
      pretrained: weights by part of the model.
      seed: of initialisation, data order, augmentation and dropout.
      imports: modules to import first, which register constructors of a user's own.
    """

    task: Any = slot("task")
    model: Any = slot("model")
    data: Data = section()
    schedule: Schedule = section()
    evaluation: Evaluation = section()
    checkpoint: Checkpoint = section()
    log: Log = section()
    parallel: Parallel = section()
    precision: Literal["float32", "bf16"] = "float32"
    pretrained: dict[str, Any] | None = None
    seed: int = 0
    imports: tuple[str, ...] = ()
