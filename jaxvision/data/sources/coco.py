"""Boxes, masks and keypoints in the JSON format of COCO (Lin et al. 2014, https://cocodataset.org/#format-data).

Also that of sets published in its form: LVIS, Objects365, Roboflow's export, pose sets. What differs from the file:
boxes are left, top, right, bottom; classes are the categories in ascending order of their ids, counted from 0.
Keypoints keep the numbers of the file, as the official evaluation does.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Bool, Float, Int

from jaxvision.data import maps
from jaxvision.data.faults import DataError, Faults
from jaxvision.data.files import directory, list_images, locate, read_json, stamp
from jaxvision.data.sources.memory import check_split
from jaxvision.data.table import Ragged, Table
from jaxvision.data.wrappers import holdout

LARGEST_COORDINATE = 2.0**20
"""In pixels: a number beyond is no coordinate, and a polygon through it would take gigabytes to draw."""

Record = dict[str, Any]


def coco(
    images: str,
    annotations: str,
    eval_images: str | None = None,
    eval_annotations: str | None = None,
    masks: bool = False,
    keypoints: bool = False,
    *,
    split: str,
) -> Table:
    """A table with boxes; with masks and keypoints where asked.

    Args:
      images: folder of the training images; `file_name` is relative to it.
      annotations: JSON file of the training part.
      eval_images: folder of the validation images; None: `images`.
      eval_annotations: JSON file of the validation part; None: a fixed fifth of `annotations`.
      masks: read `segmentation` (polygons, run lengths plain or compressed); objects without are left out.
      keypoints: read `keypoints`; objects without have zeros.
      split: "train" or "validation".

    The classes are those of the training file, without supercategories that have no object of their own; categories of
    the validation file are matched by name.

    Raises:
      DataError: a missing, empty or invalid file, a list or a key that is missing, two images of one id, or nothing
        usable. Single bad objects and missing images are left out and counted in a `DataWarning`.
    """
    check_split(split)
    training = split == "train" or eval_annotations is None
    path = annotations if training else eval_annotations
    assert path is not None
    own_folder = eval_annotations is not None and eval_images is not None and eval_images != images
    folder = directory(images if training else eval_images or images, "the images of COCO annotations")
    document = read_document(path)
    faults = Faults(str(path))
    names, label_of = class_labels(document, path, None if training else annotations)
    listed = ImageList.read(document, path, folder, faults, warn_unused=own_folder or eval_annotations is None)
    columns = listed.columns()
    keypoint_names: tuple[str, ...] = ()
    if keypoints:
        keypoint_names = _keypoint_names(document, path)
        if not keypoint_names:
            raise DataError(f"{str(path)!r}: no category lists `keypoints`; set keypoints=False")
    columns |= _objects(document, listed, label_of, masks, len(keypoint_names), faults)
    faults.warn()
    table = Table(f"coco:{path}", names, columns, keypoint_names)
    return table if eval_annotations is not None else holdout(table, split)


def read_document(path: str) -> Record:
    """The JSON object with its three lists checked to be lists of objects."""
    document = read_json(path, "COCO annotations")
    for key in ("images", "annotations", "categories"):
        if key not in document:
            raise DataError(f"{str(path)!r} has no {key!r} but {_listing(document)}; expected COCO annotations")
        value = document[key]
        if not isinstance(value, list) or (key != "annotations" and not all(isinstance(v, dict) for v in value)):
            raise DataError(f"{str(path)!r}: {key!r} must be a list of objects, got {_shown(value)}")
    if not document["images"]:
        raise DataError(f"{str(path)!r} lists no image")
    return document


def share_with_masks(path: str) -> float:
    """How many of the objects of a COCO file have a `segmentation`, 0 to 1; 0 for a file without objects.

    Raises: as `read_document`.
    """
    objects = [one for one in read_document(path)["annotations"] if isinstance(one, dict)]
    return sum(bool(one.get("segmentation")) for one in objects) / max(1, len(objects))


_CATEGORIES: dict[tuple[str, int, int], list[Record]] = {}
"""Of training files that were read, by path, size and time: the validation part needs nothing else of them."""


def class_labels(document: Record, path: str, training: str | None) -> tuple[tuple[str, ...], Mapping[Hashable, int]]:
    """Class names in the order of labels, and the label of each category id of `document`.

    Args:
      document: a COCO file.
      path: where it was read.
      training: the file whose categories are the classes; None: this one.
    """
    own = _checked_categories(document["categories"], path)
    if training is None:
        classes = _CATEGORIES[_stamp(path)] = _without_groups(own, document["annotations"])
    else:
        key = _stamp(training)
        if key not in _CATEGORIES:
            other = read_document(training)
            checked = _checked_categories(other["categories"], training)
            _CATEGORIES[key] = _without_groups(checked, other["annotations"])
        classes = _CATEGORIES[key]
    label_of_name = {category["name"]: label for label, category in enumerate(classes)}
    return tuple(label_of_name), {c["id"]: label_of_name[c["name"]] for c in own if c["name"] in label_of_name}


def _stamp(path: str) -> tuple[str, int, int]:
    try:
        return (str(path), *stamp(path))
    except (OSError, ValueError):
        return str(path), 0, 0


def _checked_categories(categories: Sequence[Record], path: str) -> list[Record]:
    """In ascending order of their ids."""
    if not categories:
        raise DataError(f"{str(path)!r} lists no category")
    ids: dict[int, str] = {}
    names: dict[str, int] = {}
    for i, category in enumerate(categories):
        number, name = category.get("id"), category.get("name")
        if isinstance(number, bool) or not isinstance(number, int) or not isinstance(name, str) or not name:
            raise DataError(f"{str(path)!r}: categories[{i}] needs a whole `id` and a `name`, got {_shown(category)}")
        if number in ids or name in names:
            what = f"id {number}" if number in ids else f"name {name!r}"
            raise DataError(f"{str(path)!r}: two categories have the {what}")
        ids[number], names[name] = name, number
    return sorted(categories, key=lambda category: category["id"])


def _without_groups(categories: Sequence[Record], annotations: Iterable[Any]) -> list[Record]:
    """Roboflow lists the group of all classes as a category of its own: a supercategory without any object."""
    groups = {c.get("supercategory") for c in categories if c.get("supercategory") != c["name"]} & {
        c["name"] for c in categories
    }
    if not groups:
        return list(categories)
    used = {_plain_key(a.get("category_id")) for a in annotations if isinstance(a, dict)}
    return [c for c in categories if c["name"] not in groups or c["id"] in used]


class ImageList:
    """The images of a COCO file that exist.

    Attributes:
      row_of: row by image id; -1 for images that do not exist.
      ids, files, sizes: of each row; sizes int32 `[n, 2]`, zeros where the file does not say.
    """

    def __init__(self, row_of: Mapping[Hashable, int], ids: np.ndarray, files: np.ndarray, sizes: np.ndarray):
        self.row_of, self.ids, self.files, self.sizes = row_of, ids, files, sizes

    def columns(self) -> dict[str, Any]:
        return {"file": self.files, "id": self.ids, "size": self.sizes}

    @classmethod
    def read(cls, document: Record, path: str, folder: epath.Path, faults: Faults, *, warn_unused: bool) -> "ImageList":
        """Checks ids and names and looks for the files; those that are missing become faults."""
        records = document["images"]
        names = [_file_name(record, i, path) for i, record in enumerate(records)]
        ids = [_image_id(record, i, path) for i, record in enumerate(records)]
        first: dict[Hashable, int] = {}
        for i, image_id in enumerate(ids):
            other = first.setdefault(image_id, i)
            if other != i:
                raise DataError(
                    f"{str(path)!r}: two images have the id {image_id!r}: {names[other]!r} (images[{other}]) and "
                    f"{names[i]!r} (images[{i}]); ids must be unique"
                )
        files = locate(folder, names)
        there = np.array([file is not None for file in files])
        missing = np.flatnonzero(~there)
        faults.extend(
            f"image(s) left out, not found in {str(folder)!r}", len(missing), (repr(names[i]) for i in missing)
        )
        faults.require(len(files) - len(missing), len(files), "images")
        rows = np.where(there, np.cumsum(there) - 1, -1)
        if warn_unused:
            used = set(files)
            root = str(folder).rstrip("/")
            unused = [name for name in list_images(folder) if f"{root}/{name}" not in used]
            faults.extend("image(s) in the folder that the file does not name", len(unused), map(repr, unused))
        size = numbers([(record.get("height"), record.get("width")) for record in records], 2)
        size[~(np.isfinite(size) & (size >= 1) & (size <= LARGEST_COORDINATE)).all(1)] = 0
        kept = np.flatnonzero(there)
        id_column: np.ndarray = np.asarray([ids[i] for i in kept])
        if id_column.dtype != np.int64:
            id_column = np.array([ids[i] for i in kept], object)
        file_column = np.array([files[i] for i in kept], object)
        return cls(dict(zip(ids, rows.tolist(), strict=True)), id_column, file_column, size[kept].astype(np.int32))


def _file_name(record: Record, i: int, path: str) -> str:
    name = record.get("file_name")
    if name is None and isinstance(record.get("coco_url"), str):  # LVIS
        name = record["coco_url"].rpartition("/")[2]
    if not isinstance(name, str) or not name:
        raise DataError(f"{str(path)!r}: images[{i}] needs a `file_name`, got {_shown(record)}")
    return name


def _image_id(record: Record, i: int, path: str) -> Hashable:
    number = record.get("id")
    if isinstance(number, bool) or not isinstance(number, (int, str)):
        raise DataError(f"{str(path)!r}: images[{i}] needs an `id`, a number or text, got {_shown(record)}")
    return number


def _objects(
    document: Record, listed: ImageList, label_of: Mapping[Hashable, int], masks: bool, keypoints: int, faults: Faults
) -> dict[str, Ragged]:
    """The columns with one row per object."""
    everything = document["annotations"]
    objects = [annotation for annotation in everything if isinstance(annotation, dict)]
    faults.extend("annotation(s) left out, which are no objects {...}", len(everything) - len(objects), ())
    rows = indices(listed.row_of, [a.get("image_id") for a in objects], unknown=-2)
    labels = indices(label_of, [a.get("category_id") for a in objects], unknown=-1)
    boxes = numbers([a.get("bbox") for a in objects], 4)
    boxes[:, 2:] += boxes[:, :2]
    sides = boxes[:, 2:] - boxes[:, :2]
    height_width = listed.sizes[rows] if len(listed.sizes) else np.zeros((len(rows), 2), np.int32)
    limit = np.where(height_width > 0, height_width, np.inf)[:, ::-1]

    def name(i: int) -> str:
        where = f" of {str(listed.files[rows[i]]).rpartition('/')[2]!r}" if rows[i] >= 0 else ""
        return f"annotation {objects[i].get('id', i)!r:.40}{where}"

    kept = rows != -1
    checks: tuple[tuple[str, Any], ...] = (
        ("of an image id that the file does not list", rows >= 0),
        ("of an unknown category id", labels >= 0),
        ("whose `bbox` is not four finite numbers", _usable(boxes)),
        ("whose box has no width or height", (sides > 0).all(1)),
        ("whose box is outside of its image", ((boxes[:, :2] < limit) & (boxes[:, 2:] > 0)).all(1)),
    )
    for what, good in checks:
        kept = _keep(kept, good, what, name, faults)
    segmentations = np.empty(len(objects), object)
    if masks:
        good = np.ones(len(objects), bool)
        for i in np.flatnonzero(kept):
            segmentations[i] = maps.parse_segmentation(
                objects[i].get("segmentation"), tuple(height_width[i].tolist()), LARGEST_COORDINATE
            )
            good[i] = segmentations[i] is not None
        kept = _keep(kept, good, "without a usable `segmentation`", name, faults)
    points = np.zeros((0, keypoints, 3))
    if keypoints:
        zeros = [0] * (3 * keypoints)
        points = numbers([a.get("keypoints", zeros) or zeros for a in objects], 3 * keypoints)
        good = _usable(points)
        points = points.reshape(-1, keypoints, 3)
        kept = _keep(kept, good, f"whose `keypoints` are not {3 * keypoints} finite numbers", name, faults)
    faults.require(int(kept.sum()), int((rows != -1).sum()), "objects")
    area = numbers([(a.get("area"),) for a in objects], 1)[:, 0]
    area = np.where(_usable(area[:, None], largest=2**40) & (area >= 0), area, sides.prod(1))
    crowd = np.array([a.get("iscrowd") in (1, True) for a in objects], bool)
    chosen = np.flatnonzero(kept)
    chosen = chosen[np.argsort(rows[chosen], kind="stable")]
    splits = np.concatenate([[0], np.cumsum(np.bincount(rows[chosen], minlength=len(listed.files)))]).astype(np.int64)
    columns = {
        "boxes": boxes.astype(np.float32)[chosen],
        "labels": labels.astype(np.int32)[chosen],
        "crowd": crowd[chosen],
        "area": area.astype(np.float32)[chosen],
    }
    if masks:
        columns["segmentation"] = segmentations[chosen]
    if keypoints:
        columns["keypoints"] = points[chosen].astype(np.float32)
    return {key: Ragged(values, splits) for key, values in columns.items()}


def _keep(
    kept: Bool[np.ndarray, " n"], good: Bool[np.ndarray, " n"], what: str, name: Callable[[int], str], faults: Faults
) -> Bool[np.ndarray, " n"]:
    bad = np.flatnonzero(kept & ~good)
    faults.extend(f"object(s) left out {what}", len(bad), (name(int(i)) for i in bad))
    return kept & good


def _usable(values: Float[np.ndarray, "n k"], largest: float = LARGEST_COORDINATE) -> Bool[np.ndarray, " n"]:
    return (np.abs(values) <= largest).all(1)  # False for NaN


def indices(table: Mapping[Hashable, int], keys: Sequence[Any], unknown: int) -> Int[np.ndarray, " n"]:
    """`table[key]` of each key, `unknown` where it has none."""
    try:
        return np.fromiter((table.get(key, unknown) for key in keys), np.int64, len(keys))
    except TypeError:  # a list or an object where an id should be
        return np.array([table.get(_plain_key(key), unknown) for key in keys], np.int64)


def _plain_key(key: Any) -> Hashable:
    return key if isinstance(key, (int, float, str)) else None


def numbers(rows: Sequence[Any], width: int) -> Float[np.ndarray, "n width"]:
    """Rows of `width` numbers; NaN in the whole row where it is anything else."""
    try:
        array = np.array(rows, np.float64)
        if array.shape == (len(rows), width):
            return array
    except (TypeError, ValueError, OverflowError):
        pass
    array = np.full((len(rows), width), np.nan)
    for i, row in enumerate(rows):
        try:
            values = np.array(row, np.float64)
        except (TypeError, ValueError, OverflowError):
            continue
        if values.shape == (width,):
            array[i] = values
    return array


def _keypoint_names(document: Record, path: str) -> tuple[str, ...]:
    """Of the categories that have keypoints; they must have equally many."""
    lists = [category["keypoints"] for category in document["categories"] if category.get("keypoints")]
    for names in lists:
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise DataError(f"{str(path)!r}: `keypoints` of a category must be a list of names, got {_shown(names)}")
    if len({len(names) for names in lists}) > 1:
        counts = sorted({len(names) for names in lists})
        raise DataError(f"{str(path)!r}: categories with different numbers of keypoints ({counts}) do not go together")
    return tuple(lists[0]) if lists else ()


def _listing(document: Record) -> str:
    return ", ".join(f"{str(key)[:40]!r}" for key in list(document)[:8]) or "nothing"


def _shown(value: Any) -> str:
    text = repr(value) if not isinstance(value, list) else f"a list of {len(value)}, {value[:1]!r:.60}"
    return text if len(text) <= 80 else f"{text[:77]}..."
