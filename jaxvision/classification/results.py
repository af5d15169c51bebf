"""What classifiers found, as people use it and as tables hold it."""

import csv
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Float, Int


@dataclasses.dataclass(frozen=True, eq=False)
class RankedClasses:
    """The best classes of an image, best first; iterates over (name, label, score).

    Attributes:
      labels: 0-based.
      scores: 0..1.
      names: of the classes.
    """

    labels: Int[np.ndarray, " k"]
    scores: Float[np.ndarray, " k"]
    names: tuple[str, ...]

    def __iter__(self) -> Iterator[tuple[str, int, float]]:
        return zip(self.names, self.labels.tolist(), self.scores.tolist(), strict=True)

    def __len__(self) -> int:
        return len(self.names)

    def __str__(self) -> str:
        return f"{self.names[0]:<16} {self.scores[0]:.4f}"


class ClassTable:
    """`classes.csv`: a line for each class that is listed for an image, the best ones first.

    Columns: `file`, `frame` (of a video, from 0), `head` (of several), `rank` (from 1), `class`, `label`, `score`.
    """

    def __init__(self, folder: epath.Path, found: Callable[[Any, Any], Any]) -> None:
        """`found` is that of the task: `RankedClasses`, or those of each head by name."""
        self.path = folder / "classes.csv"
        self._found = found
        self._stream: Any = self.path.open("w")
        self._table = csv.writer(self._stream, lineterminator="\n")
        self._table.writerow(("file", "frame", "head", "rank", "class", "label", "score"))

    def add(self, sample: Mapping[str, Any], prediction: Any) -> dict[str, Any]:
        found = self._found(sample, prediction)
        for head, ranked in found.items() if isinstance(found, Mapping) else [("", found)]:
            for rank, (name, label, score) in enumerate(ranked, 1):
                self._table.writerow((sample["file"], sample.get("frame", ""), head, rank, name, label, f"{score:.6g}"))
        return {}

    def close(self) -> Sequence[str]:
        self._stream.close()
        return (self.path.name,)
