"""Object detection as a task: what every detector's loss, predictions, metrics and pictures have in common.

A detector is a flax module with

- `__call__(inputs, *, train, targets=None) -> outputs`: `inputs` is `{"image": [B, H, W, C], "size": [B, 2]}`, with
  `proposals` (`Proposals`) where the data have them;
  `targets` (`Instances`, in training alone) is for those whose graph depends on the truth;
- `loss(outputs, batch) -> {name: (sum, count)}`, called on the unbound module: each term is its local sum over the
  mean of its count over all devices, and the loss is the sum of the terms; the batch also says whether the run is in
  its closing epochs: `closing`, a bool, traced or not;
- `predict(outputs, size) -> Detections`, likewise: in pixels of the canvas;
- a field `num_classes`, without a background.

A batch is that of `data.collate` with `targets`; images are float, after the transforms.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Array, Float, PRNGKeyArray, UInt8

from jaxvision import registry
from jaxvision.augment.views import View
from jaxvision.detection import analysis
from jaxvision.detection.geometry import to_original
from jaxvision.detection.localization_metrics import LocalizationAccuracy
from jaxvision.detection.mask_metrics import CocoMaskAP
from jaxvision.detection.merging import merge_detections
from jaxvision.detection.metrics import CocoAP, ProposalRecall, VocAP
from jaxvision.detection.results import CocoIds, CocoResults, FoundObjects, found_objects
from jaxvision.engine.analysis import Analysis, ImageScore, Settings
from jaxvision.engine.task import Aux, Batch, Context, PyTree, ResultFiles, Task
from jaxvision.errors import SetupError
from jaxvision.ops import paste_masks_on_host
from jaxvision.structures import Detections

TOLD = 20
"""Classes up to which a summary names the precision of each; of more, the weakest."""


@dataclasses.dataclass(frozen=True)
class DetectionTask(Task):
    """Boxes of objects and their classes.

    Attributes:
      model: a detector, see the top of this file.
      protocols: by which detections are scored: "coco", "voc" (area under the curve), "voc07" (11 points),
        "proposals" (recall whatever the class), "coco_masks" (of instance masks), "localization" (ImageNet's: is one of
        the first guesses right?).
      show_above: score of the detections that pictures and JSON tell.
      class_names: by label; without them classes are numbered.
    """

    model: nn.Module
    protocols: tuple[str, ...] = ("coco",)
    show_above: float = 0.3
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        known = tuple(self.known_metrics())
        for name in self.protocols:
            if name not in known:
                raise ValueError(f"unknown protocol {name!r}: {registry.hint(name, known)}")
        if not self.protocols:
            raise ValueError(f"protocols is empty: expected some of {', '.join(known)}")
        if self.class_names and len(self.class_names) != self.num_classes:
            raise ValueError(f"{len(self.class_names)} class_names for a model of {self.num_classes} classes")

    @property
    def num_classes(self) -> int:
        """Classes of the model, without a background."""
        return self.model.num_classes

    def init(self, rng: PRNGKeyArray, batch: Batch) -> dict[str, PyTree]:
        return dict(self.model.init(rng, jax.tree.map(lambda x: x[:1], inputs_of(batch)), train=False))

    def loss(self, params: PyTree, collections: Mapping[str, PyTree], batch: Batch, ctx: Context) -> tuple[Array, Aux]:
        keys = None if ctx.rng is None else dict(zip(("dropout", "sampling"), jax.random.split(ctx.rng), strict=True))
        inputs = inputs_of(batch)
        outputs, updated = self.model.apply(
            {"params": params, **collections},
            {**inputs, "image": ctx.cast(inputs["image"])},
            train=ctx.train,
            targets=batch["targets"] if ctx.train else None,
            mutable=list(collections),
            rngs=keys,
        )
        terms = self.model.loss(outputs, {**batch, "closing": ctx.closing})
        means = ctx.mean({name: count for name, (_, count) in terms.items()})
        # A count is only 0 where no sample is valid, and so is its sum.
        parts = [total / jnp.where(means[name] > 0, means[name], 1.0) for name, (total, _) in terms.items()]
        metrics = {f"{name}_loss": pair for name, pair in terms.items()}
        return sum(parts[1:], parts[0]), Aux(metrics=jax.lax.stop_gradient(metrics), collections=dict(updated))

    def predict(
        self, variables: Mapping[str, PyTree], batch: Batch, ctx: Context, carry: PyTree = None
    ) -> tuple[Detections, PyTree]:
        """`Detections` of each image in pixels of the original."""
        inputs = inputs_of(batch)
        outputs = self.model.apply(variables, {**inputs, "image": ctx.cast(inputs["image"])}, train=False)
        found = self.model.predict(outputs, batch["size"])
        boxes = jnp.where(found.valid[..., None], to_original(found.boxes, batch), 0.0)
        return dataclasses.replace(found, boxes=boxes), carry

    def invert(self, predictions: Detections, view: View) -> dict[str, Array]:
        """The fields of `Detections`: boxes are in pixels of the original already, masks are turned back."""
        names = ("boxes", "scores", "labels", "valid")
        masks = {} if predictions.masks is None else {"masks": view.invert_crops(predictions.masks)}
        return {**{name: getattr(predictions, name) for name in names}, **masks}

    def merge_views(self, parts: Sequence[Mapping[str, Array]], tta: Any, batch: Batch) -> Detections:
        """As many detections of an image as one view has; see `merging.merge_detections`."""
        if tta.on is not None:
            raise ValueError(f"tta: detections are merged as a whole, and on={tta.on!r} names an array: leave it out")
        return merge_detections(parts, tta.merge or "nms", tta.iou_threshold)

    def metrics(self) -> dict[str, Any]:
        known = self.known_metrics()
        return {name: known[name] for name in self.protocols}

    def known_metrics(self) -> dict[str, Any]:
        """The metric of each protocol."""
        return {
            "coco": CocoAP(self.num_classes),
            "voc": VocAP(self.num_classes),
            "voc07": VocAP(self.num_classes, points=True),
            "proposals": ProposalRecall(),
            "coco_masks": CocoMaskAP(self.num_classes),
            "localization": LocalizationAccuracy(),
        }

    def draw(self, sample: Mapping[str, Any], prediction: Detections) -> UInt8[np.ndarray, "h w 3"]:
        """The image with its detections, and beside it with the truth where `sample` has `boxes` and `labels`."""
        from jaxvision.visualization.detection import draw_detections

        names = () if self.protocols == ("proposals",) else self.class_names
        shown = self._shown(prediction)
        if "masks" in shown:
            height, width = np.shape(sample["image"])[:2]
            shown["masks"] = paste_masks_on_host(shown["masks"], shown["boxes"], (height, width))
        return draw_detections(sample, shown, names)

    def to_json(self, sample: Mapping[str, Any], prediction: Detections) -> dict[str, Any]:
        """`detections`, best first: `class`, `label`, `score` and COCO's `bbox`: left, top, width, height.

        Those with masks also have COCO's `segmentation`, run lengths, where the sample knows its `original_size`.
        """
        shown = self._shown(prediction)
        told: list[dict[str, Any]] = [{} for _ in shown["scores"]]
        if prediction.masks is not None and "original_size" in sample:
            objects = found_objects(self, sample, prediction).above(self.show_above)
            told = [{"segmentation": runs} for runs in objects.segmentations()]
        return {
            "detections": [
                {
                    "class": self.name_of(int(label)),
                    "label": int(label),
                    "score": float(score),
                    "bbox": [float(x) for x in (*box[:2], *(box[2:] - box[:2]))],
                    **own,
                }
                for box, score, label, own in zip(shown["boxes"], shown["scores"], shown["labels"], told, strict=True)
            ]
        }

    def found(self, sample: Mapping[str, Any], prediction: Detections) -> FoundObjects:
        """All detections, whatever their score: `found.above(0.3)` are the sure ones."""
        return found_objects(self, sample, prediction)

    def result_files(self, folder: epath.Path, *, annotations: str | os.PathLike[str] | None = None) -> ResultFiles:
        """`coco_results.json`; `annotations` is a COCO file whose ids are taken, see `results`."""
        names = [self.name_of(i) for i in range(self.num_classes)]
        return CocoResults(folder, self, CocoIds(folder, names, annotations))

    def telling(self, *, score_threshold: float | None = None, top_k: int | None = None) -> "DetectionTask":
        """`score_threshold` is `show_above`."""
        super().telling(top_k=top_k)
        if score_threshold is not None and not 0 <= score_threshold <= 1:
            raise SetupError(f"score_threshold={score_threshold}: scores are in [0, 1]")
        return self if score_threshold is None else dataclasses.replace(self, show_above=score_threshold)

    def plots(self, results: Mapping[str, Any]) -> dict[str, Callable[[Any], None]]:
        """Precision over recall of each class, of boxes and of masks."""

        def curves(name: str, what: str) -> Callable[[Any], None]:
            def write(path: Any) -> None:
                from jaxvision.visualization.precision import plot_precision_recall

                precision = np.asarray(results[name])
                plot_precision_recall(precision, self.class_names[: len(precision)], path, f"{what} of IoU 0.5")

            return write

        known = {"precision_curves": ("precision_recall.png", "Boxes")}
        known["mask_precision_curves"] = ("mask_precision_recall.png", "Masks")
        return {file: curves(name, what) for name, (file, what) in known.items() if name in results}

    def summary(self, results: Mapping[str, Any]) -> Sequence[str]:
        named = {
            "ap": "AP",
            "ap50": "AP50",
            "ap75": "AP75",
            "ar100": "AR100",
            "mask_ap": "mask AP",
            "mask_ap50": "mask AP50",
            "voc_ap": "VOC mAP",
            "voc07_ap": "VOC07 mAP",
            "proposal_ar100": "AR100 of proposals",
            "proposal_ar1000": "AR1000 of proposals",
            "localization_top1": "localisation top 1",
            "localization_top5": "top 5",
        }
        lines = [", ".join(f"{text} {results[name]:.3f}" for name, text in named.items() if name in results)]
        for name in ("ap_per_class", "voc_ap_per_class", "voc07_ap_per_class"):
            if name in results:
                lines.append(self._per_class(np.asarray(results[name])))
                break
        return [line for line in lines if line]

    def analyses(self, settings: Settings) -> Mapping[str, Analysis]:
        return {} if self.protocols == ("proposals",) else analysis.analyses(self, settings)

    @property
    def image_score(self) -> ImageScore | None:
        return None if self.protocols == ("proposals",) else analysis.image_score(self)

    def name_of(self, label: int) -> str:
        """The class's name, or its number; proposals have none."""
        if self.protocols == ("proposals",):
            return "object"
        return self.class_names[label] if self.class_names else str(label)

    def _per_class(self, precision: Float[np.ndarray, " c"], what: str = "AP") -> str:
        known = np.flatnonzero(~np.isnan(precision))
        if not len(known):
            return ""
        weakest = known[np.argsort(precision[known], kind="stable")][:5]
        told, of = (known, "each class") if len(known) <= TOLD else (weakest, "the weakest classes")
        return f"{what} of {of}: " + ", ".join(f"{self.name_of(int(i))} {precision[i]:.3f}" for i in told)

    def _shown(self, prediction: Detections) -> dict[str, np.ndarray]:
        """The valid rows that score above `show_above`."""
        rows = np.asarray(prediction.valid) & (np.asarray(prediction.scores) > self.show_above)
        names = ("boxes", "scores", "labels", *(() if prediction.masks is None else ("masks",)))
        return {name: np.asarray(getattr(prediction, name))[rows] for name in names}


def inputs_of(batch: Batch) -> dict[str, Any]:
    """What a detector is called with."""
    image = batch["image"]
    if not jnp.issubdtype(image.dtype, jnp.floating):
        raise TypeError(
            f"detection got {image.dtype} images, expected floating point: "
            "add dict(name='normalize', ...) to data.eval_transforms"
        )
    given = {"proposals": batch["proposals"]} if "proposals" in batch else {}
    return {"image": image, "size": batch["size"], **given}
