"""Panoptic segmentation as a task: things and stuff, each pixel once.

A model is a detector (see `task.py`) of which the first `object_classes` classes are things and the other `num_stuff`
are stuff, with `predict(outputs, size, pixel_area) -> PanopticSegments`. A batch has `panoptic` maps (`data.collate`)
and no `targets`: what is learned of things is made of the map, after augmentation.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Array, Int, UInt8

from jaxvision.data.run_lengths import encode_masks
from jaxvision.detection import panoptic_analysis
from jaxvision.detection.geometry import to_original
from jaxvision.detection.mask_metrics import CocoMaskAP
from jaxvision.detection.metrics import CocoAP, Rows
from jaxvision.detection.panoptic_metrics import PanopticQuality
from jaxvision.detection.panoptic_results import FoundSegments, PanopticFiles
from jaxvision.detection.panoptic_truth import pixel_areas, truth_of
from jaxvision.detection.results import found_objects
from jaxvision.detection.task import DetectionTask, inputs_of
from jaxvision.engine.analysis import Analysis, ImageScore, Settings
from jaxvision.engine.task import Aux, Batch, Context, PyTree
from jaxvision.ops import to_size
from jaxvision.structures import PanopticSegments


@dataclasses.dataclass(frozen=True)
class PanopticTask(DetectionTask):
    """Segments of things and of stuff.

    Attributes:
      model: see the top of this file.
      protocols: by which predictions are scored: "pq" (panoptic quality), "coco" and "coco_masks" (of the things).
      max_instances: things of an image that are learned.
    """

    protocols: tuple[str, ...] = ("pq", "coco", "coco_masks")
    max_instances: int = 100

    def __post_init__(self) -> None:
        if not getattr(self.model, "num_stuff", 0):
            raise ValueError(
                f"panoptic segmentation needs a model of things and stuff, such as 'panoptic_fpn', not "
                f"{type(self.model).__name__}"
            )
        super().__post_init__()

    @property
    def num_things(self) -> int:
        """Classes of things, the first ones."""
        return self.model.object_classes

    def loss(self, params: PyTree, collections: Mapping[str, PyTree], batch: Batch, ctx: Context) -> tuple[Array, Aux]:
        return super().loss(params, collections, {**batch, **self.truth_of(batch)}, ctx)

    def predict(  # type: ignore[override]
        self, variables: Mapping[str, PyTree], batch: Batch, ctx: Context, carry: PyTree = None
    ) -> tuple[PanopticSegments, PyTree]:
        """`PanopticSegments` of each image: boxes in pixels of the original, the map with what brings it there."""
        inputs = inputs_of(batch)
        outputs = self.model.apply(variables, {**inputs, "image": ctx.cast(inputs["image"])}, train=False)
        found = self.model.predict(outputs, batch["size"], pixel_areas(batch["to_original"]))
        things = found.detections
        boxes = jnp.where(things.valid[..., None], to_original(things.boxes, batch), 0.0)
        height, width = inputs["image"].shape[1:3]
        return dataclasses.replace(
            found,
            detections=dataclasses.replace(things, boxes=boxes),
            panoptic=found.panoptic[:, :height, :width],
            to_original=jnp.asarray(batch["to_original"]),
            original_size=jnp.asarray(batch["original_size"]),
        ), carry

    def truth_of(self, batch: Batch) -> dict[str, Any]:
        """`targets` of the things and `semantic`, see `panoptic_truth`."""
        return truth_of(batch, self.num_things, self.max_instances)

    def known_metrics(self) -> dict[str, Any]:
        things = self.num_things
        return {
            "pq": PanopticQuality(self.num_classes, self.num_classes - things),
            "coco": OfThings(CocoAP(things), self),
            "coco_masks": OfThings(CocoMaskAP(things), self),
        }

    def draw(  # type: ignore[override]
        self, sample: Mapping[str, Any], prediction: PanopticSegments
    ) -> UInt8[np.ndarray, "h w 3"]:
        """The image with its segments, and beside it with the truth where `sample` has a `panoptic` map."""
        from jaxvision.visualization.panoptic import draw_segments

        found = {"panoptic": _map_of(prediction), "segment_labels": np.asarray(prediction.labels)}
        return draw_segments(sample, found, self.class_names)

    def to_json(  # type: ignore[override]
        self, sample: Mapping[str, Any], prediction: PanopticSegments
    ) -> dict[str, Any]:
        """`segments_info` as in COCO's panoptic format, and the `detections` of `DetectionTask`.

        Of each segment: `id`, its `class` and `category_id` (our 0-based label), `isthing`, `area` in pixels of the
        original image, `bbox` (left, top, width, height), `score` of a thing, and its run lengths, `segmentation`, in
        place of the PNG file of COCO.
        """
        panoptic, count = _map_of(prediction), len(prediction.detections.scores)
        segments = []
        for number in np.unique(panoptic[panoptic > 0]).tolist():
            mask, label = panoptic == number, int(prediction.labels[number - 1])
            rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
            left, top = int(columns[0]), int(rows[0])
            thing = label < self.num_things
            segments.append(
                {
                    "id": number,
                    "class": self.name_of(label),
                    "category_id": label,
                    "isthing": int(thing),
                    "iscrowd": 0,
                    "area": int(mask.sum()),
                    "bbox": [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top],
                    "segmentation": encode_masks([mask])[0],
                    **({"score": float(prediction.detections.scores[number - 1])} if number <= count else {}),
                }
            )
        return {"segments_info": segments, **super().to_json(sample, prediction.detections)}

    def found(  # type: ignore[override]
        self, sample: Mapping[str, Any], prediction: PanopticSegments
    ) -> FoundSegments:
        """The segments, and the things that were detected, whatever their score."""
        panoptic, scores = _map_of(prediction), np.asarray(prediction.detections.scores)
        ids = np.unique(panoptic[panoptic > 0])
        labels = np.asarray(prediction.labels)[ids - 1]
        padded = np.full(max(len(prediction.labels), len(scores)), np.nan, np.float32)
        padded[: len(scores)] = scores
        return FoundSegments(
            panoptic,
            ids,
            labels,
            tuple(self.name_of(int(label)) for label in labels),
            labels < self.num_things,
            padded[ids - 1],
            found_objects(self, sample, prediction.detections),
        )

    def result_files(self, folder: epath.Path, *, annotations: str | os.PathLike[str] | None = None) -> PanopticFiles:
        """`panoptic.json` with its PNG files, and `coco_results.json` of the things; see `panoptic_results`."""
        return PanopticFiles(folder, self, annotations)

    def summary(self, results: Mapping[str, Any]) -> Sequence[str]:
        if "pq" not in results:
            return super().summary(results)
        named = {"pq": "PQ", "sq": "SQ", "rq": "RQ", "pq_things": "PQ of things", "pq_stuff": "PQ of stuff"}
        first = ", ".join(f"{text} {results[name]:.3f}" for name, text in named.items() if name in results)
        quality = self._per_class(np.asarray(results["pq_per_class"]), "PQ")
        return [line for line in (first, quality, *super().summary(results)) if line]

    def analyses(self, settings: Settings) -> Mapping[str, Analysis]:
        return panoptic_analysis.analyses(self, settings)

    @property
    def image_score(self) -> ImageScore:
        return panoptic_analysis.image_score()


@dataclasses.dataclass(frozen=True)
class OfThings:
    """A metric of detections for the things of panoptic predictions.

    Attributes:
      metric: `CocoAP` or `CocoMaskAP` of as many classes as there are of things.
      task: makes the truth.
    """

    metric: CocoAP | CocoMaskAP
    task: PanopticTask

    def select(self, predictions: PanopticSegments, batch: Batch) -> dict[str, Array]:
        return self.metric.select(predictions.detections, {**batch, **self.task.truth_of(batch)})

    def condense(self, rows: Rows) -> dict[str, np.ndarray]:
        return self.metric.condense(rows) if isinstance(self.metric, CocoMaskAP) else dict(rows)

    def compute_all(self, rows: Rows) -> dict[str, Any]:
        return self.metric.compute_all(rows)


def _map_of(prediction: PanopticSegments) -> Int[np.ndarray, "h w"]:
    """The map in pixels of the original image."""
    assert prediction.to_original is not None and prediction.original_size is not None
    height, width = (int(side) for side in prediction.original_size)
    return to_size(np.asarray(prediction.panoptic), np.asarray(prediction.to_original), (height, width))
