"""A data set of files as columns: its annotations in a few arrays, its images on disk.

Columns take little memory, are shared by worker threads, and make wrappers trivial: a subset, a fold, a class-balanced
or repeated set is the same table with other rows.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Int

from jaxvision.data.images import read_image
from jaxvision.data.samples import INSTANCE_KEYS, Sample


@dataclasses.dataclass(frozen=True, eq=False)
class Ragged:
    """Rows of any length in one array: row i is `values[splits[i] : splits[i + 1]]`."""

    values: np.ndarray
    splits: Int[np.ndarray, " rows_and_1"]

    def __len__(self) -> int:
        return len(self.splits) - 1

    def row(self, index: int) -> np.ndarray:
        return self.values[self.splits[index] : self.splits[index + 1]]

    def take(self, rows: Int[np.ndarray, " n"]) -> "Ragged":
        lengths = np.diff(self.splits)[rows]
        splits = np.concatenate([[0], np.cumsum(lengths)])
        within = np.arange(splits[-1]) - np.repeat(splits[:-1], lengths)
        return Ragged(self.values[np.repeat(self.splits[:-1][rows], lengths) + within], splits)

    @classmethod
    def of(cls, rows: Sequence[Any], dtype: Any, shape: tuple[int, ...] = ()) -> "Ragged":
        """From one array-like `[n_i, *shape]` per row; empty rows may be `[]`."""
        arrays = [np.asarray(row, dtype).reshape(-1, *shape) for row in rows]
        splits = np.concatenate([[0], np.cumsum([len(array) for array in arrays])]).astype(np.int64)
        return cls(np.concatenate(arrays) if arrays else np.zeros((0, *shape), dtype), splits)


Column = np.ndarray | Ragged


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
    """A `SampleSource` over image files.

    Columns, each with one row per image: `file` (object array of paths; required), `id`, `size` (int32 height and
    width as the annotations say, zeros where they do not), `label`, and `Ragged` ones of `data.samples` with one value
    per object (`boxes` in pixels of the upright image, `labels`, `crowd`, `area`, `keypoints`, `rotated_boxes`), and
    `proposals` (float32 `[p, 4]` of each image). What
    costs memory or time stays encoded until a sample is read: `segmentation` (Ragged of objects: COCO polygons or
    RLE) becomes `masks`, as `instance_file` does with the Ragged column `instance_values` (the value of each object's
    pixels); `semantic_file` becomes `semantic`; `panoptic_file` with the Ragged columns `segment_ids`,
    `segment_labels`, `segment_crowd` becomes `panoptic`.

    Attributes:
      name: what it is called in messages and reports.
      class_names: one name per class.
      columns: see above.
      keypoint_names: one name per keypoint.
      semantic_values: the class of each of the 256 values of a semantic map file, uint8 `[256]`, `IGNORED` for none;
        None where files hold classes already. uint8 `[m, 256]` where a column `semantic_table` says which of m such
        tables is that of a row.
      things: whether each class is of countable things, not of stuff; empty where nothing says so.
      read: bytes of image `index` where they lie in no file of their own (a record); None reads `file`.
    """

    name: str
    class_names: tuple[str, ...]
    columns: Mapping[str, Column]
    keypoint_names: tuple[str, ...] = ()
    semantic_values: np.ndarray | None = None
    things: tuple[bool, ...] = ()
    read: Callable[[int], bytes] | None = None

    def __post_init__(self) -> None:
        lengths = {name: len(column) for name, column in self.columns.items()}
        if "file" not in lengths or len(set(lengths.values())) > 1:
            raise ValueError(f"{self.name}: columns need a `file` and equal lengths, got {lengths}")

    def __len__(self) -> int:
        return len(self.columns["file"])

    @property
    def files(self) -> np.ndarray:
        """The column of that name: where each image lies, an object array of str."""
        return np.asarray(self.columns["file"])

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def multi_label(self) -> bool:
        """Whether `label` is a row of zeros and ones instead of one class (or one for each of several questions)."""
        return (
            "label" in self.columns
            and isinstance(self.columns["label"], np.ndarray)
            and self.columns["label"].ndim == 2
            and np.issubdtype(self.columns["label"].dtype, np.floating)
        )

    @property
    def annotations(self) -> tuple[str, ...]:
        """Keys of its samples beside `image`, `file` and `id`."""
        decoded = {"segmentation": "masks", "instance_file": "masks"}
        decoded |= {"semantic_file": "semantic", "panoptic_file": "panoptic"}
        hidden = ("file", "id", "size", "segment_ids", "instance_values", "semantic_table")
        return tuple(decoded.get(name, name) for name in self.columns if name not in hidden)

    def take(self, rows: Int[np.ndarray, " n"]) -> "Table":
        """The table of these rows, in this order, repeats included."""
        rows = np.asarray(rows, np.int64)
        columns = {
            name: column.take(rows) if isinstance(column, Ragged) else column[rows]
            for name, column in self.columns.items()
        }
        read = self.read
        moved = None if read is None else lambda index: read(int(rows[index]))
        return dataclasses.replace(self, columns=columns, read=moved)

    def row(self, index: int) -> dict[str, Any]:
        """The values of one row as they are stored; nothing is read or decoded."""
        return {name: self.row_of(name, index) for name in self.columns}

    def row_of(self, name: str, index: int) -> Any:
        """One value, as it is stored."""
        column = self.columns[name]
        return column.row(index) if isinstance(column, Ragged) else column[index]

    def file(self, index: int) -> str:
        """Where the image lies, or what it is called."""
        return str(self.row_of("file", index))

    def encoded(self, index: int) -> bytes:
        """The bytes of the image file."""
        return self.read(index) if self.read is not None else epath.Path(self.file(index)).read_bytes()

    def sample(self, index: int) -> Sample:
        """See `SampleSource`.

        Raises:
          ImageError: an image or a map that cannot be read; the message names the file.
        """
        image = read_image(self.read(index)) if self.read is not None else read_image(self.file(index))
        return {"image": image, **self.annotation(index, image.shape[:2])}

    def annotation(self, index: int, size: tuple[int, int]) -> Sample:
        """Everything of a sample but its image, for an upright image of `size` (height, width)."""
        from jaxvision.data import maps

        row = self.row(index)
        sample: Sample = {"file": str(row["file"]), "id": row.get("id", index)}
        for name, value in row.items():
            if name in INSTANCE_KEYS or name in ("label", "proposals", "segment_labels", "segment_crowd"):
                sample[name] = tuple(value) if name == "texts" else np.array(value)
        if "label" in sample and not sample["label"].ndim:
            sample["label"] = int(sample["label"])
        if "segmentation" in row:
            sample["masks"] = maps.instance_masks(row["segmentation"], size)
        if "instance_file" in row:
            sample["masks"] = maps.read_instances(row["instance_file"], size, row["instance_values"])
        if "semantic_file" in row:
            values = self.semantic_values
            if values is not None and values.ndim == 2:
                values = values[row["semantic_table"]]
            sample["semantic"] = maps.read_semantic(row["semantic_file"], size, values)
        if "panoptic_file" in row:
            sample["panoptic"] = maps.read_panoptic(row["panoptic_file"], size, row["segment_ids"])
        return sample
