"""What detectors found, as people use it and as COCO's files hold it.

`coco_results.json` is the list that COCO's tools take (`pycocotools`: `COCO(...).loadRes`): of every detection
`image_id`, `category_id`, `bbox` (left, top, width, height in pixels of the original image), `score` and, with masks,
`segmentation` (run lengths). Scores below the threshold of pictures are in it: average precision needs them.

The ids are those of an annotation file, found by the names of files and classes; or images are numbered from 1 in
their order, categories are label + 1, and `coco_images.json` lists both in the form of an annotation file.
"""

import dataclasses
import functools
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Bool, Float, Int

from jaxvision.data.json_list import JsonList
from jaxvision.data.run_lengths import encode_masks
from jaxvision.errors import SetupError
from jaxvision.ops import paste_masks_on_host
from jaxvision.structures import Detections

TOLD = 5
"""Objects that are named where an image has one line."""


@dataclasses.dataclass(frozen=True, eq=False)
class FoundObjects:
    """The detections of an image, best first, without padding.

    Attributes:
      boxes: left, top, right, bottom in pixels of the original image.
      scores: 0..1.
      labels: 0-based classes.
      names: of the classes.
      size: height and width of the original image.
      crops: masks as predicted, probabilities within the boxes; None without a head for them.
      sure: score above which pictures and JSON show them.
    """

    boxes: Float[np.ndarray, "n 4"]
    scores: Float[np.ndarray, " n"]
    labels: Int[np.ndarray, " n"]
    names: tuple[str, ...]
    size: tuple[int, int]
    crops: Float[np.ndarray, "n h w"] | None = None
    sure: float = 0.0

    def __len__(self) -> int:
        return len(self.scores)

    def __str__(self) -> str:
        count = int(np.sum(self.scores > self.sure))
        best = ", ".join(f"{self.names[i]} {self.scores[i]:.2f}" for i in range(min(count, TOLD)))
        return f"{count} found" + (f": {best}{', ...' if count > TOLD else ''}" if count else "")

    @functools.cached_property
    def masks(self) -> Bool[np.ndarray, "n H W"] | None:
        """Masks of the original image, drawn when they are first asked for."""
        return None if self.crops is None else paste_masks_on_host(self.crops, self.boxes, self.size)

    def above(self, score: float) -> "FoundObjects":
        """Those that score more."""
        keep = np.flatnonzero(self.scores > score)
        return FoundObjects(
            self.boxes[keep],
            self.scores[keep],
            self.labels[keep],
            tuple(self.names[i] for i in keep),
            self.size,
            None if self.crops is None else self.crops[keep],
            max(score, self.sure),
        )

    def segmentations(self) -> list[dict[str, Any]]:
        """Run lengths of the masks, drawn one by one: all masks of a large photograph would fill the memory."""
        if self.crops is None:
            return []
        rows = ((self.crops[i : i + 1], self.boxes[i : i + 1]) for i in range(len(self)))
        return [encode_masks(list(paste_masks_on_host(crop, box, self.size)))[0] for crop, box in rows]


def found_objects(task: Any, sample: Mapping[str, Any], prediction: Detections) -> FoundObjects:
    """The valid rows of `Detections`; `task` is a `DetectionTask`."""
    valid = np.asarray(prediction.valid)
    labels = np.asarray(prediction.labels)[valid]
    height, width = (int(side) for side in sample["original_size"])
    return FoundObjects(
        np.asarray(prediction.boxes)[valid],
        np.asarray(prediction.scores)[valid],
        labels,
        tuple(task.name_of(int(label)) for label in labels),
        (height, width),
        None if prediction.masks is None else np.asarray(prediction.masks)[valid],
        task.show_above,
    )


class CocoIds:
    """The ids of images and categories, see the top of this file."""

    def __init__(
        self,
        folder: epath.Path,
        class_names: Sequence[str],
        annotations: str | os.PathLike[str] | None = None,
        things: int | None = None,
    ) -> None:
        """Reads the file or begins one.

        Args:
          folder: of `coco_images.json`.
          class_names: by label.
          annotations: a COCO annotation file (`images` with `id` and `file_name`, `categories`), or None.
          things: how many of the classes, the first ones, are things; None: all.

        Raises:
          SetupError: a file without images, or without any of the classes.
        """
        self.source = None if annotations is None else os.fspath(annotations)
        self._listed: JsonList | None = None
        if self.source is not None:
            self._images, self.categories = _ids_of(self.source, class_names)
            return
        self.categories = tuple(range(1, len(class_names) + 1))
        things = len(class_names) if things is None else things
        described = [
            {"id": i + 1, "name": name, "supercategory": "", "isthing": int(i < things)}
            for i, name in enumerate(class_names)
        ]
        head = {"info": {"description": "predicted by jaxvision"}, "categories": described, "annotations": []}
        self._listed = JsonList(folder / "coco_images.json", head, "images")

    def of(self, sample: Mapping[str, Any]) -> Any:
        """The id of an image; `sample` is that of `engine.task.ResultFiles`.

        Raises:
          SetupError: the annotation file does not have it.
        """
        if self._listed is None:
            name = os.path.basename(str(sample["file"]))
            if name not in self._images or "frame" in sample:
                raise SetupError(f"image {sample['file']!r} is not among the `images` of {self.source}")
            return self._images[name]
        height, width = (int(side) for side in sample["original_size"])
        frame = {"frame": sample["frame"]} if "frame" in sample else {}
        number = self._listed.count + 1
        self._listed.add({"id": number, "file_name": str(sample["file"]), **frame, "height": height, "width": width})
        return number

    def close(self) -> tuple[str, ...]:
        """Completes `coco_images.json`; returns its name if there is one."""
        if self._listed is None:
            return ()
        self._listed.close()
        return (self._listed.path.name,)


class CocoResults:
    """`coco_results.json`, see the top of this file."""

    def __init__(self, folder: epath.Path, task: Any, ids: CocoIds) -> None:
        """`task` has `found`."""
        self._rows = JsonList(folder / "coco_results.json")
        self._task, self._ids, self._unknown = task, ids, 0

    def add(self, sample: Mapping[str, Any], prediction: Detections) -> dict[str, Any]:
        image = self._ids.of(sample)
        self.add_objects(image, self._task.found(sample, prediction))
        return {"image_id": image}

    def add_objects(self, image: Any, found: FoundObjects) -> None:
        """Writes the detections of the image with this id."""
        runs = found.segmentations()
        sides = np.concatenate([found.boxes[:, :2], found.boxes[:, 2:] - found.boxes[:, :2]], axis=1)
        for i, (label, score, box) in enumerate(zip(found.labels, found.scores, sides, strict=True)):
            category = self._ids.categories[int(label)]
            if category is None:
                self._unknown += 1
                continue
            row = {"image_id": image, "category_id": category, "bbox": [round(float(x), 3) for x in box]}
            self._rows.add(row | {"score": round(float(score), 6)} | ({"segmentation": runs[i]} if runs else {}))

    def close(self) -> Sequence[str]:
        self._rows.close()
        lost = f" (without {self._unknown} of classes that {self._ids.source} does not have)" if self._unknown else ""
        return (f"{self._rows.path.name}{lost}", *self._ids.close())


def _ids_of(path: str, class_names: Sequence[str]) -> tuple[dict[str, Any], tuple[Any, ...]]:
    """Name of each file -> its id, and the id of each class, None where the file does not have it."""
    try:
        document = json.loads(epath.Path(path).read_text())
        images = {os.path.basename(image["file_name"]): image["id"] for image in document["images"]}
        ids = {category["name"]: category["id"] for category in document["categories"]}
    except (ValueError, KeyError, TypeError) as error:
        expected = "expected JSON with `images` (`id`, `file_name`) and `categories` (`id`, `name`), as COCO has them"
        raise SetupError(f"annotations {path!r}: {type(error).__name__}: {error}; {expected}") from error
    categories = tuple(ids.get(name) for name in class_names)
    if all(category is None for category in categories):
        raise SetupError(
            f"annotations {path!r} have none of the model's classes ({', '.join(class_names[:5])}, ...) but "
            f"{', '.join(list(ids)[:5])}, ..."
        )
    return images, categories
