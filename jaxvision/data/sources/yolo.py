"""Boxes, polygons and keypoints in the text format of YOLO (Darknet, Ultralytics): a `.txt` file per image.

A line is an object: `class cx cy w h`, or `class x y x y ...` (a polygon), or `class cx cy w h` and the keypoints, with
coordinates as shares of the upright image's width and height. `data.yaml` names the classes and the parts. The label
file of `.../images/x.jpg` is `.../labels/x.txt`; without a folder `images` it lies beside the image.
"""

import concurrent.futures
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Float

from jaxvision.data.faults import DataError, Faults
from jaxvision.data.files import as_path, directory, entries, list_images, present, read_lines, read_text
from jaxvision.data.images import ImageError, read_header
from jaxvision.data.sources.image_folder import VALIDATION_NAMES
from jaxvision.data.sources.memory import check_split
from jaxvision.data.table import Ragged, Table
from jaxvision.data.wrappers import holdout

_TOLERANCE = 0.01
"""Tools round: a coordinate up to 1% outside of 0..1 is clipped; beyond, it is no share of the image."""
_LARGEST_YAML = 2**20  # bytes; the parser is slow
_THREADS = 16


@dataclasses.dataclass(frozen=True)
class _Layout:
    """What a `data.yaml`, or the folders where there is none, say.

    Attributes:
      names: of the classes; None if nothing says so.
      parts: folders or lists of images of "train" and "validation"; None: no such part.
      keypoints: their number and 2 or 3 numbers for each; (0, 0): none.
    """

    names: tuple[str, ...] | None
    parts: dict[str, tuple[str, ...] | None]
    keypoints: tuple[int, int] = (0, 0)


def yolo(path: str, masks: bool = False, keypoints: bool = False, *, split: str) -> Table:
    """A table with boxes; with masks and keypoints where asked.

    Args:
      path: `data.yaml`, or a folder with it, or with `images` and `labels` (parts in folders `train` and `val` of them,
        or around them); class names then come from `classes.txt`, else they are numbered.
      masks: the lines are polygons, which become masks; lines with a box only are left out. Without, a polygon counts
        as the box around it.
      keypoints: as `kpt_shape` of `data.yaml` says; of two numbers per point, a point that is not 0, 0 is visible.
      split: "train" or "validation"; without a validation part a fixed fifth of the training part.

    Raises:
      DataError: missing or invalid files, no image, no label file, nothing usable. Single bad lines, unreadable images
        and images without label file (which count as empty) are told in a `DataWarning`.
    """
    check_split(split)
    layout = _read_layout(as_path(path))
    faults = Faults(str(path))
    entry = layout.parts[split] or layout.parts["train"]
    assert entry is not None
    files = _images(entry)
    if not files:
        raise DataError(f"{str(path)!r}: no image in {', '.join(map(repr, entry))}")
    if keypoints and not layout.keypoints[0]:
        raise DataError(f"{str(path)!r}: keypoints need `kpt_shape: [number, 2 or 3]` in data.yaml; it has none")
    names = layout.names
    if names is None:
        names = _numbered(path, [one for part in layout.parts.values() if part for one in _images(part)])
    table = _table(f"yolo:{path}", files, names, layout.keypoints, masks, keypoints, faults)
    faults.warn()
    return table if layout.parts["validation"] is not None else holdout(table, split)


def _read_layout(path: epath.Path) -> _Layout:
    if path.suffix in (".yaml", ".yml"):
        return _from_yaml(path)
    folder = directory(path, "data.yaml, or images and labels")
    files, folders = entries(folder)
    for name in sorted((n for n in files if n.endswith((".yaml", ".yml"))), key=lambda n: (n != "data.yaml", n)):
        return _from_yaml(folder / name)
    names = next(
        (_plain_names(folder / n) for n in ("classes.txt", "labels/classes.txt") if (folder / n).exists()), None
    )
    inner = entries(folder / "images")[1] if "images" in folders else folders
    where = "images/{}" if "images" in folders else "{}/images"
    validation = next((name for name in VALIDATION_NAMES if name in inner), None)
    if "train" in inner:
        parts: dict[str, tuple[str, ...] | None] = {"train": (str(folder / where.format("train")),)}
        parts["validation"] = (str(folder / where.format(validation)),) if validation else None
        return _Layout(names, parts)
    if "images" in folders:
        return _Layout(names, {"train": (str(folder / "images"),), "validation": None})
    listed = ", ".join(files + folders) or "nothing"
    raise DataError(f"{str(folder)!r} holds neither data.yaml nor a folder `images` (with `labels`), but {listed:.300}")


def _plain_names(path: epath.Path) -> tuple[str, ...]:
    return tuple(read_lines(path, "class names, one per line"))


def _from_yaml(path: epath.Path) -> _Layout:
    import yaml

    what = "the data.yaml of a YOLO data set"
    text = read_text(path, what)
    if len(text) > _LARGEST_YAML:
        raise DataError(f"{str(path)!r} has {len(text)} characters, too many for {what}")
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise DataError(f"{str(path)!r} is not valid YAML (expected {what}): {' '.join(str(error).split())}") from error
    except (ValueError, TypeError, OverflowError, RecursionError, LookupError, AttributeError) as error:
        raise DataError(f"{str(path)!r} is not {what}: {type(error).__name__} {error}") from error
    if not isinstance(document, dict) or "train" not in document:
        found = list(document)[:8] if isinstance(document, dict) else type(document).__name__
        raise DataError(f"{str(path)!r} has no `train` but {found!r:.200}; expected {what}: path, train, val, names")
    names = _names(document.get("names"), document.get("nc"), path)
    validation = next((document[key] for key in ("val", *VALIDATION_NAMES) if document.get(key)), None)
    base = document.get("path")
    parts = {
        "train": _resolve(document["train"], base, path, "train"),
        "validation": None if validation is None else _resolve(validation, base, path, "val"),
    }
    shape = document.get("kpt_shape") or (0, 0)
    if (
        not isinstance(shape, (list, tuple))
        or not all(type(n) is int for n in shape)
        or len(shape) != 2
        or (tuple(shape) != (0, 0) and (not 1 <= shape[0] <= 10_000 or shape[1] not in (2, 3)))
    ):
        raise DataError(f"{str(path)!r}: `kpt_shape` must be [number of keypoints, 2 or 3], got {shape!r:.80}")
    return _Layout(names, parts, (shape[0], shape[1]))


def _names(value: Any, count: Any, path: epath.Path) -> tuple[str, ...] | None:
    """From a list, or a mapping of 0, 1, ... to names; None without."""
    if value is None:
        return tuple(map(str, range(count))) if type(count) is int and 0 < count < 100_000 else None
    if isinstance(value, dict):
        if sorted(map(str, value)) != sorted(map(str, range(len(value)))):
            raise DataError(f"{str(path)!r}: the keys of `names` must be 0..{len(value) - 1}, got {list(value)!r:.120}")
        value = [name for _, name in sorted(value.items(), key=lambda item: int(item[0]))]
    if not isinstance(value, list) or not value or not all(isinstance(name, (str, int, float)) for name in value):
        raise DataError(f"{str(path)!r}: `names` must be a list or a mapping of class names, got {value!r:.120}")
    names = tuple(map(str, value))
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{str(path)!r}: two classes are named {twice!r}")
    if type(count) is int and count != len(names):
        raise DataError(f"{str(path)!r}: nc is {count}, but {len(names)} names are given")
    return names


def _resolve(value: Any, base: Any, path: epath.Path, key: str) -> tuple[str, ...]:
    """The folders and lists that an entry names, searched as Ultralytics and Roboflow mean them."""
    values = value if isinstance(value, list) else [value]
    if not values or not all(isinstance(one, str) and one for one in values):
        raise DataError(f"{str(path)!r}: `{key}` must be a folder, a list file, or a list of them, got {value!r:.120}")
    roots = [path.parent]
    if isinstance(base, str) and base:
        roots = [path.parent / base, as_path(base), *roots]
    found = []
    for one in values:
        inside = one
        while inside.startswith("../"):  # Roboflow writes ../train/images for a folder beside data.yaml
            inside = inside[3:]
        tried = list(dict.fromkeys(str(root / name) for root in roots for name in (one, inside)))
        existing = [candidate for candidate in tried if _exists(candidate)]
        if not existing:
            raise DataError(f"{str(path)!r}: `{key}: {one}` does not exist; looked for {', '.join(map(repr, tried))}")
        found.append(existing[0])
    return tuple(found)


def _exists(path: str) -> bool:
    try:
        return epath.Path(path).exists()
    except (OSError, ValueError):
        return False


def _images(parts: Sequence[str]) -> list[str]:
    """Paths of all images of folders and of lists of images."""
    files: list[str] = []
    for part in parts:
        if epath.Path(part).is_dir():
            files += [f"{part.rstrip('/')}/{name}" for name in list_images(part)]
        else:
            parent = epath.Path(part).parent
            files += [str(parent / line.removeprefix("./")) for line in read_lines(part, "a list of images")]
    return list(dict.fromkeys(files))


def _label_file(image: str) -> str:
    before, found, after = image.rpartition("/images/")
    if not found and image.startswith("images/"):
        before, found, after = "", "images/", image[len("images/") :]
        return f"labels/{after.rpartition('.')[0]}.txt"
    return f"{(f'{before}/labels/{after}' if found else image).rpartition('.')[0]}.txt"


def _numbered(path: str, images: Sequence[str]) -> tuple[str, ...]:
    """Names for the classes that occur."""
    files = [_label_file(image) for image in images]
    largest = -1
    for file, there in zip(files, present(files), strict=True):
        if there:
            first = [line.split()[0] for line in _text(file).splitlines() if line.strip()]
            largest = max([largest, *(int(label) for label in first if label.isdecimal() and len(label) < 6)])
    if largest < 0:
        raise DataError(f"{str(path)!r}: no object in the label files of {len(images)} images, e.g. {files[:1]}")
    return tuple(map(str, range(largest + 1)))


def _text(file: str) -> str:
    """A label file; empty ones are images without objects."""
    if "://" in file:
        content = epath.Path(file).read_bytes()
    else:  # five times as fast, which counts with a file for every image
        with open(file, "rb") as stream:
            content = stream.read()
    return content.decode("utf-8-sig", "replace")


def _table(
    title: str,
    images: list[str],
    names: tuple[str, ...],
    shape: tuple[int, int],
    masks: bool,
    keypoints: bool,
    faults: Faults,
) -> Table:
    there = present(images)
    missing = [image for image, found in zip(images, there, strict=True) if not found]
    faults.extend("image(s) left out, not found", len(missing), map(repr, missing))
    found = [image for image, here in zip(images, there, strict=True) if here]
    faults.require(len(found), len(images), "images")
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        sizes = list(pool.map(_size, found))
    unreadable = [image for image, size in zip(found, sizes, strict=True) if size is None]
    faults.extend("image(s) left out, not readable", len(unreadable), map(repr, unreadable))
    pairs = [(image, size) for image, size in zip(found, sizes, strict=True) if size is not None]
    faults.require(len(pairs), len(images), "images")
    files = [_label_file(image) for image, _ in pairs]
    labelled = present(files)
    if not any(labelled):
        raise DataError(f"{title}: none of {len(files)} images has a label file, e.g. {files[0]!r}")
    bare = [image for (image, _), has in zip(pairs, labelled, strict=True) if not has]
    faults.extend("image(s) without label file, taken as empty", len(bare), map(repr, bare))
    _tell_unused([_label_file(image) for image in found], faults)
    lines = _Lines(len(names), shape, masks, keypoints, faults)
    for file, has, (_, size) in zip(files, labelled, pairs, strict=True):
        lines.add(file if has else None, size)
    faults.require(sum(map(len, lines.labels)), lines.total, "objects")
    columns: dict[str, Any] = {
        "file": np.array([image for image, _ in pairs], object),
        "id": np.array([image.rpartition("/")[2].rpartition(".")[0] for image, _ in pairs], object),
        "size": np.array([size for _, size in pairs], np.int32),
        "boxes": Ragged.of(lines.boxes, np.float32, (4,)),
        "labels": Ragged.of(lines.labels, np.int32),
    }
    if masks:
        flat = np.empty(sum(map(len, lines.polygons)), object)
        flat[:] = [one for image in lines.polygons for one in image] or []
        columns["segmentation"] = Ragged(flat, columns["labels"].splits)
    if keypoints:
        columns["keypoints"] = Ragged.of(lines.points, np.float32, (shape[0], 3))
    return Table(title, names, columns, tuple(map(str, range(shape[0]))) if keypoints else ())


def _size(image: str) -> tuple[int, int] | None:
    try:
        return read_header(image).size
    except ImageError:
        return None


def _tell_unused(files: Sequence[str], faults: Faults) -> None:
    used = set(files)
    unused = []
    for folder in dict.fromkeys(file.rpartition("/")[0] for file in files):
        names = (name for name in entries(folder)[0] if name.endswith(".txt") and name != "classes.txt")
        unused += [f"{folder}/{name}" for name in names if f"{folder}/{name}" not in used]
    faults.extend("label file(s) without image, not used", len(unused), map(repr, unused))


class _Lines:
    """The objects of all label files, in pixels, a list per image."""

    def __init__(self, classes: int, shape: tuple[int, int], masks: bool, keypoints: bool, faults: Faults):
        self.classes, self.shape, self.masks, self.keypoints, self.faults = classes, shape, masks, keypoints, faults
        self.total = 0
        self.boxes: list[list[np.ndarray]] = []
        self.labels: list[list[int]] = []
        self.polygons: list[list[list[np.ndarray]]] = []
        self.points: list[list[np.ndarray]] = []

    def add(self, file: str | None, size: tuple[int, int]) -> None:
        """Adds an image; `file` is its label file, None for no objects."""
        for column in (self.boxes, self.labels, self.polygons, self.points):
            column.append([])
        try:
            text = _text(file) if file is not None else ""
        except OSError as error:
            self.faults.add("label file(s) not readable, taken as empty", f"{file!r}: {error.strerror}")
            text = ""
        extent = np.array(size[::-1], np.float64)
        lines = [(number, fields) for number, line in enumerate(text.splitlines(), 1) if (fields := line.split())]
        self.total += len(lines)
        if self._boxes([fields for _, fields in lines], extent):
            return
        for number, fields in lines:
            what = self._line(fields, extent)
            if what:
                self.faults.add(f"line(s) left out {what}", f"{str(file).rpartition('/')[2]}:{number}")

    def _boxes(self, lines: list[list[str]], extent: Float[np.ndarray, "2"]) -> bool:
        """Adds all objects of an image at once; False, and nothing is added, where they are not all proper boxes."""
        if self.masks or self.keypoints or not all(len(fields) == 5 for fields in lines):
            return False
        try:
            values = np.array(lines, np.float64).reshape(-1, 5)
        except ValueError:
            return False
        labels, shares = values[:, 0], values[:, 1:]
        sound = ((shares >= -_TOLERANCE) & (shares <= 1 + _TOLERANCE)).all() and (shares[:, 2:] > 0).all()
        if not sound or not ((labels >= 0) & (labels < self.classes)).all() or (labels % 1).any():
            return False
        half = shares[:, 2:] / 2
        corners = np.concatenate([shares[:, :2] - half, shares[:, :2] + half], axis=1)
        boxes = corners.clip(0, 1) * np.concatenate([extent, extent])
        if (boxes[:, 2:] <= boxes[:, :2]).any():
            return False
        self.boxes[-1], self.labels[-1] = list(boxes), labels.astype(int).tolist()
        return True

    def _line(self, fields: list[str], extent: Float[np.ndarray, "2"]) -> str:
        """Adds one object; says what is wrong with it otherwise."""
        try:
            values = np.array(fields, np.float64)
        except ValueError:
            return "with something else than numbers"
        label, rest = values[0], values[1:]
        count, width = self.shape
        posed = bool(count) and len(rest) == 4 + count * width
        polygon = not posed and len(rest) >= 6 and len(rest) % 2 == 0
        if not (posed or polygon or len(rest) == 4) or (self.masks and not polygon) or (self.keypoints and not posed):
            wanted = f"{5 + count * width}" if self.keypoints else "7, 9, ..." if self.masks else "5"
            return f"with a wrong number of fields (expected {wanted})"
        if not 0 <= label < self.classes or label % 1:
            return f"with a class outside of 0..{self.classes - 1}"
        shares = rest if polygon else rest[:4]
        if not ((shares >= -_TOLERANCE) & (shares <= 1 + _TOLERANCE)).all():
            return "with coordinates outside of 0..1"
        corners = (
            shares.reshape(-1, 2) if polygon else np.stack([shares[:2] - shares[2:] / 2, shares[:2] + shares[2:] / 2])
        )
        low, high = np.clip(corners.min(0), 0, 1) * extent, np.clip(corners.max(0), 0, 1) * extent
        if (not polygon and not (shares[2:] > 0).all()) or (high <= low).any():
            return "whose box has no width or height"
        points = np.zeros((count, 3))
        if posed:
            points[:, :width] = rest[4:].reshape(count, width)
            if width == 2:
                points[:, 2] = 2 * points.any(1)
            if not (np.abs(points) <= 10).all():
                return "with keypoints that are no shares of the image"
            points[:, :2] *= extent
        self.boxes[-1].append(np.concatenate([low, high]))
        self.labels[-1].append(int(label))
        self.polygons[-1].append([(corners * extent).reshape(-1)] if polygon else [])
        self.points[-1].append(points)
        return ""
