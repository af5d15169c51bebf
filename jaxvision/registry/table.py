"""The table that maps names to constructors: rows whose targets ("module:attr") are imported when they are built.

A constructor parameter that is named after a kind (`backbone=`, `norm=`) is a slot: a config fills it with the name of
a row of that kind; its plural (`sources=`) is a tuple of slots. A user's own package adds rows with `register`, from a
module that `config.imports` names.
"""

import dataclasses
import difflib
import fnmatch
import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from jaxvision.errors import UserError

KINDS = (
    "task",
    "model",
    "backbone",
    "neck",
    "norm",
    "source",
    "host_transform",
    "augment",
    "loss",
    "optimizer",
    "learning_rate",
    "tta",
)

SUPPLIED: Mapping[str, tuple[str, ...]] = {
    "task": ("model", "num_classes", "class_names"),
    "source": ("split", "image_size", "channels", "max_instances"),
}
"""Arguments that the library passes itself; they do not appear in a config."""

SLOTS: Mapping[str, str] = {"teacher": "model"}
"""Constructor parameters that are slots of another kind than their name."""
PLURALS: Mapping[str, str] = {"losses": "loss"}
"""Tuples of slots whose name is not that of the kind and an s."""


CLASSIFIER = "jaxvision.classification.classifier:Classifier"


class RegistryError(UserError, ValueError):
    """An unknown or doubled name, or a target that cannot be imported."""


@dataclasses.dataclass(frozen=True, eq=False)
class Entry:
    """One row of the table.

    Attributes:
      kind: one of `KINDS`.
      name: what configs call it.
      target: the constructor, or "module:attr".
      preset: arguments that replace the constructor's defaults; visible in the config.
      fixed: arguments that the name itself stands for; not in the config.
      smoke: arguments of the tiny form; a `name` among them replaces the row by another one.
      supplied: parameters that the library passes, as far as the constructor has them, and to the slots of the same
        kind in it, as far as their rows list them.
      nested: arguments that those slots get instead.
      doc: one line for lists.
    """

    kind: str
    name: str
    target: str | Callable[..., Any]
    preset: Mapping[str, Any]
    fixed: Mapping[str, Any]
    smoke: Mapping[str, Any]
    supplied: tuple[str, ...]
    doc: str = ""
    nested: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def address(self) -> str:
        """The target as "module:attr"."""
        if isinstance(self.target, str):
            return self.target
        return f"{self.target.__module__}:{getattr(self.target, '__qualname__', type(self.target).__qualname__)}"

    def load(self) -> Callable[..., Any]:
        """Imports the constructor."""
        if not isinstance(self.target, str):
            return self.target
        module, _, attribute = self.target.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except Exception as error:  # a user's module may fail in any way
            why = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise RegistryError(f"{self.kind} {self.name!r} ({self.target}) cannot be imported: {why}") from error


class _Size(Mapping):
    """The fields of one size of a family, read from its table when they are needed."""

    def __init__(self, table: str, size: str):
        self._table, self._size = table, size

    def _fields(self) -> Mapping[str, Any]:
        module, _, attribute = self._table.partition(":")
        return getattr(importlib.import_module(module), attribute)[self._size]

    def __getitem__(self, key: str) -> Any:
        return self._fields()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields())

    def __len__(self) -> int:
        return len(self._fields())


_ROWS: dict[tuple[str, str], Entry] = {}
_ALIASES: dict[tuple[str, str], str] = {}


def register(
    kind: str,
    name: str,
    target: str | Callable[..., Any],
    *,
    smoke: Mapping[str, Any] | None = None,
    fixed: Mapping[str, Any] | None = None,
    supplied: tuple[str, ...] | None = None,
    nested: Mapping[str, Any] | None = None,
    doc: str = "",
    **preset: Any,
) -> None:
    """Adds a row; `preset` arguments replace defaults of the constructor. See `Entry`.

    The same row twice is accepted, because a module may be loaded twice.

    Raises:
      RegistryError: an unknown kind, or a name that another target has.
    """
    _check_kind(kind)
    supplied = SUPPLIED.get(kind, ()) if supplied is None else supplied
    _add(Entry(kind, name, target, preset, fixed or {}, smoke or {}, supplied, doc, nested or {}))


def register_family(
    name: str,
    target: str,
    sizes: Iterable[str],
    *,
    smoke: Mapping[str, Any],
    pooled: bool = False,
    classifier: str = CLASSIFIER,
    aliases: Mapping[str, str] | None = None,
    doc: str = "",
) -> None:
    """Adds a family of backbones under its own name and under each size's, and a classifier for each size.

    Args:
      target: "module:attr" of the constructor; the module's `SIZES` maps each name of `sizes` to its arguments.
      smoke: arguments of the tiny form.
      pooled: classifiers take the backbone's own "pooled" vector instead of the mean of its last level.
      classifier: constructor of the classifiers, with `backbone` and `num_classes`.
      aliases: other projects' name -> size.

    Raises:
      RegistryError: a name that another target has.
    """
    sizes = tuple(sizes)
    if name not in sizes:  # a family of one size
        register("backbone", name, target, smoke=smoke, doc=doc)
    table = f"{target.partition(':')[0]}:SIZES"
    for size in sizes:
        _add(Entry("backbone", size, target, _Size(table, size), {}, smoke, (), doc))
        backbone = {"name": size, "out_levels": ("pooled",)} if pooled else {"name": size}
        register("model", size, classifier, backbone=backbone, doc=doc)
    for alias, size in (aliases or {}).items():
        register_alias("backbone", alias, size)
        register_alias("model", alias, size)


def register_alias(kind: str, alias: str, name: str) -> None:
    """Another project's name for a row: `lookup` knows it, `names` does not list it.

    Raises:
      RegistryError: there is no row `name`, or another row is called `alias`.
    """
    lookup(kind, name)
    if (kind, alias) in _ROWS or _ALIASES.get((kind, alias), name) != name:
        raise RegistryError(f"{kind} {alias!r} is registered already: it cannot stand for {name!r}")
    _ALIASES[kind, alias] = name


def _add(entry: Entry) -> None:
    kind, name = entry.kind, entry.name
    if (kind, name) in _ALIASES:
        raise RegistryError(f"{kind} {name!r} stands for {_ALIASES[kind, name]!r} already: choose another name")
    old = _ROWS.get((kind, name))
    if old is not None and (old.address, old.preset, old.fixed) != (entry.address, entry.preset, entry.fixed):
        raise RegistryError(
            f"{kind} {name!r} is registered already, as {old.address}: register {entry.address} under another name"
        )
    _ROWS[kind, name] = entry


def lookup(kind: str, name: str) -> Entry:
    """The row of this name or alias, or a RegistryError with the nearest ones."""
    _check_kind(kind)
    entry = _ROWS.get((kind, _ALIASES.get((kind, name), name)))
    if entry is None:
        aliases = (alias for other, alias in _ALIASES if other == kind)
        raise RegistryError(f"unknown {kind} {name!r}: {hint(name, (*names(kind), *aliases))}")
    return entry


def is_registered(kind: str, name: str) -> bool:
    """Whether there is a row of this name or alias."""
    return (kind, name) in _ROWS or (kind, name) in _ALIASES


def names(kind: str, pattern: str = "*") -> tuple[str, ...]:
    """Registered names that match a shell pattern, sorted: `names("model", "resnet*")`."""
    _check_kind(kind)
    return tuple(sorted(name for row_kind, name in _ROWS if row_kind == kind and fnmatch.fnmatchcase(name, pattern)))


def entries() -> tuple[Entry, ...]:
    """Every row."""
    return tuple(_ROWS.values())


def hint(given: str, known: Iterable[str]) -> str:
    """ "did you mean 'x'?", or the list of what is known where nothing is near."""
    known = list(known)
    near = difflib.get_close_matches(str(given), known, n=1, cutoff=0.6)
    if not near:
        lower = {name.lower(): name for name in known}
        near = [lower[match] for match in difflib.get_close_matches(str(given).lower(), lower, n=1, cutoff=0.6)]
    if near:
        return f"did you mean {near[0]!r}?"
    return f"expected one of {', '.join(known)}" if known else "there is none yet"


def slot_kind(parameter: str) -> tuple[str, bool] | None:
    """The kind of the slot that a parameter of this name is, and whether it takes a tuple of them; None for others."""
    if parameter in KINDS or parameter in SLOTS:
        return SLOTS.get(parameter, parameter), False
    single = PLURALS.get(parameter, parameter.removesuffix("s"))
    return (single, True) if single != parameter and single in KINDS else None


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise RegistryError(f"unknown kind {kind!r}: {hint(kind, KINDS)}")
