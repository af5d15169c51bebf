"""Any classification or detection set of `tensorflow_datasets`, images of any size, read record by record.

The default format of TFDS, TFRecord, is a stream. Its records give their lengths, so one pass over those (seeks, no
data) finds where each starts; from then on any record is one `os.pread`. ArrayRecord files have such an index
themselves. Files that are not local (`gs://`) and mocked sets cannot be read so: their encoded images are kept in
memory, which is told.
"""

import bisect
import collections
import os
import struct
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxvision.data.faults import DataError, DataWarning, Faults
from jaxvision.data.images import ImageError, read_header
from jaxvision.data.sources.memory import check_split
from jaxvision.data.sources.tfds import evaluation_split, examples_of, find_features, import_tfds, prepared_builder
from jaxvision.data.table import Ragged, Table

_CROWD = ("is_crowd", "is_difficult", "iscrowd", "difficult")
_IDS = ("image/id", "id", "image_id", "image/filename", "file_name", "filename")
_OPEN_FILES = 64


def tfds_records(
    dataset: str,
    data_dir: str | None = None,
    train_split: str = "train",
    eval_split: str | None = None,
    max_gib: float = 4.0,
    *,
    split: str,
) -> Table:
    """A table with `label` (one class, or rows of 0 and 1), or with `boxes`, `labels` and `crowd`.

    Features are found by their types: an image; a `ClassLabel` or a sequence of them; or a sequence of objects with a
    `BBoxFeature`, a `ClassLabel` and perhaps `is_crowd` or `is_difficult`. Images stay encoded (`Table.read`). Every
    record is read once beforehand for its annotations.

    Args:
      dataset: a name of TFDS ("coco/2017", "my_set/my_config:1.0.0").
      data_dir: folder of prepared sets; None is TFDS's own.
      train_split: a split of TFDS for training, slices included ("train[:90%]").
      eval_split: the one for evaluation; None takes "validation", else "test", whichever exists.
      max_gib: refuse to keep more than this in memory, in GiB of encoded images, where random access is not possible.
      split: "train" or "validation".

    Raises:
      DataError: no such features, damaged files, or too large to be kept.
      ValueError: unknown to TFDS, no such split.
    """
    check_split(split)
    tfds = import_tfds()
    builder = prepared_builder(tfds, dataset, data_dir)
    part = train_split if split == "train" else eval_split or evaluation_split(dataset, builder.info.splits)
    layout = _layout(tfds, dataset, builder.info.features)
    get, examples = _records(tfds, dataset, builder, part, layout, max_gib)
    faults = Faults(f"tfds:{dataset} [{part}]")
    columns, names, kept = _columns(layout, examples, faults)
    faults.warn()
    chosen = kept.tolist()
    return Table(f"tfds:{dataset}", names, columns, read=lambda index: get(chosen[index]))


class _Layout:
    """Where an example holds what.

    Attributes:
      image: key of the image.
      label: the class label, or a sequence of them; None in a detection set.
      objects: the sequence of objects, with `box`, `object_label` and perhaps `crowd` in it.
      id: key of the id; None without.
      names: of the classes.
    """

    def __init__(self, image: str, names: Sequence[str]):
        self.image, self.names = image, tuple(names)
        self.label: str | None = None
        self.multi_label = False
        self.objects = self.box = self.object_label = ""
        self.crowd: str | None = None
        self.id: str | None = None


def _layout(tfds: Any, dataset: str, features: Any) -> _Layout:
    for key, feature in features.items():
        inner = getattr(feature, "feature", None)
        if not isinstance(feature, tfds.features.Sequence) or not isinstance(inner, tfds.features.FeaturesDict):
            continue
        boxes = [k for k, f in inner.items() if isinstance(f, tfds.features.BBoxFeature)]
        labels = [k for k, f in inner.items() if isinstance(f, tfds.features.ClassLabel)]
        if boxes and labels:
            image = next((k for k, f in features.items() if isinstance(f, tfds.features.Image)), None)
            if image is None:
                raise DataError(f"tfds: {dataset!r} has objects ({key!r}) but no image")
            layout = _Layout("image" if "image" in features else image, ())
            layout.objects, layout.box = key, boxes[0]
            layout.object_label = "label" if "label" in labels else labels[0]
            layout.names = tuple(inner[layout.object_label].names)
            layout.crowd = next((k for k in _CROWD if k in inner), None)
            break
    else:
        image, label = find_features(tfds, dataset, features)
        multi_label = not isinstance(features[label], tfds.features.ClassLabel)
        layout = _Layout(image, (features[label].feature if multi_label else features[label]).names)
        layout.label, layout.multi_label = label, multi_label
    layout.id = next((k for k in _IDS if k in features), None)
    return layout


def _records(
    tfds: Any, dataset: str, builder: Any, part: str, layout: _Layout, max_gib: float
) -> tuple[Callable[[int], bytes], Iterator[Mapping[str, Any]]]:
    """The encoded image of example i, and all examples once, in order."""
    features = builder.info.features
    parse = features.deserialize_example_np
    decoders = {layout.image: tfds.decode.SkipDecoding()}
    record = _random_access(dataset, builder, part)
    if record is None:
        return _kept_in_memory(tfds, dataset, builder, part, layout, max_gib)
    read, count = record

    def image(index: int) -> bytes:
        return bytes(parse(read(index), decoders=decoders)[layout.image])

    return image, (parse(read(index), decoders=decoders) for index in range(count))


def _random_access(dataset: str, builder: Any, part: str) -> tuple[Callable[[int], bytes], int] | None:
    """A reader of record i and the number of records; None where files are not local."""
    if not builder.info.splits:  # mocked
        return None
    try:
        instructions = builder.info.splits[part].file_instructions
    except (KeyError, ValueError) as error:
        known = ", ".join(builder.info.splits)
        raise ValueError(f"tfds: {dataset!r} has no split {part!r}; its splits are: {known} ({error})") from error
    kind = getattr(builder.info.file_format, "value", "tfrecord")
    if not all(os.path.isfile(one.filename) for one in instructions):
        return None
    if kind == "array_record":
        try:
            from array_record.python.array_record_data_source import ArrayRecordDataSource
        except ImportError as error:
            raise DataError(
                f"tfds: {dataset!r} is prepared as ArrayRecord, which needs `pip install array-record` ({error})"
            ) from error
        source = ArrayRecordDataSource(instructions)
        return source.__getitem__, len(source)
    if kind != "tfrecord":
        raise DataError(f"tfds: {dataset!r} is prepared as {kind}; expected tfrecord or array_record")
    index = RecordIndex([(one.filename, one.skip, one.take) for one in instructions])
    return index.read, len(index)


class RecordIndex:
    """Random access to the records of local TFRecord files.

    A record is its length (uint64, little-endian), a checksum of that (4 bytes), the data, a checksum of the data. The
    checksums are not verified.
    """

    def __init__(self, parts: Sequence[tuple[str, int, int]]):
        """Reads the lengths.

        Args:
          parts: (file, records to skip, records to take) in the order of the set.

        Raises:
          DataError: a file that is cut short or not TFRecord.
        """
        self._files = [file for file, _, _ in parts]
        self._offsets = [record_offsets(file)[skip : skip + take] for file, skip, take in parts]
        for (file, skip, take), offsets in zip(parts, self._offsets, strict=True):
            if len(offsets) < take:
                raise DataError(
                    f"{file!r} holds {skip + len(offsets)} records, expected {skip + take}; prepare it again"
                )
        self._starts = np.cumsum([0] + [len(offsets) for offsets in self._offsets]).tolist()
        self._open: collections.OrderedDict[int, int] = collections.OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._starts[-1]

    def read(self, index: int) -> bytes:
        """The data of record `index`; from any thread."""
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        number = bisect.bisect_right(self._starts, index) - 1
        offset, length = self._offsets[number][index - self._starts[number]].tolist()
        with self._lock:  # a file must not be closed while another thread reads it
            data = os.pread(self._descriptor(number), length, offset)
        if len(data) != length:
            raise DataError(f"{self._files[number]!r} was cut short while it was in use")
        return data

    def _descriptor(self, number: int) -> int:
        if number in self._open:
            self._open.move_to_end(number)
        else:
            if len(self._open) >= _OPEN_FILES:
                os.close(self._open.popitem(last=False)[1])
            self._open[number] = os.open(self._files[number], os.O_RDONLY)
        return self._open[number]

    def __del__(self) -> None:
        for descriptor in getattr(self, "_open", {}).values():
            os.close(descriptor)

    def __getstate__(self) -> dict[str, Any]:
        return {"_files": self._files, "_offsets": self._offsets, "_starts": self._starts}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _open=collections.OrderedDict(), _lock=threading.Lock())


def record_offsets(file: str) -> np.ndarray:
    """(start, length) of the data of each record of a TFRecord file, int64 `[n, 2]`."""
    found: list[tuple[int, int]] = []
    with open(file, "rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        place = 0
        while place < size:
            header = os.pread(stream.fileno(), 8, place)
            length = struct.unpack("<Q", header)[0] if len(header) == 8 else size
            if place + 12 + length + 4 > size:
                raise DataError(f"{file!r} is cut short or no TFRecord file: record {len(found)} ends beyond it")
            found.append((place + 12, length))
            place += 12 + length + 4
    return np.array(found, np.int64).reshape(-1, 2)


def _kept_in_memory(
    tfds: Any, dataset: str, builder: Any, part: str, layout: _Layout, max_gib: float
) -> tuple[Callable[[int], bytes], Iterator[Mapping[str, Any]]]:
    images: list[bytes] = []
    info = builder.info.splits[part] if builder.info.splits and part in builder.info.splits else None
    if info is not None and info.num_bytes > max_gib * 2**30:
        raise DataError(
            f"tfds: the files of {dataset!r} ({builder.data_dir}) are not local, so its "
            f"{info.num_bytes / 2**30:.1f} GiB would be kept in memory, more than max_gib={max_gib:g}; "
            "copy the folder to a local disk"
        )
    stream = examples_of(tfds, dataset, builder, part, layout.image).as_numpy_iterator()

    def examples() -> Iterator[Mapping[str, Any]]:
        total = 0
        for example in stream:
            images.append(bytes(example[layout.image]))
            total += len(images[-1])
            if total > max_gib * 2**30:
                raise DataError(f"tfds: the images of {dataset!r} take more than max_gib={max_gib:g} in memory")
            yield example
        if info is not None:
            warnings.warn(
                DataWarning(
                    f"tfds: the files of {dataset!r} are not local and were read in sequence: "
                    f"{total / 2**30:.2f} GiB of encoded images are kept in memory; "
                    "copy the folder to a local disk for random access"
                ),
                stacklevel=2,
            )

    return images.__getitem__, examples()


def _columns(
    layout: _Layout, examples: Iterator[Mapping[str, Any]], faults: Faults
) -> tuple[dict[str, Any], tuple[str, ...], np.ndarray]:
    """Columns, class names, and the examples that they are of."""
    ids: list[Any] = []
    sizes, labels, objects, kept = [], [], [], []
    total = 0
    for number, example in enumerate(examples):
        total += 1
        encoded = bytes(example[layout.image])
        try:
            size = read_header(encoded).size
        except ImageError:
            faults.add("example(s) left out whose image cannot be read", f"number {number}")
            continue
        kept.append(number)
        sizes.append(size)
        ids.append(_id(example[layout.id]) if layout.id is not None else number)
        if layout.label is not None:
            label = np.asarray(example[layout.label])
            labels.append(np.isin(np.arange(len(layout.names)), label) if layout.multi_label else int(label))
        else:
            objects.append(_objects(layout, example[layout.objects], size, f"number {number}", faults))
    faults.require(len(kept), total, "examples")
    if not total:
        raise DataError(f"{faults.where}: it holds no example")
    integers = all(isinstance(one, int) for one in ids)
    columns: dict[str, Any] = {
        "file": np.array([f"{faults.where} {number}" for number in kept], object),
        "id": np.array(ids, np.int64 if integers else object),
        "size": np.array(sizes, np.int32).reshape(-1, 2),
    }
    if layout.label is not None:
        columns["label"] = np.array(labels, np.float32 if layout.multi_label else np.int32)
    else:
        columns["boxes"] = Ragged.of([one[0] for one in objects], np.float32, (4,))
        columns["labels"] = Ragged.of([one[1] for one in objects], np.int32)
        columns["crowd"] = Ragged.of([one[2] for one in objects], bool)
    return columns, layout.names, np.array(kept, np.int64)


def _id(value: Any) -> int | str:
    value = np.asarray(value).item()
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _objects(
    layout: _Layout, objects: Mapping[str, Any], size: tuple[int, int], where: str, faults: Faults
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes in pixels (TFDS stores top, left, bottom, right as shares), labels, crowd."""
    boxes = np.asarray(objects[layout.box], np.float32).reshape(-1, 4)[:, [1, 0, 3, 2]]
    boxes = boxes * np.array([size[1], size[0]] * 2, np.float32)
    labels = np.asarray(objects[layout.object_label], np.int32).reshape(-1)
    crowd = np.zeros(len(labels), bool)
    if layout.crowd is not None:
        crowd = np.asarray(objects[layout.crowd], bool).reshape(-1)
    if not len(boxes) == len(labels) == len(crowd):
        faults.add("example(s) taken as empty, with unequal numbers of boxes and classes", where)
        return boxes[:0], labels[:0], crowd[:0]
    checks = (
        ("whose box is not four finite numbers", np.isfinite(boxes).all(1)),
        ("whose box has no width or height", (boxes[:, 2:] > boxes[:, :2]).all(1)),
        ("without a class", (labels >= 0) & (labels < len(layout.names))),
    )
    good = np.ones(len(boxes), bool)
    for what, fine in checks:
        faults.extend(f"object(s) left out {what}", int((good & ~fine).sum()), [where])
        good &= fine
    return boxes[good], labels[good], crowd[good]
