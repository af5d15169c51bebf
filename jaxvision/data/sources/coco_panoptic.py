"""The panoptic format of COCO (Kirillov et al. 2019): a PNG per image, whose segments a JSON file describes."""

from typing import Any

import numpy as np

from jaxvision.data.faults import DataError, Faults
from jaxvision.data.files import as_path, directory, locate
from jaxvision.data.sources.coco import ImageList, class_labels, indices, numbers, read_document
from jaxvision.data.sources.memory import check_split
from jaxvision.data.table import Ragged, Table
from jaxvision.data.wrappers import holdout


def coco_panoptic(
    images: str,
    annotations: str,
    eval_images: str | None = None,
    eval_annotations: str | None = None,
    segments: str | None = None,
    eval_segments: str | None = None,
    *,
    split: str,
) -> Table:
    """A table with `panoptic` maps, the class of each segment, and which classes are things (`isthing`).

    Classes of things come first, then those of stuff, each in the order of their ids (COCO's ids are so already).

    Args:
      images: folder of the training images.
      annotations: JSON file of the training part.
      eval_images: folder of the validation images; None: `images`.
      eval_annotations: JSON file of the validation part; None: a fixed fifth of `annotations`.
      segments: folder of the PNG files; None: the name of the JSON file without `.json`, as COCO has it.
      eval_segments: the same of the validation part.
      split: "train" or "validation".

    Raises:
      DataError: as of `coco`. Images without segments or PNG and single bad segments are left out and counted in a
        `DataWarning`.
    """
    check_split(split)
    training = split == "train" or eval_annotations is None
    path = annotations if training else eval_annotations
    assert path is not None
    document = read_document(path)
    folder = directory(images if training else eval_images or images, "the images of COCO annotations")
    given = segments if training else eval_segments
    png_folder = directory(given or str(as_path(path)).removesuffix(".json"), "the PNG files of panoptic annotations")
    faults = Faults(str(path))
    names, label_of = class_labels(document, path, None if training else annotations)
    things = {c["name"]: bool(c.get("isthing", 1)) for c in document["categories"]}
    before, names = names, tuple(sorted(names, key=lambda name: not things.get(name, True)))
    label_of = {key: names.index(before[label]) for key, label in label_of.items()}
    listed = ImageList.read(document, path, folder, faults, warn_unused=False)
    records, rows = _records(document["annotations"], listed, path, faults)
    files = locate(png_folder, [record["file_name"] for record in records])
    missing = [i for i, file in enumerate(files) if file is None]
    faults.extend(
        f"image(s) left out, PNG not found in {str(png_folder)!r}",
        len(missing),
        (repr(records[i]["file_name"]) for i in missing),
    )
    there = np.array([i for i, file in enumerate(files) if file is not None], np.int64)
    faults.require(len(there), len(files), "images")
    columns: dict[str, Any] = {key: column[rows[there]] for key, column in listed.columns().items()}
    columns["panoptic_file"] = np.array([files[i] for i in there], object)
    columns |= _segments([records[i] for i in there], label_of, faults)
    faults.warn()
    table = Table(f"coco_panoptic:{path}", names, columns, things=tuple(things.get(name, True) for name in names))
    return table if eval_annotations is not None else holdout(table, split)


def _records(annotations: list[Any], listed: ImageList, path: str, faults: Faults) -> tuple[list[dict], np.ndarray]:
    """The usable annotations, one per image, with the rows of their images."""
    good = [
        isinstance(a, dict) and isinstance(a.get("file_name"), str) and isinstance(a.get("segments_info"), list)
        for a in annotations
    ]
    if annotations and not any(good):
        raise DataError(
            f"{str(path)!r}: no annotation has `file_name` and `segments_info`; expected COCO panoptic annotations "
            "(for boxes and polygons take the source 'coco')"
        )
    bad = [i for i, fine in enumerate(good) if not fine]
    faults.extend("annotation(s) left out without `file_name` or `segments_info`", len(bad), (f"[{i}]" for i in bad))
    records = [a for a, fine in zip(annotations, good, strict=True) if fine]
    rows = indices(listed.row_of, [record.get("image_id") for record in records], unknown=-2)
    unknown = np.flatnonzero(rows == -2)
    faults.extend(
        "annotation(s) left out of an image id that the file does not list",
        len(unknown),
        (repr(records[i]["file_name"]) for i in unknown),
    )
    first = np.zeros(len(rows), bool)
    first[np.unique(rows, return_index=True)[1]] = True
    twice = np.flatnonzero((rows >= 0) & ~first)
    if len(twice):
        raise DataError(f"{str(path)!r}: two annotations of the image id {records[twice[0]].get('image_id')!r}")
    kept = np.flatnonzero(rows >= 0)
    bare = len(listed.files) - len(kept)
    faults.extend("image(s) left out without annotation", bare, ())
    faults.require(len(kept), len(listed.files), "images")
    return [records[i] for i in kept], rows[kept]


def _segments(records: list[dict], label_of: Any, faults: Faults) -> dict[str, Ragged]:
    """The columns with one row per segment."""
    flat = [(i, s) for i, record in enumerate(records) for s in record["segments_info"] if isinstance(s, dict)]
    images = np.array([i for i, _ in flat], np.int64)
    ids = numbers([(s.get("id"),) for _, s in flat], 1)[:, 0]
    labels = indices(label_of, [s.get("category_id") for _, s in flat], unknown=-1)
    crowd = np.array([s.get("iscrowd") in (1, True) for _, s in flat], bool)
    kept = np.ones(len(flat), bool)
    checks = (
        ("whose id is not in 1..16777215", (ids >= 1) & (ids < 2**24) & (ids == np.floor(ids))),
        ("of an unknown category id", labels >= 0),
    )
    for what, good in checks:
        bad = np.flatnonzero(kept & ~good)
        faults.extend(
            f"segment(s) left out {what}",
            len(bad),
            (f"{flat[i][1].get('id')!r:.40} of {records[images[i]]['file_name']!r}" for i in bad),
        )
        kept &= good
    faults.require(int(kept.sum()), len(flat), "segments")
    splits = np.concatenate([[0], np.cumsum(np.bincount(images[kept], minlength=len(records)))]).astype(np.int64)
    columns: dict[str, np.ndarray] = {
        "segment_ids": ids[kept].astype(np.int64),
        "segment_labels": labels[kept].astype(np.int32),
        "segment_crowd": crowd[kept],
    }
    return {key: Ragged(values, splits) for key, values in columns.items()}
