"""Which format a folder of data is in, and the config of the source that reads it.

Only names are looked at, and the heads of a few small files: a folder of a million images takes seconds.
"""

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from etils import epath

from jaxvision.data.archives import is_archive, unpack
from jaxvision.data.faults import DataError
from jaxvision.data.files import as_path, entries, read_bytes
from jaxvision.data.recognise.coco import coco
from jaxvision.data.recognise.folder import (
    EVAL_NAMES,
    IMAGE_NAMES,
    MASK_NAMES,
    TRAIN_NAMES,
    Folder,
    Recognised,
    name_like,
    parts_note,
)
from jaxvision.data.recognise.masks import image_mask
from jaxvision.data.sources.image_folder import VALIDATION_NAMES

__all__ = ["Recognised", "recognise"]


def recognise(folder: epath.PathLike) -> Recognised:
    """The format of a folder, of an archive (which is unpacked), or of an `.npz` or `data.yaml` file.

    Raises:
      DataError: nothing of that name, or no format fits; says what was found and what each format needs.
    """
    path = as_path(folder)
    if is_archive(path) and not path.is_dir():
        path = epath.Path(unpack(path))
    if not path.exists():
        raise DataError(f"there is no file or folder {str(path)!r}")
    if not path.is_dir():
        if path.suffix == ".npz":
            return _npz(path)
        if path.suffix in (".yaml", ".yml"):
            return Recognised("yolo", {"name": "yolo", "path": str(path)}, "YOLO, by its data.yaml.")
        raise DataError(f"{str(path)!r} is a file; expected a folder, an archive, an .npz file or a data.yaml")
    found: list[Recognised] = []
    root = Folder.at(path)
    for attempt in _ATTEMPTS:
        result = attempt(root)
        if result is not None:
            found.append(result)
    if not found:
        if len(root.folders) == 1 and not root.images:  # one folder more around it
            with contextlib.suppress(DataError):
                return recognise(path / root.folders[0])
        raise DataError(_nothing_fits(root))
    first, others = found[0], [one for one in found[1:] if one.format != found[0].format]
    if others:
        also = "; or ".join(f"{one.format}: data.source = {_shown(one.source)}" for one in others)
        first = dataclasses.replace(first, note=f"{first.note} It could also be read as {also}.")
    return first


def _shown(source: dict[str, Any]) -> str:
    return f"dict({', '.join(f'{key}={value!r}' for key, value in source.items())})"


def _nothing_fits(root: Folder) -> str:
    def some(names: tuple[str, ...]) -> str:
        return ", ".join(names[:6]) + (f", ... ({len(names)})" if len(names) > 6 else "") if names else "none"

    return (
        f"the format of {str(root.path)!r} was not recognised. It holds folders: {some(root.folders)}; files: "
        f"{some(root.files)}. Expected one of\n"
        "  coco: annotations/*.json and folders of images, or train/_annotations.coco.json with the images beside it\n"
        "  voc: Annotations/*.xml and JPEGImages, or VOCdevkit/VOC2007 with them\n"
        "  yolo: data.yaml, or images and labels with a .txt for each image\n"
        "  image_folder: train and val with a folder of images for each class, or the class folders alone\n"
        "  image_mask: images and masks (or train and trainannot) with PNG label maps of the same names\n"
        "  idx: train-images-idx3-ubyte and the other three files of MNIST\n"
        "  npz: one .npz file with x_train, y_train, x_test, y_test\n"
        "or set data.source in a config yourself"
    )


def _voc(root: Folder) -> Recognised | None:
    if "VOCdevkit" in root.folders:
        return _voc(root.inner("VOCdevkit"))
    years = tuple(name for name in root.folders if name.startswith("VOC") and name[3:].isdecimal())
    if years and "Annotations" not in root.folders:
        found = [(year, _voc(root.inner(year))) for year in years]
        usable = [(year, one) for year, one in found if one is not None]
        if not usable:
            return None
        year, first = usable[-1]
        others = [name for name, _ in usable[:-1]]
        more = f" {', '.join(others)} can be joined with the source 'concatenate'." if others else ""
        return dataclasses.replace(first, note=f"{first.note} Taken: {year}.{more}")
    if not {"Annotations", "JPEGImages"} <= set(root.folders):
        return None
    files = [name for name in entries(root.path / "Annotations")[0] if name.endswith(".xml")]
    if not files:
        return None
    source: dict[str, Any] = {"name": "voc", "path": str(root.path)}
    main = root.path / "ImageSets" / "Main"
    lists = tuple(name.removesuffix(".txt") for name in entries(main)[0] if "_" not in name)
    if main.is_dir():
        train = next((name for name in ("train", "trainval") if name in lists), None)
        validation = next((n for n in EVAL_NAMES if n in lists and not (n == "val" and train == "trainval")), None)
        if train is None or validation is None:
            listed = ", ".join(lists) or "none"
            raise DataError(f"{str(main)!r} needs train.txt and val.txt; its lists are: {listed}")
        source |= {"train": train, "validation": validation}
        note = parts_note(f"{train}.txt", f"{validation}.txt")
    else:
        note = parts_note("all images", None)
    zero = _counts_from_zero(root.path / "Annotations", files)
    if zero is not None:
        source["one_based"] = False
        note += f" Coordinates count from 0, not from 1 as in Pascal VOC ({zero} has a 0)."
    return Recognised("voc", source, f"Pascal VOC XML: {note}")


def _counts_from_zero(folder: epath.Path, files: list[str]) -> str | None:
    """One of up to a hundred files in which a box begins at 0."""
    from jaxvision.data.sources.voc import parse_voc

    for i in np.unique(np.linspace(0, len(files) - 1, min(100, len(files))).astype(int)):
        try:
            objects = parse_voc(read_bytes(folder / files[i], "a VOC annotation"))["objects"]
        except DataError:
            continue
        if any(left == 0 or top == 0 for _, _, left, top, _, _ in objects):
            return files[i]
    return None


def _yolo(root: Folder) -> Recognised | None:
    yaml_files = [name for name in root.files if name.endswith((".yaml", ".yml"))]
    for name in sorted(yaml_files, key=lambda n: n != "data.yaml"):
        text = read_bytes(root.path / name, "data.yaml").decode("utf-8", "replace")
        lines = [line.split(":")[0].strip() for line in text.splitlines()]
        if "train" in lines and ("names" in lines or "nc" in lines):
            source = {"name": "yolo", "path": str(root.path / name)}
            return Recognised("yolo", source, f"YOLO, by {name}, which names the parts and the classes.")
    if {"images", "labels"} <= set(root.folders):
        where = root.inner("labels")
        train = name_like(where.folders, TRAIN_NAMES)
        files = where.inner(train).files if train else where.files
        validation = name_like(where.folders, EVAL_NAMES) if train else None
    else:
        train = "train" if "train" in root.folders else None
        inner = root.inner(train) if train else root
        if not {"images", "labels"} <= set(inner.folders):
            return None
        files = inner.inner("labels").files
        validation = next((name for name in VALIDATION_NAMES if name in root.folders), None)
    if not any(name.endswith(".txt") for name in files):
        return None
    note = f"YOLO text files: {parts_note(train or 'all images', validation)}"
    if not (root.path / "classes.txt").exists():
        note += " Classes are numbered: write their names into data.yaml or classes.txt."
    return Recognised("yolo", {"name": "yolo", "path": str(root.path)}, note)


def _image_folder(root: Folder) -> Recognised | None:
    def classes(where: Folder) -> list[str]:
        return [name for name in where.folders if where.inner(name).images]

    if "train" in root.folders:
        own = classes(root.inner("train"))
        if not own:
            return None
        validation = next((name for name in VALIDATION_NAMES if name in root.folders), None)
        note = parts_note("train", validation)
    else:
        parts = {*TRAIN_NAMES, *EVAL_NAMES, *IMAGE_NAMES, *MASK_NAMES, "annotations", "Annotations"}
        own = [name for name in classes(root) if name not in parts]
        if len(own) < 2:
            return None
        note = parts_note("all images", None)
    shown = ", ".join(own[:5]) + (", ..." if len(own) > 5 else "")
    return Recognised(
        "image_folder", {"name": "image_folder", "path": str(root.path)}, f"{len(own)} class folders ({shown}): {note}"
    )


def _idx(root: Folder) -> Recognised | None:
    if not any(name.startswith("train-images") and "idx3" in name for name in root.files):
        return None
    return Recognised("idx", {"name": "idx", "directory": str(root.path)}, "The IDX files of MNIST.")


def _npz_in(root: Folder) -> Recognised | None:
    files = [name for name in root.files if name.endswith(".npz")]
    return _npz(root.path / files[0]) if len(files) == 1 else None


def _npz(path: epath.Path) -> Recognised:
    with path.open("rb") as stream:
        try:
            with np.load(stream, allow_pickle=False) as archive:
                keys = set(archive.files)
        except Exception as error:  # damaged archives fail in many ways
            raise DataError(f"{str(path)!r} is no archive of numpy.savez: {error}") from error
    source = {"name": "npz", "path": str(path)}
    for images, labels in (("x_{split}", "y_{split}"), ("{split}_images", "{split}_labels")):
        if {images.format(split="train"), labels.format(split="train")} <= keys:
            if images != "x_{split}":
                source |= {"image_key": images, "label_key": labels}
            return Recognised("npz", source, f"numpy arrays {', '.join(sorted(keys))}.")
    listed = ", ".join(sorted(keys)) or "nothing"
    raise DataError(f"{str(path)!r} holds {listed}; expected x_train, y_train, x_test, y_test (or train_images, ...)")


# The most telling first: what an image folder looks like, others may too.
_ATTEMPTS: tuple[Callable[[Folder], Recognised | None], ...] = (
    *(coco, _voc, _yolo, image_mask, _idx, _npz_in, _image_folder),
)
