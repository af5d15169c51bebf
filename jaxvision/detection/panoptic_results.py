"""What panoptic models found, as people use it and as COCO's panoptic format holds it.

`panoptic.json` has the `annotations` of that format (`image_id`, `file_name`, `segments_info`), each with a PNG in the
folder `panoptic`, whose pixels are the segments' ids: red + 256 green + 65536 blue (Kirillov et al. 2019). The things
are also in `coco_results.json`; ids are those of `results`.
"""

import dataclasses
import io
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image

from jaxvision.data.json_list import JsonList
from jaxvision.detection.results import CocoIds, CocoResults, FoundObjects
from jaxvision.structures import PanopticSegments

TOLD = ("id", "isthing", "iscrowd", "area", "bbox", "score")
"""Keys of a segment that are those of `PanopticTask.to_json`."""


@dataclasses.dataclass(frozen=True, eq=False)
class FoundSegments:
    """The segments of an image.

    Attributes:
      panoptic: id of the segment of each pixel of the original image; 0: none.
      ids: of the segments.
      labels: 0-based class of each.
      names: of the classes.
      things: which segments are things.
      scores: of the things, 0..1; NaN for stuff.
      objects: the things as they were detected, before pixels were given to one of them.
    """

    panoptic: Int[np.ndarray, "H W"]
    ids: Int[np.ndarray, " s"]
    labels: Int[np.ndarray, " s"]
    names: tuple[str, ...]
    things: Bool[np.ndarray, " s"]
    scores: Float[np.ndarray, " s"]
    objects: FoundObjects

    def __len__(self) -> int:
        return len(self.ids)

    def __str__(self) -> str:
        counts = {name: self.names.count(name) for name in self.names}
        return f"{len(self)} segments: " + ", ".join(f"{count} {name}" for name, count in counts.items())

    def mask(self, i: int) -> Bool[np.ndarray, "H W"]:
        """Pixels of the segment of row `i`."""
        return self.panoptic == self.ids[i]


class PanopticFiles:
    """`panoptic.json`, its PNG files and `coco_results.json`."""

    def __init__(self, folder: epath.Path, task: Any, annotations: str | os.PathLike[str] | None = None) -> None:
        """`task` is a `PanopticTask`; for `annotations` see `results.CocoIds`."""
        self._task = task
        self._ids = CocoIds(folder, [task.name_of(i) for i in range(task.num_classes)], annotations, task.num_things)
        self._things = CocoResults(folder, task, self._ids)
        self._rows = JsonList(folder / "panoptic.json", {}, "annotations")
        self._folder = folder / "panoptic"
        self._folder.mkdir(parents=True, exist_ok=True)

    def add(self, sample: Mapping[str, Any], prediction: PanopticSegments) -> dict[str, Any]:
        image = self._ids.of(sample)
        found: FoundSegments = self._task.found(sample, prediction)
        name = f"{sample['name']}.png"
        buffer = io.BytesIO()
        Image.fromarray(colors_of_ids(found.panoptic)).save(buffer, "PNG")
        (self._folder / name).write_bytes(buffer.getvalue())
        told = self._task.to_json(sample, prediction)["segments_info"]
        categories = [self._ids.categories[segment["category_id"]] for segment in told]
        segments = [
            {"category_id": category, **{key: segment[key] for key in TOLD if key in segment}}
            for category, segment in zip(categories, told, strict=True)
            if category is not None
        ]
        self._rows.add({"image_id": image, "file_name": name, "segments_info": segments})
        self._things.add_objects(image, found.objects)
        return {"image_id": image, "panoptic": f"panoptic/{name}"}

    def close(self) -> Sequence[str]:
        self._rows.close()
        return ("panoptic.json", f"panoptic/ ({self._rows.count} PNG)", *self._things.close())


def colors_of_ids(ids: Int[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """The pixels of COCO's panoptic PNG."""
    return np.stack([ids & 255, (ids >> 8) & 255, (ids >> 16) & 255], axis=-1).astype(np.uint8)
