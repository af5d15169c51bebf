"""What readers of data sets do with bad input.

A fault of the whole (no such file, invalid JSON, two images of one id) raises `DataError`, which names the file and the
item. A fault of one thing among many (a box of NaN, an image that was not downloaded) leaves that thing out; all of
them are counted and told in one `DataWarning` per data set, with the first few names. Where nothing is left, that is
an error too.
"""

import dataclasses
import warnings
from collections.abc import Iterable

from jaxvision.errors import SetupError

_EXAMPLES = 3


class DataError(SetupError):
    """A data set that cannot be used; the message names the file."""


@dataclasses.dataclass(frozen=True)
class Fault:
    """One kind of bad input: how often, and the first few places."""

    what: str
    count: int
    examples: tuple[str, ...]

    def __str__(self) -> str:
        more = ", ..." if self.count > len(self.examples) else ""
        return f"{self.count} {self.what}" + (f" ({', '.join(self.examples)}{more})" if self.examples else "")


class DataWarning(UserWarning):
    """Parts of a data set that are left out.

    Attributes:
      faults: the same as the message, in parts.
    """

    def __init__(self, message: str, faults: tuple[Fault, ...] = ()):
        super().__init__(message)
        self.faults = faults


class Faults:
    """Collects the faults of one data set while it is read."""

    def __init__(self, where: str):
        """`where` is what messages begin with, usually a path."""
        self.where = where
        self._counts: dict[str, int] = {}
        self._examples: dict[str, list[str]] = {}

    def add(self, what: str, *items: str) -> None:
        """Counts each of `items` as `what` ("object(s) left out: ...")."""
        self.extend(what, len(items), items)

    def extend(self, what: str, count: int, items: Iterable[str]) -> None:
        """Counts `count` of them; no more of `items` is consumed than is told."""
        if not count:
            return
        self._counts[what] = self._counts.get(what, 0) + count
        examples = self._examples.setdefault(what, [])
        for item in items:
            if len(examples) == _EXAMPLES:
                break
            examples.append(item)

    @property
    def found(self) -> tuple[Fault, ...]:
        return tuple(Fault(what, count, tuple(self._examples[what])) for what, count in self._counts.items())

    def __str__(self) -> str:
        return "; ".join(map(str, self.found))

    def require(self, kept: int, total: int, things: str) -> None:
        """Raises DataError where none of `total` things is left."""
        if total and not kept:
            raise DataError(f"{self.where}: none of its {total} {things} can be used: {self}")

    def warn(self) -> None:
        """Tells everything in one warning."""
        if self._counts:
            warnings.warn(DataWarning(f"{self.where}: {self}", self.found), stacklevel=3)
