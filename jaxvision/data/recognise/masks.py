"""Folders of images and of label maps."""

from typing import Any

import numpy as np
from etils import epath

from jaxvision.data.files import entries
from jaxvision.data.images import ImageError, open_image
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

_MASK_ENDINGS = ("annot", "_annot", "_labels", "_masks", "_mask", "_gt", "labels", "masks", "mask")


def image_mask(root: Folder) -> Recognised | None:
    """Label maps in folders beside, around or below those of the images."""
    pairs = _mask_pairs(root)
    if pairs is None:
        return None
    (images, masks), validation = pairs
    first = Folder.at(epath.Path(masks)).images
    suffixes = _suffixes(Folder.at(epath.Path(images)).images, first)
    if suffixes is None or not all(
        name.lower().endswith((".png", ".bmp", ".tif", ".tiff", ".gif")) for name in first[:20]
    ):
        return None
    source: dict[str, Any] = {"name": "image_mask", "images": images, "masks": masks}
    if validation is not None:
        source |= {"eval_images": validation[0], "eval_masks": validation[1]}
    lists = _lists(root) if validation is None else None
    if lists is not None:
        source |= {"train_list": lists[0], "eval_list": lists[1]}
        images, validation = lists[0], (lists[1], "")
    source |= {key: value for key, value in zip(("image_suffix", "mask_suffix"), suffixes, strict=True) if value}
    note = f"Images with label maps: {parts_note(images, validation[0] if validation else None)}"
    values = _binary(masks, first)
    if values:
        source |= {"class_names": ("background", "foreground"), "values": {"0": 0, "255": 1}, "ignore": None}
        return Recognised(
            "image_mask", source, f"{note} The maps hold 0 and 255 only, taken as background and foreground."
        )
    note += (
        " The classes are the values in the maps; set class_names for their names, and ignore for the value without."
    )
    return Recognised("image_mask", source, note)


def _mask_pairs(root: Folder) -> tuple[tuple[str, str], tuple[str, str] | None] | None:
    """((images, masks) of training, of validation) by the names of folders."""
    lower = {name.lower(): name for name in root.folders}
    parts: dict[str, tuple[str, str]] = {}
    for part in (*TRAIN_NAMES, *EVAL_NAMES):  # train + trainannot
        for ending in _MASK_ENDINGS:
            if part in lower and f"{part}{ending}" in lower:
                parts.setdefault(part, (str(root.path / lower[part]), str(root.path / lower[f"{part}{ending}"])))
    image_names = [name for name in IMAGE_NAMES if name in root.folders]
    mask_names = [name for name in MASK_NAMES if name in root.folders and name not in image_names]
    if not parts and image_names and mask_names:
        images, masks = root.inner(image_names[0]), root.inner(mask_names[0])
        for part in images.folders:
            if part in masks.folders:
                parts[part.lower()] = (str(images.path / part), str(masks.path / part))
        if not parts and images.images and masks.images:
            parts["train"] = (str(images.path), str(masks.path))
    for part in root.folders if not parts else ():  # train/images + train/masks
        inner = root.inner(part)
        found = next((name for name in IMAGE_NAMES if name in inner.folders), None)
        mask = next((name for name in MASK_NAMES if name in inner.folders), None)
        if found and mask:
            parts[part.lower()] = (str(inner.path / found), str(inner.path / mask))
    train, validation = name_like(tuple(parts), TRAIN_NAMES), name_like(tuple(parts), EVAL_NAMES)
    if train is None:
        return None
    return parts[train], parts[validation] if validation is not None else None


def _lists(root: Folder) -> tuple[str, str] | None:
    """Text files with the names of both parts."""
    for where in (root.path / "ImageSets" / "Segmentation", root.path / "splits", root.path):
        names = entries(where)[0]
        found = [
            next((n for n in (f"{p}.txt" for p in parts) if n in names), None) for parts in (TRAIN_NAMES, EVAL_NAMES)
        ]
        if None not in found:
            return f"{where}/{found[0]}", f"{where}/{found[1]}"
    return None


def _suffixes(images: tuple[str, ...], masks: tuple[str, ...]) -> tuple[str, str] | None:
    """What has to be left away at the end of both kinds of names, so that most are equal; None if nothing helps."""
    stems = [name.rpartition(".")[0] for name in images]
    others = {name.rpartition(".")[0] for name in masks}
    if not stems or not others:
        return None
    enough = min(len(stems), len(others)) / 2
    if len(others & set(stems)) > enough:
        return "", ""
    for cut in range(len(stems[0]), 0, -1):
        head, tail = stems[0][:cut], stems[0][cut:]
        if head[-1] in "_-.":  # the separator belongs to the endings
            continue
        for other in (other for other in others if other.startswith(head)):
            ending = other[cut:]
            matched = sum(s.endswith(tail) and s[: len(s) - len(tail)] + ending in others for s in stems)
            if matched > enough:
                return tail, ending
    return None


def _binary(folder: str, names: tuple[str, ...]) -> bool:
    found: set[int] = set()
    for name in names[:20]:
        try:
            with open_image(f"{folder}/{name}") as picture:
                if picture.mode not in ("L", "P"):
                    return False
                found |= set(np.unique(np.asarray(picture)).tolist())
        except ImageError:
            continue
    return found == {0, 255}
