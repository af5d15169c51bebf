"""The protocol between the engine and a direction: what a loss, an update rule and a prediction are.

The engine knows this file and no direction. A direction subclasses `Task` as a frozen (hashable) dataclass
and overrides what differs; a task with one loss needs `init`, `loss` and `predict`.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath
from jaxtyping import Array, PRNGKeyArray

from jaxvision import registry
from jaxvision.augment.views import View
from jaxvision.engine.analysis import Analysis, ImageScore, Settings
from jaxvision.engine.metrics import Metric
from jaxvision.errors import SetupError

PyTree = Any
Batch = Mapping[str, Any]
Sums = tuple[Array, Array]
"""A metric as (sum, count): float32 scalars, added over steps and devices before they are divided."""


@flax.struct.dataclass
class Aux:
    """What a loss returns beside its value: metrics as (sum, count) and the updated collections."""

    metrics: dict[str, Sums] = flax.struct.field(default_factory=dict)
    collections: dict[str, PyTree] = flax.struct.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Context:
    """What a step tells a task: where it is, its random key, and the reductions over devices.

    Attributes:
      rng: a key of its own for this step and device (None in evaluation).
      step: int32 scalar, the number of completed updates.
      total_steps: length of the run.
      closing_step: the step with which the closing epochs begin, None where the run has none.
      train: whether parameters are being trained.
      axis_name: the mapped axis, or None where nothing is mapped and the reductions are the identity.
      dtype: compute dtype of the precision policy; see `cast`.
      reduce_mean: replaces the plain mean over devices while micro-batches are accumulated.
    """

    rng: PRNGKeyArray | None = None
    step: Array | int = 0
    total_steps: int = 1
    closing_step: int | None = None
    train: bool = False
    axis_name: str | None = None
    dtype: Any = jnp.float32
    reduce_mean: Callable[[PyTree], PyTree] | None = None

    @property
    def closing(self) -> Array | bool:
        """Whether this step is one of the closing epochs (`schedule.closing_epochs`); traced where `step` is."""
        return self.closing_step is not None and self.step >= self.closing_step

    def mean(self, tree: PyTree) -> PyTree:
        """Mean over devices and accumulated micro-batches; divide a local sum of losses by the mean of its count."""
        if self.reduce_mean is not None:
            return self.reduce_mean(tree)
        return tree if self.axis_name is None else jax.lax.pmean(tree, self.axis_name)

    def sum(self, tree: PyTree) -> PyTree:
        """Sum over devices."""
        return tree if self.axis_name is None else jax.lax.psum(tree, self.axis_name)

    def all_gather(self, tree: PyTree) -> PyTree:
        """Concatenates the leading axis over devices: `[B, ...]` -> `[B * devices, ...]`, in device order."""
        if self.axis_name is None:
            return tree
        return jax.lax.all_gather(tree, self.axis_name, axis=0, tiled=True)

    def cast(self, inputs: PyTree) -> PyTree:
        """Casts floating-point inputs of a model to the compute dtype; layers follow the dtype of their input."""
        return jax.tree.map(lambda x: x.astype(self.dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, inputs)


LossFn = Callable[[PyTree, Mapping[str, PyTree], Batch, Context], tuple[Array, Aux]]


@dataclasses.dataclass(frozen=True)
class Objective:
    """One loss and the parameters that it trains.

    Attributes:
      name: key of its optimizer state, and prefix of its metrics where a task has several.
      loss: `(params, collections, batch, ctx) -> (loss, Aux)`; `params` hold everything, frozen parts included.
      trains: regular expression, matched in full against a parameter's path ("generator/conv1/kernel").
      optimizer: an optax transformation; None takes the schedule's.
      every: trained only at steps divisible by it.
    """

    name: str
    loss: LossFn
    trains: str = ".*"
    optimizer: optax.GradientTransformation | optax.GradientTransformationExtraArgs | None = None
    every: int = 1


class ResultFiles(Protocol):
    """Files in a direction's usual format that predictions are written to, image by image, in constant memory.

    A sample has `name`, unlike that of any other and fit for a file; `file`, the image or video; `frame` of a video;
    and, as for `Task.draw`, `original_size`, `size` and `to_original`.
    """

    def add(self, sample: Mapping[str, Any], prediction: PyTree) -> dict[str, Any]:
        """Writes a prediction; returns what tells where it lies, for the row of this image beside `to_json`."""
        ...

    def close(self) -> Sequence[str]:
        """Completes the files, also after an error; returns what was written, a few words each."""
        ...


@dataclasses.dataclass(frozen=True)
class Task:
    """A direction's losses, predictions and metrics as pure functions. Subclasses are frozen dataclasses."""

    def init(self, rng: PRNGKeyArray, batch: Batch) -> dict[str, PyTree]:
        """Returns `{"params": ..., **collections}` for a batch of this structure."""
        raise NotImplementedError(f"{type(self).__name__} defines no init(rng, batch)")

    def loss(self, params: PyTree, collections: Mapping[str, PyTree], batch: Batch, ctx: Context) -> tuple[Array, Aux]:
        """Returns the local loss, divided by `ctx.mean` of its count, and its `Aux`."""
        raise NotImplementedError(f"{type(self).__name__} defines neither loss(...) nor objectives")

    @property
    def parts(self) -> Mapping[str, Any]:
        """Models beside the task's own whose weights a config's `pretrained` names: a teacher, a text encoder.

        The variables of part `p` are `params/p/...` and, for its other collections, `p/batch_stats/...`.
        """
        return {}

    def for_prediction(self) -> "Task":
        """The task without the parts that only its losses use: what predicts from a trained model."""
        return self

    @property
    def frozen_paths(self) -> tuple[str, ...]:
        """Patterns of parameters that are never trained."""
        return ()

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """The losses in the order of their updates; later ones see the parameters that earlier ones updated."""
        return (Objective("loss", self.loss),)

    def after_update(self, old: Any, new: Any, ctx: Context) -> Any:
        """Maps the train states before and after a step to the state that is kept (momentum encoders, clipping)."""
        return new

    def init_carry(self, batch: Batch) -> PyTree:
        """Initial carry of `predict` over consecutive batches (tracking, streaming video)."""
        return None

    def predict(
        self, variables: Mapping[str, PyTree], batch: Batch, ctx: Context, carry: PyTree = None
    ) -> tuple[PyTree, PyTree]:
        """Returns (predictions, carry); every leaf of the predictions has the batch as its leading axis."""
        raise NotImplementedError(f"{type(self).__name__} defines no predict(...)")

    def for_views(self) -> "Task":
        """The task whose predictions hold what `invert` needs, where those of this one are less."""
        return self

    def invert(self, predictions: PyTree, view: View) -> Mapping[str, Array]:
        """What predictions for a view of the images say about the images: arrays that may be merged element by element.

        For test-time augmentation (`engine.tta`). Scores of an image stay as they are; maps, points and boxes go
        through `view.invert_maps`, `invert_points`, `invert_boxes`, unless `predict` has moved them to the original
        image by the batch's `to_original`, which is the view's. What is merged by default comes first.
        """
        raise NotImplementedError(f"{type(self).__name__} has no test-time augmentation: it defines no invert(...)")

    def merged(self, entries: Mapping[str, Array]) -> PyTree:
        """The predictions that follow from one of the arrays of `invert`, merged over views: `{name: array}`."""
        raise NotImplementedError(f"{type(self).__name__} has no test-time augmentation: it defines no merged(...)")

    def merge_views(self, parts: Sequence[Mapping[str, Array]], tta: Any, batch: Batch) -> PyTree:
        """The predictions for the images of `batch` that follow from what `invert` gave for each view.

        By default `tta` (`engine.tta.TTA`) merges one array element by element, and `merged` makes predictions of it. A
        direction whose predictions are sets (boxes) overrides this.
        """
        name = tta.on or next(iter(parts[0]))
        if name not in parts[0]:
            raise ValueError(f"tta: {type(self).__name__} has no {name!r} to merge: {registry.hint(name, parts[0])}")
        return self.merged({name: tta.merged([part[name] for part in parts])})

    def metrics(self) -> dict[str, Metric]:
        """Evaluation metrics by name."""
        return {}

    def draw(self, sample: Mapping[str, Any], prediction: PyTree) -> np.ndarray:
        """Picture `[H, W, 3]` uint8 of one sample and its prediction."""
        raise NotImplementedError(f"{type(self).__name__} draws no pictures")

    def to_json(self, sample: Mapping[str, Any], prediction: PyTree) -> dict[str, Any]:
        """One prediction in the direction's usual format."""
        raise NotImplementedError(f"{type(self).__name__} has no JSON format")

    def found(self, sample: Mapping[str, Any], prediction: PyTree) -> Any:
        """One prediction as people use it: only what is there, in pixels of the original image, with names."""
        return prediction

    def result_files(self, folder: epath.Path) -> ResultFiles | None:
        """Files of predictions in the direction's usual format; overriding, a direction adds keyword options."""
        return None

    def telling(self, *, score_threshold: float | None = None, top_k: int | None = None) -> "Task":
        """The task whose pictures, JSON and such show only what scores above a threshold, or so many classes.

        Raises:
          SetupError: an option that has no meaning for the direction, or that it does not take.
        """
        for name, value in (("score_threshold", score_threshold), ("top_k", top_k)):
            if value is not None:
                raise SetupError(f"{name}={value}: {type(self).__name__} has nothing that it could choose from")
        return self

    def plots(self, results: Mapping[str, Any]) -> dict[str, Callable[[Any], None]]:
        """File name -> function that writes this picture of evaluation results to a path."""
        return {}

    def summary(self, results: Mapping[str, Any]) -> Sequence[str]:
        """Plain lines that say what an evaluation reached."""
        return ()

    def analyses(self, settings: Settings) -> Mapping[str, Analysis]:
        """View name -> what `experiments.analyze` tells of a trained model: "classes", "confusion", "errors", ..."""
        return {}

    @property
    def image_score(self) -> ImageScore | None:
        """By which single predictions are ranked, for the sheet of the worst; None where nothing ranks them."""
        return None
