"""Names -> constructors: one static table, whose targets are imported when they are built.

`table` is the mechanism; `rows`, `families`, `detectors` and `segmentors` are what it holds.
"""

from jaxvision.registry import detectors, families, rows, segmentors  # noqa: F401  (fill the table)
from jaxvision.registry.table import (
    CLASSIFIER,
    KINDS,
    SUPPLIED,
    Entry,
    RegistryError,
    entries,
    hint,
    is_registered,
    lookup,
    names,
    register,
    register_alias,
    register_family,
    slot_kind,
)

__all__ = [
    "CLASSIFIER",
    "KINDS",
    "SUPPLIED",
    "Entry",
    "RegistryError",
    "entries",
    "hint",
    "is_registered",
    "lookup",
    "names",
    "register",
    "register_alias",
    "register_family",
    "slot_kind",
]
