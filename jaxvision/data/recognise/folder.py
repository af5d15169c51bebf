"""What the recognition of every format uses: a folder's names, the usual names of parts, the result."""

import dataclasses
from typing import Any

from etils import epath

from jaxvision.data.files import IMAGE_SUFFIXES, entries
from jaxvision.data.sources.image_folder import VALIDATION_NAMES

TRAIN_NAMES = ("train", "training", "trn")
EVAL_NAMES = (*VALIDATION_NAMES, "testing", "dev")
MASK_NAMES = ("masks", "mask", "labels", "label", "annotations", "gts", "gt", "segmentations", "SegmentationClass")
IMAGE_NAMES = ("images", "image", "imgs", "img", "JPEGImages", "input", "inputs", "photos")


@dataclasses.dataclass(frozen=True)
class Recognised:
    """A format.

    Attributes:
      format: "coco", "coco_panoptic", "voc", "yolo", "image_folder", "image_mask", "idx" or "npz".
      source: `dict(name=..., **arguments)` for `config.data.source`.
      note: one or two sentences for the user: what was found, what was assumed, what else it could be.
    """

    format: str
    source: dict[str, Any]
    note: str


@dataclasses.dataclass(frozen=True)
class Folder:
    """A folder with the names in it."""

    path: epath.Path
    files: tuple[str, ...]
    folders: tuple[str, ...]

    @classmethod
    def at(cls, path: epath.Path) -> "Folder":
        files, folders = entries(path)
        return cls(path, tuple(files), tuple(folders))

    def inner(self, name: str) -> "Folder":
        return Folder.at(self.path / name)

    @property
    def images(self) -> tuple[str, ...]:
        return tuple(name for name in self.files if name.lower().endswith(IMAGE_SUFFIXES))


def name_like(names: tuple[str, ...], wanted: tuple[str, ...]) -> str | None:
    """The name that is, or begins or ends with, one of the wanted ones: "train", "train2017", "instances_train"."""
    lower = {name.lower(): name for name in names}
    for word in wanted:
        if word in lower:
            return lower[word]
    for word in wanted:
        near = [name for low, name in lower.items() if low.startswith(word) or low.removesuffix(".json").endswith(word)]
        if near:
            return near[0]
    return None


def parts_note(train: str, validation: str | None) -> str:
    if validation is not None:
        return f"training on {train}, validation on {validation}."
    return f"training on {train}; there is no validation part, so a fixed fifth is held out."
