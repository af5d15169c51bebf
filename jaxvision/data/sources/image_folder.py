"""A folder of images for each class."""

from typing import Any

import numpy as np

from jaxvision.data.faults import DataError, Faults
from jaxvision.data.files import directory, entries, list_images
from jaxvision.data.sources.memory import check_split
from jaxvision.data.table import Table
from jaxvision.data.wrappers import holdout

VALIDATION_NAMES = ("val", "validation", "valid", "test")
"""How folders of a validation part are called, in the order in which they are looked for."""


def image_folder(path: str, train: str = "train", validation: str | None = None, *, split: str) -> Table:
    """A table with one `label` per image: the name of the folder that it lies in, or below.

    Args:
      path: holds folders for the parts with folders for the classes in them, or folders for the classes.
      train: name of the folder of the training part.
      validation: name of the folder of the validation part; None takes `val`, `validation`, `valid` or `test`,
        whichever is there first.
      split: "train" or "validation".

    Classes are the sorted names of the class folders of both parts. Without folders for the parts, or without one for
    validation, a fixed fifth of each class is the validation part.

    Raises:
      DataError: no such folder, no class folder, no image. Other files, images beside the class folders and empty
        class folders are counted in a `DataWarning`.
    """
    check_split(split)
    root = directory(path, "folders of images, one for each class")
    folders = entries(root)[1]
    if train in folders:
        found = [validation] if validation is not None else [name for name in VALIDATION_NAMES if name in folders]
        if validation is not None and validation not in folders:
            raise DataError(f"there is no folder {validation!r} in {str(root)!r}, which holds {', '.join(folders)}")
        parts = {"train": root / train, "validation": root / found[0] if found else None}
    else:
        parts = {"train": root, "validation": None}
    names = sorted({name for part in parts.values() if part is not None for name in entries(part)[1]})
    if not names:
        where = str(parts["train"])
        beside = f"; {len(list_images(where))} images lie in it directly" if entries(where)[0] else ""
        raise DataError(f"{where!r} holds no folder; expected one folder of images for each class{beside}")
    part = parts[split] or parts["train"]
    table = _read(str(part), names, f"image_folder:{root}")
    return table if parts["validation"] is not None else holdout(table, split)


def _read(part: str, names: list[str], title: str) -> Table:
    faults = Faults(part)
    top, own = entries(part)
    faults.extend("file(s) not used, beside the class folders", len(top), map(repr, top))
    files: list[str] = []
    labels: list[int] = []
    for name in own:
        images = list_images(f"{part}/{name}", faults)
        if not images:
            faults.add("class folder(s) without an image", repr(name))
        files += [f"{part}/{name}/{image}" for image in images]
        labels += [names.index(name)] * len(images)
    if not files:
        raise DataError(f"{part!r} holds no image in {len(own)} folders ({faults})")
    faults.warn()
    columns: dict[str, Any] = {
        "file": np.array(files, object),
        "id": np.array([file[len(part) + 1 :] for file in files], object),
        "label": np.array(labels, np.int32),
    }
    return Table(title, tuple(names), columns)
