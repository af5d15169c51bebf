"""What is known of each sample of a source, as columns, whatever kind of source it is; and how its files look."""

import dataclasses
import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from jaxtyping import Int

from jaxvision.data import maps
from jaxvision.data.images import ImageError, ImageHeader, read_header, read_image
from jaxvision.data.order import permutation
from jaxvision.data.samples import INSTANCE_KEYS, SampleSource
from jaxvision.data.sources.memory import Source
from jaxvision.data.table import Column, Ragged, Table

OnImage = Callable[[int], None]
HEADERS = 5_000
"""Files whose headers the fast mode reads at most, evenly spread."""
SAMPLES = 8
"""Samples that the fast mode makes of a source that has neither columns nor batches."""
SECONDS = 0.5
"""After which the fast mode gathers no more batches: a source in memory is through by then, one that draws is not."""
CHUNK = 256


@dataclasses.dataclass(slots=True)
class Look:
    """What one image is like.

    Attributes:
      size: height and width, upright; zeros where unknown.
      problem: why it cannot be read.
      header: of its file.
      digest: of the bytes of its file, or of its pixels where it has none.
      blank: whether all pixels are the same.
      map_problem: why its label map or its masks cannot be read or do not fit.
      values: pixels of each value in its semantic map, as stored.
      pixels: of each panoptic class.
      unlabelled: pixels of a panoptic map without a segment.
      bare: objects, or segments, that have no pixel.
    """

    size: tuple[int, int] = (0, 0)
    problem: str | None = None
    header: ImageHeader | None = None
    digest: bytes | None = None
    blank: bool = False
    map_problem: str | None = None
    values: Int[np.ndarray, "256"] | None = None
    pixels: Int[np.ndarray, " c"] | None = None
    unlabelled: int = 0
    bare: int = 0


@dataclasses.dataclass(eq=False)
class Gathered:
    """One part of the data.

    Attributes:
      part: "training" or "validation".
      source: it.
      columns: those of `Table` that the source has, of `rows`.
      rows: samples of the source that the columns are of.
      looks: of the images of some of them, by place in `rows`.
      root: folder of all its files, which names leave out.
    """

    part: str
    source: Any
    columns: dict[str, Column]
    rows: Int[np.ndarray, " n"]
    looks: dict[int, Look]
    root: str = ""

    def array(self, name: str) -> np.ndarray | None:
        """A column with one value per sample, where there is one."""
        column = self.columns.get(name)
        return column if isinstance(column, np.ndarray) else None

    def ragged(self, name: str) -> Ragged | None:
        """A column with any number of values per sample, where there is one."""
        column = self.columns.get(name)
        return column if isinstance(column, Ragged) else None

    @property
    def complete(self) -> bool:
        return len(self.rows) == len(self.source)

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(self.source.class_names)

    def name(self, place: int) -> str:
        """What sentences call a sample."""
        files = self.array("file")
        if files is not None:
            return str(files[place]).removeprefix(self.root)
        return f"sample {int(self.rows[place])}"

    def sizes(self) -> Int[np.ndarray, "n 2"]:
        """Height and width of each image, as its file says, else as the annotations do, else zeros."""
        sizes = np.zeros((len(self.rows), 2), np.int64)
        annotated = self.array("size")
        if annotated is not None:
            sizes[:] = annotated
        for place, look in self.looks.items():
            if look.size[0]:
                sizes[place] = look.size
        return sizes


def gather(source: Any, part: str, *, full: bool, on_image: OnImage, workers: int | None = None) -> Gathered:
    """Looks at a source: at all of it, or at what costs little."""
    if isinstance(source, Table):
        return _table(source, part, full, on_image, workers)
    only_labels = set(getattr(source, "annotations", ("label",))) <= {"label"}
    if isinstance(source, Source) and only_labels:
        return _batches(source, part, full, on_image)
    return _samples(source, part, full, on_image, workers)


def spread(length: int, most: int) -> Int[np.ndarray, " n"]:
    """At most `most` rows, evenly over all, the first and the last among them."""
    if length <= most:
        return np.arange(length)
    return np.unique(np.linspace(0, length - 1, most).round().astype(np.int64))


def _table(table: Table, part: str, full: bool, on_image: OnImage, workers: int | None) -> Gathered:
    rows = np.arange(len(table))
    if isinstance(table.columns["file"], Ragged):  # clips of many files each
        return Gathered(part, table, dict(table.columns), rows, {})
    files = [str(file) for file in table.columns["file"]]
    gathered = Gathered(part, table, dict(table.columns), rows, {}, _root(files))
    # A wrapper may repeat rows; each file is looked at once.
    first: dict[str, int] = {}
    for place, file in enumerate(files):
        first.setdefault(file if table.read is None else str(place), place)
    places = list(first.values())
    if full:
        looks = _parallel(lambda place: _decode(table, place), places, workers, on_image)
    elif table.read is None and not any("://" in file for file in files[:1]):
        places = [places[i] for i in spread(len(places), HEADERS)]
        looks = _parallel(lambda place: _header(table, place), places, 1, on_image)
    else:
        return gathered
    gathered.looks = dict(zip(places, looks, strict=True))
    if not full:
        for place in _missing(files):
            gathered.looks.setdefault(place, Look(problem="there is no such file"))
    return gathered


def _samples(source: SampleSource, part: str, full: bool, on_image: OnImage, workers: int | None) -> Gathered:
    rows = np.arange(len(source)) if full else spread(len(source), SAMPLES)

    def look(row: int) -> tuple[dict[str, Any], Look]:
        try:
            sample = source.sample(int(row))
        except ImageError as error:
            return {"file": f"sample {row}", "id": row}, Look(problem=str(error))
        seen = _pixels(sample["image"])
        if "semantic" in sample:
            seen.values = np.bincount(sample["semantic"].ravel(), minlength=256)
        if "masks" in sample:
            seen.bare = int((~sample["masks"].any(axis=(1, 2))).sum())
        if "panoptic" in sample:
            _count_segments(seen, sample["panoptic"], sample["segment_labels"], len(source.class_names))
        kept = {key: sample[key] for key in ("file", "id", "label", *INSTANCE_KEYS) if key in sample}
        return {key: value for key, value in kept.items() if key not in ("masks", "texts")}, seen

    found = list(_parallel(look, rows.tolist(), workers if full else 1, on_image))
    samples = [values for values, _ in found]
    columns = _columns(samples)
    files = [str(values.get("file", "")) for values in samples]
    root = _root(files) if all(os.sep in file for file in files) else ""
    looks = {place: look for place, (_, look) in enumerate(found)}
    return Gathered(part, source, columns, rows, looks, root)


def _columns(samples: list[dict[str, Any]]) -> dict[str, Column]:
    columns: dict[str, Column] = {}
    for key in dict.fromkeys(key for sample in samples for key in sample):
        values = [sample.get(key) for sample in samples]
        example = next(value for value in values if value is not None)
        if key in INSTANCE_KEYS:
            array = np.asarray(example)
            rows = [[] if value is None else value for value in values]
            columns[key] = Ragged.of(rows, array.dtype, array.shape[1:])
        elif key == "label" and all(value is not None for value in values):
            columns[key] = np.asarray(values)
        elif key in ("file", "id"):
            columns[key] = np.asarray([*values, None], object)[:-1]
    return columns


def _batches(source: Any, part: str, full: bool, on_image: OnImage) -> Gathered:
    """A source that is gathered a batch at a time (`data.sources.memory.Source`)."""
    height, width, _ = source.image_shape
    order = np.arange(len(source)) if full else permutation(0, 0, len(source))  # a part of it is spread over all
    labels: list[np.ndarray] = []
    looks: dict[int, Look] = {}
    done, size, start = 0, 8, time.monotonic()
    while done < len(order) and (full or time.monotonic() - start < SECONDS):
        batch = source.gather(order[done : done + size])
        if "label" in batch:
            labels.append(np.asarray(batch["label"]))
        if full:
            looks |= {done + i: _pixels(image) for i, image in enumerate(batch["image"])}
        done, size = done + len(batch["image"]), min(2 * size, CHUNK)
        on_image(len(batch["image"]))
    place = np.argsort(order[:done])
    columns: dict[str, Column] = {"size": np.tile(np.array([[height, width]]), (done, 1))}
    if labels:
        columns["label"] = np.concatenate(labels)[place]
    return Gathered(part, source, columns, order[:done][place], looks)


def _header(table: Table, place: int) -> Look:
    """What the first bytes of a row's files say."""
    row = table.row(place)
    file = row["file"]
    try:
        header = read_header(str(file))
        look = Look(size=header.size, header=header)
    except ImageError as error:
        look = Look(problem=_reason(error, file))
    for name in ("semantic_file", "panoptic_file"):
        if name not in row or look.map_problem:
            continue
        own = row[name]
        try:
            size = read_header(str(own)).size
        except ImageError as error:
            look.map_problem = str(error)
            continue
        if look.size[0] and size != look.size:
            look.map_problem = _differs(own, size, look.size)
    return look


def _decode(table: Table, place: int) -> Look:
    """Everything about a row's files."""
    file = table.row(place)["file"]
    look = Look()
    try:
        if table.read is None and not str(file):
            raise ImageError("its name is empty")
        try:
            encoded = table.encoded(place)
        except OSError:
            read_image(file)  # says why in words
            raise
        look.digest = hashlib.blake2b(encoded, digest_size=16).digest()
        look.header = read_header(encoded)
        image = read_image(encoded)
    except (ImageError, OSError) as error:
        look.problem = _reason(error, file)
        return look
    look.size, look.blank = image.shape[:2], _is_blank(image)
    try:
        _decode_maps(table, place, look)
    except (ImageError, ValueError, TypeError, KeyError, IndexError) as error:
        look.map_problem = str(error) or type(error).__name__
    return look


def _decode_maps(table: Table, place: int, look: Look) -> None:
    row = table.row(place)
    if "semantic_file" in row:
        look.values = np.bincount(maps.read_semantic(row["semantic_file"], look.size).ravel(), minlength=256)
    if "panoptic_file" in row:
        segments = maps.read_panoptic(row["panoptic_file"], look.size, row["segment_ids"])
        _count_segments(look, segments, row["segment_labels"], table.num_classes)
    if "segmentation" in row:
        look.bare += int((~maps.instance_masks(row["segmentation"], look.size).any(axis=(1, 2))).sum())


def _count_segments(look: Look, panoptic: np.ndarray, labels: np.ndarray, classes: int) -> None:
    counts = np.bincount(panoptic.ravel(), minlength=len(labels) + 1)
    look.unlabelled, look.bare = int(counts[0]), look.bare + int((counts[1:] == 0).sum())
    known = (labels >= 0) & (labels < classes)
    look.pixels = np.bincount(labels[known], counts[1 : len(labels) + 1][known], minlength=classes).astype(np.int64)


def _pixels(image: np.ndarray) -> Look:
    digest = hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16).digest()
    return Look(size=image.shape[:2], digest=digest, blank=_is_blank(image))


def _is_blank(image: np.ndarray) -> bool:
    return bool((image[:1, :1] == image).all())


def _differs(file: Any, size: tuple[int, int], wanted: tuple[int, int]) -> str:
    return f"label map {str(file)!r} is {size[0]} x {size[1]} (height x width), its image {wanted[0]} x {wanted[1]}"


def _reason(error: Exception, file: Any) -> str:
    """The error without the name of the file, which the sentence around it gives."""
    text = str(error)
    for verb in ("read", "decode"):
        for label in (f"image {os.fspath(file)!r}", "the given image"):
            start = f"cannot {verb} {label}"
            if text.startswith(start):
                return text.removeprefix(start).partition(": ")[2]
    return text


def _missing(files: Iterable[str]) -> Iterator[int]:
    """Places of files that their folders do not list; to list a folder once is cheaper than to ask for each file."""
    listings: dict[str, set[str] | None] = {}
    for place, file in enumerate(files):
        folder, name = os.path.split(file)
        if folder not in listings:
            try:
                listings[folder] = set(os.listdir(folder or "."))
            except OSError:
                listings[folder] = set()
        if name not in listings[folder]:  # type: ignore[operator]
            yield place


def _root(files: list[str]) -> str:
    """The folder of all files, with its separator; "" where they share none."""
    if not files:
        return ""
    first, last = min(files), max(files)  # what these share, all between them do
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return first[: first[:same].rfind("/") + 1]


def _parallel(
    function: Callable[[int], Any], items: list[int], workers: int | None, on_image: OnImage
) -> Iterator[Any]:
    """Results in order."""
    if workers == 1:
        for item in items:
            yield function(item)
            on_image(1)
        return
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        for start in range(0, len(items), CHUNK):
            for result in pool.map(function, items[start : start + CHUNK]):
                yield result
                on_image(1)
