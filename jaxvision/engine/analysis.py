"""What an analysis of a trained model is, for the tasks that offer some: `Analysis`, and the `Findings` it ends in.

`experiments.analyze` runs a model over its evaluation data once, hands every sample with its prediction to `look`, and
what came of it with the results of the metrics to `conclude`. So a direction says what its errors are in functions of
one sample, and reads no data.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

PyTree = Any
Sample = Mapping[str, Any]
_NUMBER = re.compile(r"[-+]?[\d.,]*(e[-+]?\d+)?%?|nan")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a person may choose of analyses.

    Attributes:
      iou: from which on a detection finds an object.
      score: above which a detection counts where one threshold is needed; None: the task's own.
    """

    iou: float = 0.5
    score: float | None = None


@dataclasses.dataclass(frozen=True)
class Findings:
    """What came of an analysis.

    Attributes:
      lines: for the console.
      json: the same as numbers; `plain` takes care of arrays and of what is not finite.
      pictures: by file name.
    """

    lines: Sequence[str]
    json: Any = None
    pictures: Mapping[str, UInt8[np.ndarray, "h w 3"]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Analysis:
    """One view of a model.

    Attributes:
      conclude: (results of the task's metrics, what `look` returned of each sample in the order of the data) -> what
        is told.
      look: (sample as its source has it, prediction without the batch's axis, both numpy) -> what is kept of it; None
        where the results of the metrics say everything.
    """

    conclude: Callable[[Mapping[str, Any], Sequence[Any]], Findings]
    look: Callable[[Sample, PyTree], Any] | None = None


@dataclasses.dataclass(frozen=True)
class ImageScore:
    """How good the prediction for one image is, for the sheet of the worst.

    Attributes:
      name: says what the number is.
      of: (sample, prediction) -> higher is better; nan: it cannot be said.
    """

    name: str
    of: Callable[[Sample, PyTree], float]


def table(heads: Sequence[str], rows: Sequence[Sequence[Any]], digits: int = 3) -> list[str]:
    """Lines of a table, text to the left, numbers to the right; floats have so many digits, nan is "-".

    Args:
      heads: of the columns.
      rows: cells: text, integers or floats.
    """
    cells = [list(heads), *([_cell(value, digits) for value in row] for row in rows)]
    columns: list[list[str]] = []
    for column in zip(*cells, strict=True):
        width = max(map(len, column))
        text = not columns or not all(_NUMBER.fullmatch(cell) for cell in column[1:])
        columns.append([cell.ljust(width) if text else cell.rjust(width) for cell in column])
    return ["  ".join(row).rstrip() for row in zip(*columns, strict=True)]


def class_table(
    names: Sequence[str], columns: Mapping[str, np.ndarray], more: Mapping[str, np.ndarray] | None = None
) -> tuple[list[str], dict[str, Any]]:
    """Lines and JSON of scores of each class.

    Args:
      names: of the classes.
      columns: name of a score -> its values, at least one.
      more: further columns.

    Raises:
      ValueError: no score.
    """
    if not columns:
        raise ValueError("the metrics of this task have no scores of single classes")
    cells = {**columns, **(more or {})}
    rows = [[name, *(column[i] for column in cells.values())] for i, name in enumerate(names)]
    told = [{"class": name, **{head: column[i] for head, column in cells.items()}} for i, name in enumerate(names)]
    return table(["class", *cells], rows), {"classes": told}


def confused(matrix: Int[np.ndarray, "c c"], most: int = 10) -> list[tuple[int, int, int, float]]:
    """(truth, prediction, count, share of the truth) of the most frequent confusions, the truth in rows."""
    wrong = np.where(np.eye(len(matrix), dtype=bool), 0, matrix)
    found = []
    for place in np.argsort(-wrong, axis=None, kind="stable")[:most]:
        true, taken = divmod(int(place), len(matrix))
        count = int(wrong[true, taken])
        if count:
            found.append((true, taken, count, count / max(1, int(matrix[true].sum()))))
    return found


def confused_lines(matrix: Int[np.ndarray, "c c"], names: Sequence[str], most: int = 10) -> list[str]:
    """The table of `confused`."""
    rows = [[names[i], names[j], count, f"{share:.1%}"] for i, j, count, share in confused(matrix, most)]
    return table(["truth", "taken for", "count", "of the truth"], rows) if rows else ["nothing is confused"]


def precision_at_recalls(
    score: Float[np.ndarray, " n"], right: Bool[np.ndarray, " n"], objects: int
) -> Float[np.ndarray, "101"]:
    """The best precision at recalls of 0, 0.01, ..., 1 and above, as COCO has it; 0 beyond the last.

    Args:
      score: of what was found.
      right: whether it is.
      objects: how many there are to be found, at least 1.
    """
    hits = right[np.argsort(-score, kind="stable")]
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(np.cumsum(hits) / objects, np.arange(101) / 100, side="left")
    return np.append(precision, 0.0)[np.minimum(places, len(hits))]


def plain(value: Any) -> Any:
    """Arrays, numpy scalars and mappings as what JSON has; numbers that are not finite become None."""
    if isinstance(value, Mapping):
        return {str(key): plain(own) for key, own in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [plain(own) for own in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cell(value: Any, digits: int) -> str:
    if isinstance(value, (float, np.floating)):
        return "-" if not np.isfinite(value) else f"{value:.{digits}f}"
    return f"{value:,}" if isinstance(value, (int, np.integer)) else str(value)
