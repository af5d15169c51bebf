"""Test-time augmentation: a task that predicts for several views of each image and merges what it finds.

    evaluation.tta = "hflip"                                       # in a config; or dict(name="d4", merge="gmean")
    jv.Inferencer("runs/a", tta="ten_crop:(224, 224)")             # in prediction, whatever the config says

Views are the product of the chosen mirrors, turns, scales, factors and offsets, always with the image as it is, then
the crops: those of ttach (https://github.com/qubvel/ttach), and with its rules. The direction says what a prediction
for a view means for the image (`Task.invert`), and what the merged arrays are as a prediction (`Task.merged`).
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Array, Float, PRNGKeyArray

from jaxvision.augment.views import Size, View
from jaxvision.engine.analysis import Analysis, ImageScore, Settings
from jaxvision.engine.task import Aux, Batch, Context, Objective, PyTree, ResultFiles, Task
from jaxvision.registry import hint

MERGES = ("mean", "gmean", "max", "min", "tsharpen")
BOX_MERGES = ("nms", "wbf")
FLIPS = ("horizontal", "vertical")


@dataclasses.dataclass(frozen=True)
class TTA:
    """Which views, and how their predictions are merged.

    Attributes:
      flips: mirrors among "horizontal" and "vertical"; both give four views.
      rotations: degrees counter-clockwise, among 90, 180 and 270.
      scales: factors of height and width.
      factors, offsets: pixels, as the network gets them (normalised), are multiplied and added to.
      crop: height and width of the four corners and the centre, which take the image's place.
      merge: of arrays, "mean", "gmean" (geometric), "max", "min", or "tsharpen" (mean of the square roots); of boxes,
        "nms" (non-maximum suppression) or "wbf" (weighted boxes fusion); None: "mean", or "nms".
      on: which of the direction's arrays is merged; None: its first (classification: "scores", or "logits").
      method, align_corners: of resizing, see `ops.interpolate`.
      iou_threshold: boxes of one class that overlap more are merged.
    """

    flips: tuple[str, ...] = ()
    rotations: tuple[int, ...] = ()
    scales: tuple[float, ...] = ()
    factors: tuple[float, ...] = ()
    offsets: tuple[float, ...] = ()
    crop: tuple[int, int] | None = None
    merge: str | None = None
    on: str | None = None
    method: str = "bilinear"
    align_corners: bool = False
    iou_threshold: float = 0.5

    def __post_init__(self) -> None:
        for name, known in (("flips", FLIPS), ("rotations", (0, 90, 180, 270))):
            for given in getattr(self, name):
                if given not in known:
                    raise ValueError(f"tta: {name} has {given!r}, expected some of {', '.join(map(str, known))}")
        if self.merge is not None and self.merge not in (*MERGES, *BOX_MERGES):
            raise ValueError(f"tta: unknown merge {self.merge!r}: {hint(self.merge, (*MERGES, *BOX_MERGES))}")
        if self.merge in ("gmean", "tsharpen") and self.on == "logits":
            raise ValueError(f"tta: merge={self.merge!r} takes roots, and logits may be negative: merge the scores")
        if any(scale <= 0 for scale in self.scales) or (self.crop is not None and min(self.crop) < 1):
            raise ValueError(f"tta: scales={self.scales}, crop={self.crop}: expected positive numbers")

    def views(self, size: Size) -> tuple[View, ...]:
        """The views of images of this height and width, in the order of ttach's `Compose`.

        Raises:
          ValueError: a crop that is larger than a scaled image.
        """
        found = []
        choices: list[tuple[Any, ...]] = [(False, True) if flip in self.flips else (False,) for flip in FLIPS]
        choices.append(_with(0, tuple(angle // 90 for angle in self.rotations)))
        choices += [_with(1.0, self.scales), _with(1.0, self.factors), _with(0.0, self.offsets)]
        for horizontal, vertical, turns, scale, factor, offset in itertools.product(*choices):
            view = View(
                size, horizontal, vertical, turns, scale, factor, offset,
                method=self.method, align_corners=self.align_corners,
            )  # fmt: skip
            if min(view.scaled) < 1:
                raise ValueError(f"tta: images of {size} pixels scaled by {scale} have none left")
            crops = [None] if self.crop is None else _five(view.scaled, self.crop)
            found += [dataclasses.replace(view, crop=crop) for crop in crops]
        return tuple(found)

    def merged(self, parts: Sequence[Float[Array, "..."]]) -> Float[Array, "..."]:
        """Merges the arrays of all views, element by element, in float32.

        Raises:
          ValueError: `merge` is one of boxes.
        """
        if self.merge in BOX_MERGES:
            raise ValueError(f"tta: merge={self.merge!r} merges boxes, not arrays: expected one of {', '.join(MERGES)}")
        stacked = jnp.stack([part.astype(jnp.float32) for part in parts])
        if self.merge == "gmean":  # in logarithms: a product of many small scores would be 0 in float32
            return jnp.exp(jnp.mean(jnp.log(stacked), axis=0))
        if self.merge == "tsharpen":
            return jnp.mean(jnp.sqrt(stacked), axis=0)
        if self.merge in ("max", "min"):
            return jnp.max(stacked, axis=0) if self.merge == "max" else jnp.min(stacked, axis=0)
        return jnp.mean(stacked, axis=0)


def five_crop(crop: tuple[int, int], merge: str | None = None, on: str | None = None) -> TTA:
    """The four corners and the centre, each of height and width `crop`."""
    return TTA(crop=crop, merge=merge, on=on)


def ten_crop(crop: tuple[int, int], merge: str | None = None, on: str | None = None) -> TTA:
    """`five_crop` of the image and of its mirror (Krizhevsky et al. 2012, section 4.1)."""
    return TTA(flips=("horizontal",), crop=crop, merge=merge, on=on)


@dataclasses.dataclass(frozen=True)
class TTATask(Task):
    """A task whose predictions are merged over views; losses, metrics and pictures are those of `task`.

    Views of one size run one after the other through one compiled copy of the model, so that memory does not grow with
    their number.
    """

    task: Task
    tta: TTA

    def predict(
        self, variables: Mapping[str, PyTree], batch: Batch, ctx: Context, carry: PyTree = None
    ) -> tuple[PyTree, PyTree]:
        if carry is not None:
            raise ValueError(f"{type(self.task).__name__} carries a state between batches: it cannot be augmented")
        images = batch["image"]
        groups: dict[Size, list[View]] = {}
        for view in self.tta.views((images.shape[1], images.shape[2])):
            groups.setdefault(view.shown, []).append(view)
        parts: list[Mapping[str, Array]] = []
        task = self.task.for_views()
        for views in groups.values():

            def one(shown: Mapping[str, Array]) -> PyTree:
                return task.predict(variables, {**batch, **shown}, ctx)[0]

            every = [shown_batch(view, batch) for view in views]
            predictions = jax.lax.map(one, jax.tree.map(lambda *each: jnp.stack(each), *every))
            for i, view in enumerate(views):
                parts.append(task.invert(jax.tree.map(lambda x, i=i: x[i], predictions), view))
        return self.task.merge_views(parts, self.tta, batch), None

    def init(self, rng: PRNGKeyArray, batch: Batch) -> dict[str, PyTree]:
        return self.task.init(rng, batch)

    def loss(self, params: PyTree, collections: Mapping[str, PyTree], batch: Batch, ctx: Context) -> tuple[Array, Aux]:
        return self.task.loss(params, collections, batch, ctx)

    @property
    def objectives(self) -> tuple[Objective, ...]:
        return self.task.objectives

    @property
    def model(self) -> Any:
        """The task's model."""
        return getattr(self.task, "model", None)

    def init_carry(self, batch: Batch) -> PyTree:
        return self.task.init_carry(batch)

    def metrics(self) -> dict[str, Any]:
        return self.task.metrics()

    def draw(self, sample: Mapping[str, Any], prediction: PyTree) -> np.ndarray:
        return self.task.draw(sample, prediction)

    def to_json(self, sample: Mapping[str, Any], prediction: PyTree) -> dict[str, Any]:
        return self.task.to_json(sample, prediction)

    def found(self, sample: Mapping[str, Any], prediction: PyTree) -> Any:
        return self.task.found(sample, prediction)

    def result_files(self, folder: epath.Path, **options: Any) -> ResultFiles | None:
        return self.task.result_files(folder, **options)

    def telling(self, *, score_threshold: float | None = None, top_k: int | None = None) -> Task:
        told = self.task.telling(score_threshold=score_threshold, top_k=top_k)
        return dataclasses.replace(self, task=told)

    def plots(self, results: Mapping[str, Any]) -> dict[str, Any]:
        return self.task.plots(results)

    def analyses(self, settings: Settings) -> Mapping[str, Analysis]:
        return self.task.analyses(settings)

    @property
    def image_score(self) -> ImageScore | None:
        return self.task.image_score

    def summary(self, results: Mapping[str, Any]) -> Sequence[str]:
        return self.task.summary(results)


def augmented(task: Task, tta: TTA | None) -> Task:
    """`task` under test-time augmentation: another one than it may have, or with None no one."""
    inner = task.task if isinstance(task, TTATask) else task
    return inner if tta is None else TTATask(inner, tta)


def shown_batch(view: View, batch: Batch) -> dict[str, Array]:
    """What of a batch is another one for the view: its pixels, the size of its pictures and the way to the original."""
    own = {"image": view(batch["image"])}
    if "size" in batch:
        own["size"] = view.shown_size(batch["size"])
    if "to_original" in batch:
        matrix = jnp.asarray(view.matrix, jnp.float32)
        precise = jax.lax.Precision.HIGHEST
        own["to_original"] = jnp.einsum("bij,jk->bik", batch["to_original"], matrix, precision=precise)
    return own


def _with(identity: Any, values: tuple[Any, ...]) -> tuple[Any, ...]:
    """The image as it is is always among the views."""
    return values if identity in values else (identity, *values)


def _five(size: Size, crop: Size) -> list[tuple[int, int, int, int]]:
    (height, width), (h, w) = size, crop
    if h > height or w > width:
        raise ValueError(f"tta: a crop of {crop} does not fit into {size} pixels (height, width)")
    down, right = height - h, width - w
    # The centre as ttach has it: an odd crop takes its additional pixel behind the middle.
    centre = (height // 2 - h // 2, width // 2 - w // 2)
    corners = [(0, 0), (down, 0), (down, right), (0, right), centre]
    return [(top, left, h, w) for top, left in corners]
