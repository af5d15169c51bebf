"""Boxes in the XML format of Pascal VOC (Everingham et al. 2010), which labelImg and many tools write.

The file counts pixels from 1 and names the last one inside; here boxes run from the left edge of the first column to
the right edge of the last: xmin - 1, ymin - 1, xmax, ymax.
"""

from collections.abc import Iterator, Sequence
from typing import Any
from xml.parsers import expat

import numpy as np
from etils import epath

from jaxvision.data.faults import DataError, Faults
from jaxvision.data.files import IMAGE_SUFFIXES, directory, entries, read_bytes, read_lines
from jaxvision.data.sources.coco import LARGEST_COORDINATE
from jaxvision.data.sources.memory import check_split
from jaxvision.data.table import Ragged, Table
from jaxvision.data.wrappers import holdout

_SEPARATOR = "/"
_DEEPEST = 64


def voc(
    path: str,
    train: str = "train",
    validation: str = "val",
    masks: bool = False,
    one_based: bool = True,
    *,
    split: str,
) -> Table:
    """A table with boxes; objects that are `difficult` are `crowd`. Classes are the sorted names in both parts.

    Args:
      path: holds `Annotations`, `JPEGImages` and, unless all images are one part, `ImageSets/Main`.
      train: `ImageSets/Main/{train}.txt` lists the training images, one name without suffix per line.
      validation: the same of the validation part. Without the lists a fixed fifth of all images is the validation part.
      masks: the objects' masks from `SegmentationObject`, for the images that have one there (and, of these parts'
        lists, those in `ImageSets/Segmentation`).
      one_based: whether coordinates count from 1, as those of Pascal VOC do; some tools write them from 0.
      split: "train" or "validation".

    Raises:
      DataError: a missing folder or list, nothing usable. Single bad files and objects are left out and counted in a
        `DataWarning`.
    """
    check_split(split)
    root = directory(path, "Annotations and JPEGImages")
    annotations = directory(root / "Annotations", "the XML files of Pascal VOC")
    images = directory(root / "JPEGImages", "the images of Pascal VOC")
    faults = Faults(str(root))
    sets = root / "ImageSets" / ("Segmentation" if masks else "Main")
    parts = {"train": train, "validation": validation}
    listed = sets.is_dir()
    if listed:
        lists = {part: _read_list(sets, name) for part, name in parts.items()}
    else:
        everything = [name.removesuffix(".xml") for name in entries(annotations)[0] if name.endswith(".xml")]
        if not everything:
            raise DataError(f"{str(annotations)!r} holds no .xml file")
        lists = {"train": everything}
    own = "train" if not listed else split
    records: list[dict[str, Any]] = []
    names: set[str] = set()
    for part, stems in lists.items():
        # Classes are those of both parts; the faults of the other one are told when that is read.
        for record in _read_files(annotations, stems, faults if part == own else Faults("")):
            names.update(name for name, *_ in record["objects"])
            if part == own:
                records.append(record)
    faults.require(len(records), len(lists[own]), "annotation files")
    if not names:
        raise DataError(f"{str(annotations)!r}: no object in {len(records)} files")
    table = _table(f"voc:{root}", root, images, records, sorted(names), masks, one_based, faults, listed)
    faults.warn()
    return table if listed else holdout(table, split)


def _read_list(folder: epath.Path, name: str) -> list[str]:
    """Names of a list; what may follow a name in its line (1 or -1 of a class list) is not used."""
    lines = read_lines(folder / f"{name}.txt", "a list of image names")
    return list(dict.fromkeys(line.split()[0] for line in lines))


def _read_files(folder: epath.Path, stems: Sequence[str], faults: Faults) -> Iterator[dict[str, Any]]:
    for stem in stems:
        file = folder / f"{stem}.xml"
        try:
            record = parse_voc(read_bytes(file, "a VOC annotation"))
        except DataError as error:
            what = "no such file" if not file.exists() else " ".join(str(error).split())
            faults.add("annotation file(s) left out", f"{stem}.xml: {what[:200]}")
            continue
        yield record | {"stem": stem}


def parse_voc(content: bytes) -> dict[str, Any]:
    """One annotation file: `filename`, `size` (height, width; zeros if not given), and `objects`, each a tuple of name,
    difficult, and the four numbers of its box as they stand (NaN for what is no number).

    A document type declaration, which could define entities that expand without end, is refused.

    Raises:
      DataError: not XML, cut short, or not a VOC annotation.
    """
    parser = expat.ParserCreate()
    path: list[str] = []
    text: list[str] = []
    values: dict[str, str] = {}
    objects: list[dict[str, str]] = []

    def refuse(*_: Any) -> None:
        raise DataError("it declares a document type, which no annotation needs")

    def start(tag: str, _: Any) -> None:
        path.append(tag)
        if len(path) > _DEEPEST:
            raise DataError(f"elements nest deeper than {_DEEPEST}")
        if path == ["annotation", "object"]:
            objects.append({})
        text.clear()

    def end(_: str) -> None:
        where = _SEPARATOR.join(path[1:])
        if where.startswith("object/"):
            objects[-1].setdefault(where[len("object/") :], "".join(text).strip())
        else:
            values.setdefault(where, "".join(text).strip())
        path.pop()
        text.clear()

    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, text.append
    try:
        parser.Parse(content, True)
    except expat.ExpatError as error:
        raise DataError(f"not valid XML: {error}") from error
    except (LookupError, ValueError) as error:  # an encoding that is not known
        raise DataError(f"not readable XML: {error}") from error
    if "" not in values or not ({"filename", "size", "folder"} & values.keys() or objects):
        raise DataError("not a VOC annotation: <annotation> with <object>, <size> or <filename> was expected")
    return {
        "filename": values.get("filename", ""),
        "size": tuple(_side(values.get(f"size/{side}", "")) for side in ("height", "width")),
        "objects": [
            (
                o.get("name", ""),
                o.get("difficult", "0") in ("1", "true", "True"),
                *(_number(o.get(f"bndbox/{key}", "")) for key in ("xmin", "ymin", "xmax", "ymax")),
            )
            for o in objects
        ],
    }


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _side(text: str) -> int:
    number = _number(text)
    return int(number) if 1 <= number <= LARGEST_COORDINATE else 0


def _table(
    title: str,
    root: epath.Path,
    images: epath.Path,
    records: list[dict[str, Any]],
    names: list[str],
    masks: bool,
    one_based: bool,
    faults: Faults,
    listed: bool,
) -> Table:
    files = _image_files(images, records, faults, warn_unused=not listed)
    instances = _instance_files(root, records, faults) if masks else dict.fromkeys(range(len(records)), "")
    chosen = [i for i in range(len(records)) if i in files and i in instances]
    faults.require(len(chosen), len(records), "images")
    label_of = {name: label for label, name in enumerate(names)}
    rows: dict[str, list[Any]] = {"boxes": [], "labels": [], "crowd": [], "instance_values": []}
    total = 0
    for i in chosen:
        kept = list(_usable_objects(records[i], faults))
        total += len(records[i]["objects"])
        shift = np.array([1, 1, 0, 0]) if one_based else np.zeros(4)
        rows["boxes"].append([np.array(box) - shift for _, _, _, box in kept])
        rows["labels"].append([label_of[name] for _, name, _, _ in kept])
        rows["crowd"].append([difficult for _, _, difficult, _ in kept])
        rows["instance_values"].append([number for number, _, _, _ in kept])
    faults.require(sum(map(len, rows["labels"])), total, "objects")
    columns: dict[str, Any] = {
        "file": np.array([files[i] for i in chosen], object),
        "id": np.array([records[i]["stem"] for i in chosen], object),
        "size": np.array([records[i]["size"] for i in chosen], np.int32),
        "boxes": Ragged.of(rows["boxes"], np.float32, (4,)),
        "labels": Ragged.of(rows["labels"], np.int32),
        "crowd": Ragged.of(rows["crowd"], bool),
    }
    if masks:
        columns["instance_file"] = np.array([instances[i] for i in chosen], object)
        columns["instance_values"] = Ragged.of(rows["instance_values"], np.int32)
    return Table(title, tuple(names), columns)


def _usable_objects(record: dict[str, Any], faults: Faults) -> Iterator[tuple[int, str, bool, tuple[float, ...]]]:
    """(number from 1, name, difficult, box) of the objects with a proper box."""
    height, width = record["size"]
    for number, (name, difficult, *box) in enumerate(record["objects"], 1):
        left, top, right, bottom = box
        where = f"{number} of {record['stem']}.xml"
        if not name:
            faults.add("object(s) left out without a name", where)
        elif not all(abs(value) <= LARGEST_COORDINATE for value in box):
            faults.add("object(s) left out whose box is not four finite numbers", where)
        elif right <= left or bottom <= top:
            faults.add("object(s) left out whose box has no width or height", where)
        elif right <= 0 or bottom <= 0 or (height and width and (left > width or top > height)):
            faults.add("object(s) left out whose box is outside of its image", where)
        else:
            yield number, name, difficult, tuple(box)


def _image_files(
    folder: epath.Path, records: list[dict[str, Any]], faults: Faults, *, warn_unused: bool
) -> dict[int, str]:
    """The image of each record, by its stem with any image suffix, else by the `filename` that the record gives."""
    there = entries(folder)[0]
    by_stem = {name.rpartition(".")[0]: name for name in there if name.lower().endswith(IMAGE_SUFFIXES)}
    names, files = set(there), {}
    for i, record in enumerate(records):
        given = record["filename"]
        name = by_stem.get(record["stem"]) or (given if given in names else None)
        if name is None:
            faults.add(f"image(s) left out, not found in {str(folder)!r}", f"of {record['stem']}.xml")
        else:
            files[i] = f"{folder}/{name}"
    if warn_unused:
        used = {file.rpartition("/")[2] for file in files.values()}
        unused = sorted(set(by_stem.values()) - used)
        faults.extend("image(s) in the folder without annotation", len(unused), map(repr, unused))
    return files


def _instance_files(root: epath.Path, records: list[dict[str, Any]], faults: Faults) -> dict[int, str]:
    folder = directory(root / "SegmentationObject", "PNG files with the number of each pixel's object")
    there = set(entries(folder)[0])
    found = {i: f"{folder}/{r['stem']}.png" for i, r in enumerate(records) if f"{r['stem']}.png" in there}
    missing = [record["stem"] for i, record in enumerate(records) if i not in found]
    faults.extend("image(s) left out without a file in SegmentationObject", len(missing), map(repr, missing))
    return found
