"""Data sets made of others: parts, repetitions and unions of tables. All are selections of rows; no image is read.

`repeat`, `class_balanced` and `subset` change what is trained on; the validation part stays what it is, so that
results can be compared. All of them are registered sources whose own `source` (or `sources`) a config nests:

    config.data.source = dict(name="k_fold", folds=5, fold=0, source=dict(name="image_folder", path="flowers"))
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from jaxvision.data.faults import DataError
from jaxvision.data.order import permutation, random_words
from jaxvision.data.samples import IGNORED
from jaxvision.data.sources.memory import check_split
from jaxvision.data.table import Column, Ragged, Table
from jaxvision.errors import SetupError

HOLDOUT = 5
"""Of a data set without a validation part every fifth sample is held out: 80 / 20."""


def holdout(table: Table, split: str) -> Table:
    """The fixed training or validation part of a table that has none: fold 0 of `HOLDOUT`, seed 0; of fewer samples
    than that, one is held out.

    Raises:
      DataError: a single sample.
    """
    if len(table) < 2:
        raise DataError(f"{table.name}: {len(table)} image is too few to hold a part of it out; name a validation part")
    return k_fold(table, min(HOLDOUT, len(table)), split=split)


def k_fold(source: Table, folds: int = 5, fold: int = 0, seed: int = 0, *, split: str) -> Table:
    """Cross-validation: the samples of one fold are the validation part, all others the training part.

    Every sample is in one fold; the folds' sizes differ by at most one, and so do the counts of each class where images
    have one `label`. Rows keep their order.

    Args:
      source: what is divided: in a config its training part, whatever its validation part.
      folds: how many, at least 2.
      fold: 0..folds-1.
      seed: of the division.
      split: "train" or "validation".

    Raises:
      SetupError: a fold that is not there, or fewer samples than folds.
    """
    check_split(split)
    if folds < 2 or not 0 <= fold < folds:
        raise SetupError(f"k_fold: fold {fold} of {folds}: expected at least 2 folds, numbered from 0")
    if len(source) < folds:
        raise SetupError(f"k_fold: {source.name!r} has {len(source)} samples, too few for {folds} folds")
    order = permutation(seed, 0, len(source))
    labels = source.columns.get("label")
    if isinstance(labels, np.ndarray) and labels.ndim == 1:
        order = order[np.argsort(labels[order], kind="stable")]
    fold_of = np.empty(len(source), np.int64)
    fold_of[order] = (
        np.arange(len(source)) % folds
    )  # counts on from class to class, so that all folds are equally large
    return source.take(np.flatnonzero((fold_of == fold) == (split == "validation")))


def subset(source: Table, examples: int | None = None, eval_examples: int | None = None, seed: int = 0, *, split: str):
    """A random part of a table: `examples` of its training and `eval_examples` of its validation part; None: all.

    A larger part with the same seed holds the smaller one. Rows keep their order.

    Raises:
      SetupError: more than there are, or none.
    """
    check_split(split)
    count = examples if split == "train" else eval_examples
    if count is None:
        return source
    if not 0 < count <= len(source):
        raise SetupError(f"subset: {count} of the {len(source)} samples of {source.name!r}: expected 1..{len(source)}")
    return source.take(np.sort(permutation(seed, 0, len(source))[:count]))


def repeat(source: Table, times: int, *, split: str = "train") -> Table:
    """The training part `times` times over: a small set in a union, or long epochs."""
    check_split(split)
    if times < 1:
        raise SetupError(f"repeat: times is {times}: expected at least 1")
    return source.take(np.tile(np.arange(len(source)), times)) if split == "train" else source


def class_balanced(source: Table, threshold: float = 1e-3, seed: int = 0, *, split: str = "train") -> Table:
    """The training part with rare classes more often.

    Where images have one `label`, each class gets as many rows as the largest has. Where they have objects, an image is
    repeated r = max over its classes of max(1, sqrt(threshold / f)) times, f being the share of images with that class
    (repeat-factor sampling, LVIS: Gupta et al. 2019, appendix B.2). The fraction of r is rounded up with that
    probability, drawn once from the seed; the paper draws anew for every epoch.

    Args:
      source: with `label` or `labels`.
      threshold: share of images below which a class counts as rare; not used with `label`.
      seed: of the rounding and of the choice of the additional rows.
      split: "train" or "validation".

    Raises:
      SetupError: no classes to balance, or a threshold that is not positive.
    """
    check_split(split)
    if not threshold > 0:
        raise SetupError(f"class_balanced: threshold is {threshold}: expected a share of images, such as 0.001")
    labels, objects = source.columns.get("label"), source.columns.get("labels")
    if isinstance(labels, np.ndarray) and labels.ndim == 1:
        rows = _equal_classes(labels, seed)
    elif isinstance(objects, Ragged):
        factors = repeat_factors(objects, threshold)
        chance = random_words(seed, 0, len(factors)) / 2.0**64
        rows = np.repeat(np.arange(len(source)), np.floor(factors + chance).astype(np.int64))
    else:
        raise SetupError(
            f"class_balanced: {source.name!r} has neither one label per image nor objects; it has "
            f"{', '.join(source.annotations) or 'no annotations'}"
        )
    return source.take(rows) if split == "train" else source


def _equal_classes(labels: Int[np.ndarray, " n"], seed: int) -> Int[np.ndarray, " m"]:
    classes, counts = np.unique(labels, return_counts=True)
    rows = []
    for label, count in zip(classes, counts, strict=True):
        own = np.flatnonzero(labels == label)
        whole, rest = divmod(int(counts.max()), int(count))
        rows += [np.tile(own, whole), own[permutation(seed, int(label), len(own))[:rest]]]
    return np.sort(np.concatenate(rows))


def repeat_factors(labels: Ragged, threshold: float) -> np.ndarray:
    """How often each image should be seen, float64 `[images]`, at least 1; see `class_balanced`."""
    images = np.repeat(np.arange(len(labels)), np.diff(labels.splits))
    pairs = np.unique(np.stack([images, labels.values], 1), axis=0)
    share = np.bincount(pairs[:, 1]) / max(1, len(labels))
    factors = np.ones(len(labels))
    if len(pairs):
        np.maximum.at(factors, pairs[:, 0], np.sqrt(threshold / share[pairs[:, 1]]))
    return factors


def concatenate(sources: Sequence[Table]) -> Table:
    """One table after another. Classes of the same name are one class; the others follow in the order they appear.

    Missing `crowd` and `area` are filled in; `id`s that occur twice get the number of their table before them.

    Raises:
      SetupError: no table, or tables whose annotations or keypoints differ.
    """
    tables = tuple(sources)
    if not tables:
        raise SetupError("concatenate: expected at least one source")
    names = tuple(dict.fromkeys(name for table in tables for name in table.class_names))
    label_of = {name: label for label, name in enumerate(names)}
    maps = [np.array([label_of[name] for name in table.class_names], np.int64) for table in tables]
    tables = tuple(_filled(table) for table in tables)
    first = tables[0]
    for table in tables[1:]:
        for what in ("annotations", "keypoint_names"):
            given, other = sorted(getattr(first, what)), sorted(getattr(table, what))
            if what == "keypoint_names":
                given, other = first.keypoint_names, table.keypoint_names  # type: ignore[assignment]
            if given != other:
                raise SetupError(f"concatenate: {first.name!r} has {what} {given}, {table.name!r} has {other}")
    columns = {
        key: _joined(
            [_renamed(table.columns[key], key, labels, len(names)) for table, labels in zip(tables, maps, strict=True)]
        )
        for key in first.columns
        if all(key in table.columns for table in tables)
    }
    columns["id"] = _unique_ids(tables)
    columns, values = _semantic(tables, maps, columns)
    things = {
        name: flag
        for t in tables
        for name, flag in zip(t.class_names, t.things or (True,) * t.num_classes, strict=True)
    }
    return dataclasses.replace(
        first,
        name=" + ".join(table.name for table in tables),
        class_names=names,
        columns=columns,
        semantic_values=values,
        things=tuple(things[name] for name in names) if any(table.things for table in tables) else (),
        read=_reader(tables),
    )


def _filled(table: Table) -> Table:
    """With the columns that readers may leave out."""
    columns = dict(table.columns)
    boxes = columns.get("boxes")
    if isinstance(boxes, Ragged):
        sides = boxes.values[:, 2:] - boxes.values[:, :2]
        columns.setdefault("crowd", Ragged(np.zeros(len(boxes.values), bool), boxes.splits))
        columns.setdefault("area", Ragged((sides[:, 0] * sides[:, 1]).astype(np.float32), boxes.splits))
    columns.setdefault("id", np.arange(len(table)))
    columns.setdefault("size", np.zeros((len(table), 2), np.int32))
    return dataclasses.replace(table, columns=columns)


def _renamed(column: Column, key: str, labels: np.ndarray, classes: int) -> Column:
    """A column of classes with the classes of the union."""
    if key in ("labels", "segment_labels") and isinstance(column, Ragged):
        return Ragged(labels[column.values].astype(np.int32), column.splits)
    if key == "label" and isinstance(column, np.ndarray):
        if column.ndim == 1:
            return labels[column].astype(np.int32)
        if np.issubdtype(column.dtype, np.integer):
            if len(labels) != classes or (labels != np.arange(classes)).any():
                raise SetupError("concatenate: tables with a label per question must have the same answers")
            return column
        wide = np.zeros((len(column), classes), np.float32)
        wide[:, labels] = column
        return wide
    return column


def _joined(columns: Sequence[Any]) -> Column:
    if not isinstance(columns[0], Ragged):
        return np.concatenate(columns)
    starts = np.cumsum([0] + [len(column.values) for column in columns])
    splits = [column.splits[:-1] + start for column, start in zip(columns, starts[:-1], strict=True)]
    return Ragged(np.concatenate([c.values for c in columns]), np.concatenate([*splits, starts[-1:]]).astype(np.int64))


def _unique_ids(tables: Sequence[Table]) -> np.ndarray:
    ids = [np.asarray(table.columns["id"]).tolist() for table in tables]
    flat = [own for table_ids in ids for own in table_ids]
    # A table that repeats rows repeats their ids; only the same id in two tables is a clash.
    if sum(len(set(own)) for own in ids) != len(set(flat)):
        flat = [f"{number}/{own}" for number, table_ids in enumerate(ids) for own in table_ids]
    integers = all(isinstance(own, int) for own in flat)
    return np.array(flat, np.int64 if integers else object)


def _semantic(
    tables: Sequence[Table], maps: Sequence[np.ndarray], columns: dict[str, Column]
) -> tuple[dict[str, Column], np.ndarray | None]:
    """The tables of values of all label maps in the union's classes, and which of them is that of each row."""
    if "semantic_file" not in columns:
        return columns, None
    rows: list[np.ndarray] = []
    chosen: list[np.ndarray] = []
    for table, labels in zip(tables, maps, strict=True):
        renamed = np.full(256, IGNORED, np.uint8)
        renamed[: len(labels)] = labels
        own = np.arange(256, dtype=np.uint8) if table.semantic_values is None else table.semantic_values
        own = np.atleast_2d(own)
        which = table.columns.get("semantic_table", np.zeros(len(table), np.int32))
        chosen.append(np.asarray(which) + sum(len(row) for row in rows))
        rows.append(renamed[own])
    values = np.concatenate(rows)
    if (values == values[0]).all():
        return {key: column for key, column in columns.items() if key != "semantic_table"}, values[0]
    return columns | {"semantic_table": np.concatenate(chosen).astype(np.int32)}, values


def _reader(tables: Sequence[Table]) -> Any:
    if all(table.read is None for table in tables):
        return None
    starts = np.cumsum([0] + [len(table) for table in tables])

    def read(index: int) -> bytes:
        number = int(np.searchsorted(starts, index, side="right")) - 1
        return tables[number].encoded(index - int(starts[number]))

    return read
