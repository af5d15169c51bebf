"""Images with several labels of different kinds each, in a CSV file: a column per question."""

import csv
import io
from typing import Any

import numpy as np

from jaxvision.data.faults import DataError
from jaxvision.data.files import as_path, directory, read_text
from jaxvision.data.sources.memory import check_split
from jaxvision.data.table import Table
from jaxvision.data.wrappers import holdout

WHAT = "a CSV file with a header: a column of image files and one column per question"


def image_csv(
    path: str, train: str = "train.csv", validation: str | None = None, file_column: str = "file", *, split: str
) -> Table:
    """A table with `label` int32 `[columns]` per image: the answer to each question, -1 where the cell is empty.

    Args:
      path: folder of the CSV files; images are named relative to it.
      train: CSV file of the training part.
      validation: of the validation part; None takes `val.csv` where it is there, else holds a fifth of `train` out.
      file_column: name of the column of image files; every other column is a question.
      split: "train" or "validation".

    Class names are "column/answer"; the answers of a column are the sorted ones of both parts.

    Raises:
      DataError: no such file, no such column, another number of cells than the header, or no image.
    """
    check_split(split)
    root = directory(path, "a folder with train.csv and the images that it names")
    if validation is None and as_path(root / "val.csv").exists():
        validation = "val.csv"
    parts = {"train": _rows(str(root / train), file_column)}
    if validation is not None:
        parts["validation"] = _rows(str(root / validation), file_column)
    columns = list(parts["train"][0])
    for name, rows in parts.items():
        if list(rows[0]) != columns:
            raise DataError(f"{path}: the columns differ: {columns} in {train!r}, {list(rows[0])} of {name}")
    questions = [column for column in columns if column != file_column]
    if not questions:
        raise DataError(f"{path}/{train}: there is no column beside {file_column!r}; expected {WHAT}")
    answers = {
        question: sorted({row[question] for rows in parts.values() for row in rows} - {""}) for question in questions
    }
    own = parts.get(split, parts["train"])
    labels = [[answers[q].index(row[q]) if row[q] else -1 for q in questions] for row in own]
    table_columns: dict[str, Any] = {
        "file": np.array([str(root / row[file_column]) for row in own], object),
        "id": np.array([row[file_column] for row in own], object),
        "label": np.array(labels, np.int32),
    }
    names = tuple(f"{question}/{answer}" for question in questions for answer in answers[question])
    table = Table(f"image_csv:{root}", names, table_columns)
    return table if validation is not None else holdout(table, split)


def _rows(file: str, file_column: str) -> list[dict[str, str]]:
    reader = csv.DictReader(io.StringIO(read_text(file, WHAT)))
    if file_column not in (reader.fieldnames or ()):
        raise DataError(f"{file!r} has no column {file_column!r}, but {list(reader.fieldnames or ())}; expected {WHAT}")
    rows = []
    for row in reader:
        if None in row or None in row.values():
            raise DataError(f"{file!r}, line {reader.line_num}: another number of cells than the header's")
        rows.append({str(key): str(value).strip() for key, value in row.items()})
    if not rows:
        raise DataError(f"{file!r} names no image; expected {WHAT}")
    return rows
