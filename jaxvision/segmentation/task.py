"""Semantic segmentation as a task: what every segmenter's loss, predictions, metrics and pictures have in common.

A batch is that of `data.collate` with `semantic`; images are float, after the transforms. Predictions are label maps on
the canvas, with what brings them to the pixels of the original image; where the batch has its truth at the original
size (`semantic_original`), they are label maps of that size, too, made from logits of that size.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Array, Bool, Float, PRNGKeyArray, UInt8

from jaxvision import registry
from jaxvision.augment.views import View
from jaxvision.data.run_lengths import encode_masks
from jaxvision.engine.analysis import Analysis, ImageScore, Settings
from jaxvision.engine.task import Aux, Batch, Context, PyTree, Task
from jaxvision.ops import to_size
from jaxvision.segmentation import analysis
from jaxvision.segmentation.dense_crf import DenseCRF
from jaxvision.segmentation.original import labels_at_original
from jaxvision.segmentation.results import LabelMap, LabelMapFiles
from jaxvision.segmentation.segmentor import Segmentor, labels_of
from jaxvision.segmentation.windows import slide

Prediction = Mapping[str, Any]
GEOMETRY = ("to_original", "original_size")
TOLD = 30
"""Classes up to which a summary has a table of them; of more, the weakest."""


@dataclasses.dataclass(frozen=True)
class SemanticSegmentationTask(Task):
    """A class for every pixel.

    Attributes:
      model: a `Segmentor`.
      window: height and width of the windows in which evaluation and prediction see images; None: they see them whole.
      window_stride: of the windows; None: two thirds of the window.
      windows_at_once: windows of each image in one batch of the network.
      crf: sharpens predictions on the canvas; its `mean` and `std` are those of the images. Merged views go without.
      class_names: by label; without them classes are numbered.
    """

    model: Segmentor
    window: tuple[int, int] | None = None
    window_stride: tuple[int, int] | None = None
    windows_at_once: int = 1
    crf: DenseCRF | None = None
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.model, Segmentor):
            raise ValueError(f"semantic segmentation needs a segmenter, such as 'fcn', not {type(self.model).__name__}")
        if self.class_names and len(self.class_names) != self.num_classes:
            raise ValueError(
                f"the data have {len(self.class_names)} classes ({_some(self.class_names)}), and the model has "
                f"num_classes={self.num_classes}: set model.num_classes to {len(self.class_names)}; ignored pixels "
                "(255) are no class"
            )
        if self.window is None and self.window_stride is not None:
            raise ValueError(f"window_stride={self.window_stride} needs a window: (height, width)")
        for name in ("window", "window_stride"):
            sides = getattr(self, name)
            if sides is not None and min(sides) < 1:
                raise ValueError(f"{name}={sides}: expected positive (height, width)")
        if self.window is not None and any(s > w for s, w in zip(self.steps, self.window, strict=True)):
            raise ValueError(f"window_stride={self.window_stride} leaves pixels out between windows of {self.window}")
        if self.windows_at_once < 1:
            raise ValueError(f"windows_at_once={self.windows_at_once}: expected at least 1")
        if self.crf is not None:
            self.crf.check(self.num_classes)

    @property
    def num_classes(self) -> int:
        """Classes of the model."""
        return self.model.num_classes

    def init(self, rng: PRNGKeyArray, batch: Batch) -> dict[str, PyTree]:
        return dict(self.model.init(rng, images_of(batch)[:1], train=False))

    def loss(self, params: PyTree, collections: Mapping[str, PyTree], batch: Batch, ctx: Context) -> tuple[Array, Aux]:
        keys = None if ctx.rng is None else {"dropout": ctx.rng}
        batch = {**batch, "semantic": truth_of(batch)}
        outputs, updated = self.model.apply(
            {"params": params, **collections},
            ctx.cast(images_of(batch)),
            train=ctx.train,
            mutable=list(collections),
            rngs=keys,
        )
        terms = self.model.loss(outputs, batch)
        means = ctx.mean({name: count for name, (_, count) in terms.items()})
        # A count is only 0 where no pixel has a class, and so is its sum.
        parts = [total / jnp.where(means[name] > 0, means[name], 1.0) for name, (total, _) in terms.items()]
        metrics = {f"{name}_loss": pair for name, pair in terms.items()}
        return sum(parts[1:], parts[0]), Aux(metrics=jax.lax.stop_gradient(metrics), collections=dict(updated))

    def predict(
        self, variables: Mapping[str, PyTree], batch: Batch, ctx: Context, carry: PyTree = None
    ) -> tuple[dict[str, Array], PyTree]:
        """See `decided`."""
        images = ctx.cast(images_of(batch))
        scores = self.logits(variables, images)
        if self.crf is not None:
            inside = pixels_of(batch["size"], (images.shape[1], images.shape[2]))
            scores = self.crf(scores, images_of(batch), valid=inside)
        return self.decided(scores, batch), carry

    def decided(self, scores: Float[Array, "b h w classes"], batch: Batch) -> dict[str, Array]:
        """The predictions that follow from logits or scores of every pixel of the canvas.

        Returns:
          `labels` uint8 [B, H, W] of the canvas; `to_original` and `original_size` of the batch; and, where that has
          `semantic_original` [B, OH, OW], `original_labels` uint8 of that shape, see `labels_at_original`.
        """
        found = {"labels": labels_of(scores), **{name: jnp.asarray(batch[name]) for name in GEOMETRY}}
        if "semantic_original" in batch:
            _, height, width = batch["semantic_original"].shape
            size, original = jnp.asarray(batch["size"]), found["original_size"]
            found["original_labels"] = labels_at_original(
                scores, size, original, (height, width), align_corners=self.model.align_corners
            )
        return found

    def logits(self, variables: Mapping[str, PyTree], images: Float[Array, "b h w c"]) -> Float[Array, "b h w classes"]:
        """Logits of every pixel, float32, of images as a whole or in windows."""

        def of(images: Float[Array, "n h w c"]) -> Float[Array, "n h w classes"]:
            outputs: Any = self.model.apply(variables, images, train=False)
            return self.model.logits(outputs, (images.shape[1], images.shape[2]))

        if self.window is None:
            return of(images)
        return slide(of, images, self.window, self.steps, at_once=self.windows_at_once)

    @property
    def steps(self) -> tuple[int, int]:
        """Stride of the windows."""
        if self.window_stride is not None or self.window is None:
            return self.window_stride or (1, 1)
        height, width = (max(1, round(side * 2 / 3)) for side in self.window)
        return height, width

    def for_views(self) -> "SemanticSegmentationTask":
        own = (field for field in dataclasses.fields(SemanticSegmentationTask) if field.init)
        return _WithLogits(**{field.name: getattr(self, field.name) for field in own})

    def invert(self, predictions: Prediction, view: View) -> dict[str, Array]:
        """`scores` (softmax) and `logits` of the image, both from the view's logits at the size of the image."""
        logits = view.invert_maps(predictions["logits"])
        return {"scores": jax.nn.softmax(logits), "logits": logits}

    def merge_views(self, parts: Sequence[Mapping[str, Array]], tta: Any, batch: Batch) -> dict[str, Array]:
        """What is decided by the scores or logits of every pixel of the canvas, merged over views."""
        names = ("scores", "logits")
        if tta.on is not None and tta.on not in names:
            raise ValueError(f"tta: segmentation has no {tta.on!r} to merge: {registry.hint(tta.on, names)}")
        return self.decided(tta.merged([part[tta.on or "scores"] for part in parts]), batch)

    def metrics(self) -> dict[str, Any]:
        from jaxvision.segmentation.metrics import SegmentationScores

        return {"segmentation": SegmentationScores(self.num_classes)}

    def draw(self, sample: Mapping[str, Any], prediction: Prediction) -> UInt8[np.ndarray, "h w 3"]:
        """The image, the prediction and, where `sample` has a `semantic` map, the truth and where they differ."""
        from jaxvision.visualization.semantic import draw_semantic

        return draw_semantic(sample, map_of(prediction), self.class_names)

    def to_json(self, sample: Mapping[str, Any], prediction: Prediction) -> dict[str, Any]:
        """`classes`, the largest first: `class`, `label`, `share` of the image's pixels, `area` and `segmentation`.

        The latter are COCO's: pixels of the original image, and run lengths.
        """
        labels = map_of(prediction)
        counts = np.bincount(labels.ravel(), minlength=self.num_classes)
        found = [int(i) for i in np.argsort(-counts, kind="stable") if counts[i]]
        return {
            "size": list(labels.shape),
            "classes": [
                {
                    "class": self.name_of(i),
                    "label": i,
                    "share": float(counts[i] / labels.size),
                    "area": int(counts[i]),
                    "segmentation": encode_masks([labels == i])[0],
                }
                for i in found
            ],
        }

    def found(self, sample: Mapping[str, Any], prediction: Prediction) -> LabelMap:
        """The class of each pixel of the original image."""
        return LabelMap(map_of(prediction), tuple(self.name_of(i) for i in range(self.num_classes)))

    def result_files(self, folder: epath.Path, *, palette: bool = False) -> LabelMapFiles:
        """A PNG label map of each image in `labels`, with colours for viewers if `palette`."""
        return LabelMapFiles(folder, self.found, palette=palette)

    def plots(self, results: Mapping[str, Any]) -> dict[str, Callable[[Any], None]]:
        """The confusion matrix of pixels."""
        if "confusion_matrix" not in results:
            return {}

        def confusion(path: Any) -> None:
            from jaxvision.visualization.confusion import plot_confusion

            plot_confusion(np.asarray(results["confusion_matrix"]), self.class_names, path)

        return {"confusion_matrix.png": confusion}

    def summary(self, results: Mapping[str, Any]) -> Sequence[str]:
        """The scores, and a table of classes in percent: IoU, accuracy, Dice, precision, share of the pixels."""
        if "miou" not in results:
            return ()
        named = {"miou": "mIoU", "macc": "mAcc", "aacc": "aAcc", "fwiou": "fwIoU", "mdice": "mDice", "mfscore": "mF"}
        first = ", ".join(f"{text} {100 * results[name]:.2f}" for name, text in named.items())
        return [first, *self._table(results)]

    def _table(self, results: Mapping[str, Any]) -> list[str]:
        columns = {"IoU": "iou", "Acc": "acc", "Dice": "dice", "F": "fscore", "Precision": "precision"}
        values = [100 * np.asarray(results[f"{name}_per_class"]) for name in columns.values()]
        true = np.asarray(results["confusion_matrix"]).sum(axis=1)
        values.append(100 * true / max(1, true.sum()))
        known = np.flatnonzero(~np.isnan(values[0]))
        shown = np.arange(self.num_classes)
        if self.num_classes > TOLD:
            shown = known[np.argsort(values[0][known], kind="stable")][:TOLD]
        width = max([5, *(len(self.name_of(int(i))) for i in shown)])
        heads = [*columns, "Pixels"]
        lines = ["class".ljust(width) + "".join(head.rjust(11) for head in heads)]
        for i in shown:
            cells = ("-" if np.isnan(of[i]) else f"{of[i]:.2f}" for of in values)
            lines.append(self.name_of(int(i)).ljust(width) + "".join(cell.rjust(11) for cell in cells))
        if len(shown) < self.num_classes:
            lines.append(f"the {len(shown)} weakest of {self.num_classes} classes")
        return lines

    def analyses(self, settings: Settings) -> Mapping[str, Analysis]:
        return analysis.analyses(self, settings)

    @property
    def image_score(self) -> ImageScore | None:
        return analysis.image_score(self)

    def name_of(self, label: int) -> str:
        """The class's name, or its number."""
        return self.class_names[label] if self.class_names else str(label)


def images_of(batch: Batch) -> Float[Array, "b h w c"]:
    """Images of a batch; raises TypeError if they are still integers."""
    image = batch["image"]
    if not jnp.issubdtype(image.dtype, jnp.floating):
        raise TypeError(
            f"semantic segmentation got {image.dtype} images, expected floating point: "
            "add dict(name='normalize', ...) to data.eval_transforms"
        )
    return image


def pixels_of(size: Float[Array, "b 2"], canvas: tuple[int, int]) -> Bool[Array, "b h w"]:
    """Which pixels of the canvas are an image's, by its height and width there."""
    rows, columns = (jnp.arange(side, dtype=jnp.float32)[None] for side in canvas)
    sides = jnp.asarray(size, jnp.float32)
    return (rows < sides[:, :1])[:, :, None] & (columns < sides[:, 1:])[:, None, :]


def truth_of(batch: Batch) -> UInt8[Array, "b h w"]:
    """The label maps of a batch; raises ValueError if it has none."""
    if "semantic" not in batch:
        raise ValueError(
            "the data have no semantic maps: take a source that has them, such as 'image_mask' or "
            "dict(name='digit_scenes', annotations=('semantic',))"
        )
    return jnp.asarray(batch["semantic"])


def map_of(prediction: Prediction) -> UInt8[np.ndarray, "h w"]:
    """The label map of one prediction in pixels of the original image."""
    height, width = (int(side) for side in prediction["original_size"])
    if "original_labels" in prediction:
        return np.asarray(prediction["original_labels"])[:height, :width]
    return to_size(np.asarray(prediction["labels"]), np.asarray(prediction["to_original"]), (height, width), edge=True)


class _WithLogits(SemanticSegmentationTask):
    """The same task, whose predictions also hold the logits, which views are merged by."""

    def predict(
        self, variables: Mapping[str, PyTree], batch: Batch, ctx: Context, carry: PyTree = None
    ) -> tuple[dict[str, Array], PyTree]:
        return {"logits": self.logits(variables, ctx.cast(images_of(batch)))}, carry


def _some(names: Sequence[str], shown: int = 5) -> str:
    return ", ".join(names[:shown]) + (", ..." if len(names) > shown else "")
