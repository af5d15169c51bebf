"""The one schema of a sample: what every source gives, every host transform takes and every tool shows.

A sample is a dict; a key is there where the data set has that annotation. Coordinates are pixels of `image`, the left
edge of the first column is 0 and its centre 0.5.

| key | value | what |
|---|---|---|
| `image` | uint8 `[h, w, c]` | decoded by `read_image`, or made |
| `file` | str | where the image lies; a readable name where it lies in no file |
| `id` | int or str | the data set's own id of the image |
| `label` | int, float32 `[classes]` or int32 `[questions]` | the class; 0 and 1 for several; or an answer each |
| `boxes` | float32 `[n, 4]` | left, top, right, bottom of each object |
| `labels` | int32 `[n]` | its class, 0-based |
| `crowd` | bool `[n]` | many objects in one (COCO `iscrowd`), or difficult (VOC): neither hit nor miss |
| `area` | float32 `[n]` | as annotated; else that of the box |
| `masks` | bool `[n, h, w]` | its pixels |
| `keypoints` | float32 `[n, k, 3]` | x, y, visibility (0 not labelled, 1 hidden, 2 visible) |
| `rotated_boxes` | float32 `[n, 5]` | centre x, y, width, height, angle in radians, clockwise as seen |
| `texts` | tuple of n str | transcription of each object |
| `proposals` | float32 `[p, 4]` | regions that may be objects, best first; p of every image; no area: no region |
| `semantic` | uint8 `[h, w]` | class of each pixel, `IGNORED` where there is none |
| `panoptic` | int32 `[h, w]` | number of the segment, from 1; 0 is unlabelled |
| `segment_labels` | int32 `[s]` | class of segment 1, ..., s |
| `segment_crowd` | bool `[s]` | |

A clip has `video` in place of `image`, and a row per track, the same object in all frames; rows of a frame in which
nothing of it is visible are zeros.

| key | value | what |
|---|---|---|
| `video` | uint8 `[t, h, w, c]` | frames |
| `label` | int | the action of the clip |
| `labels` | int32 `[n]` | class of each track |
| `track_ids` | int32 `[n]` | its number, from 1 |
| `present` | bool `[t, n]` | whether anything of it is visible |
| `boxes`, `area`, `masks`, `keypoints`, `rotated_boxes` | `[t, n, ...]` | as above, for each frame |
"""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

Sample = dict[str, Any]
IGNORED = 255
"""Value of a semantic map where no class is given."""

INSTANCE_KEYS = ("boxes", "labels", "crowd", "area", "masks", "keypoints", "rotated_boxes", "texts")
"""One row per object."""
PIXEL_KEYS = ("semantic", "panoptic")
"""One value per pixel."""


@runtime_checkable
class SampleSource(Protocol):
    """A data set with random access to samples of any size.

    Attributes:
      name: what it is called in messages and reports.
      class_names: one name per class.
      annotations: keys of its samples beside `image`, `file` and `id`.
      keypoint_names: one name per keypoint, where there are any.
    """

    name: str
    class_names: tuple[str, ...]
    annotations: tuple[str, ...]
    keypoint_names: tuple[str, ...]

    def __len__(self) -> int: ...

    def sample(self, index: int) -> Sample:
        """Sample `index`, decoded, in the schema above; always new arrays."""
        ...


def empty_instances(annotations: Sequence[str], keypoints: int = 0, size: tuple[int, int] = (0, 0)) -> Sample:
    """The values of an image without objects, for those of `annotations` that have one row per object."""
    values: Sample = {
        "boxes": np.zeros((0, 4), np.float32),
        "labels": np.zeros(0, np.int32),
        "crowd": np.zeros(0, bool),
        "area": np.zeros(0, np.float32),
        "masks": np.zeros((0, *size), bool),
        "keypoints": np.zeros((0, keypoints, 3), np.float32),
        "rotated_boxes": np.zeros((0, 5), np.float32),
        "texts": (),
    }
    return {key: value for key, value in values.items() if key in annotations}
