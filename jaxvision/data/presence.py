"""Which classes an image holds, from boxes or maps: labels for a classifier where there is nothing else to train."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from jaxvision.data.images import read_header
from jaxvision.data.maps import read_semantic
from jaxvision.data.samples import IGNORED
from jaxvision.data.table import Ragged, Table
from jaxvision.errors import SetupError


def presence(source: Table) -> Table:
    """The same images with a `label` only: float32 `[n, classes]`, 1 for each class of which something is in the image.

    That is an object of `labels` (crowds count: something of the class is there), a segment of `segment_labels`, or a
    pixel of `semantic_file`, whose files are all read.

    Raises:
      SetupError: a table without any of them, labels out of range, or a map that cannot be read.
    """
    columns, classes = source.columns, source.num_classes
    label = np.zeros((len(source), classes), np.float32)
    objects = columns.get("labels", columns.get("segment_labels"))
    if isinstance(objects, Ragged):
        values = objects.values.astype(np.int64)
        if len(values) and not 0 <= values.min() <= values.max() < classes:
            raise SetupError(
                f"presence: labels of {source.name} lie in {values.min()}..{values.max()}; expected 0..{classes - 1}"
            )
        label[np.repeat(np.arange(len(source)), np.diff(objects.splits)), values] = 1
    elif "semantic_file" in columns:
        for row, found in enumerate(_maps(source)):
            label[row, found[found < classes]] = 1
    else:
        raise SetupError(
            f"presence: {source.name} has neither objects nor maps, but {', '.join(source.annotations) or 'nothing'}"
        )
    kept = {name: column for name, column in columns.items() if name in ("file", "id", "size")}
    return Table(source.name, source.class_names, {**kept, "label": label}, read=source.read)


def _maps(table: Table) -> Iterator[np.ndarray]:
    """The classes in each semantic map."""

    def classes(path: str) -> np.ndarray:
        found = read_semantic(path, read_header(path).size, table.semantic_values)
        return np.setdiff1d(np.unique(found), [IGNORED])

    with ThreadPoolExecutor() as pool:
        yield from pool.map(classes, map(str, np.asarray(table.columns["semantic_file"])))
