"""Names -> constructors: one static table of rows whose targets ("module:attr") are imported when they are built.

A constructor parameter that is named after a kind (`backbone=`, `norm=`) is a slot: a config fills it with the name of
a row of that kind. A user's own package adds rows with `register`, from a module that `config.imports` names.
"""

import dataclasses
import difflib
import fnmatch
import importlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from jaxvision.errors import UserError

KINDS = ("task", "model", "backbone", "neck", "norm", "source", "augment", "optimizer", "learning_rate")

SUPPLIED: Mapping[str, tuple[str, ...]] = {
    "task": ("model", "num_classes", "class_names"),
    "source": ("split", "image_size", "channels"),
}
"""Arguments that the library passes itself; they do not appear in a config."""


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
      supplied: parameters that the library passes, as far as the constructor has them.
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


_ROWS: dict[tuple[str, str], Entry] = {}


def register(
    kind: str,
    name: str,
    target: str | Callable[..., Any],
    *,
    smoke: Mapping[str, Any] | None = None,
    fixed: Mapping[str, Any] | None = None,
    supplied: tuple[str, ...] | None = None,
    doc: str = "",
    **preset: Any,
) -> None:
    """Adds a row; `preset` arguments replace defaults of the constructor. See `Entry`.

    The same row twice is accepted, because a module may be loaded twice.

    Raises:
      RegistryError: an unknown kind, or a name that another target has.
    """
    _check_kind(kind)
    entry = Entry(
        kind,
        name,
        target,
        preset,
        fixed or {},
        smoke or {},
        SUPPLIED.get(kind, ()) if supplied is None else supplied,
        doc,
    )
    old = _ROWS.get((kind, name))
    if old is not None and (old.address, old.preset, old.fixed) != (entry.address, entry.preset, entry.fixed):
        raise RegistryError(
            f"{kind} {name!r} is registered already, as {old.address}: register {entry.address} under another name"
        )
    _ROWS[kind, name] = entry


def lookup(kind: str, name: str) -> Entry:
    """The row of this name, or a RegistryError with the nearest ones."""
    _check_kind(kind)
    entry = _ROWS.get((kind, name))
    if entry is None:
        raise RegistryError(f"unknown {kind} {name!r}: {hint(name, names(kind))}")
    return entry


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


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise RegistryError(f"unknown kind {kind!r}: {hint(kind, KINDS)}")


def _fill_table() -> None:
    register("task", "classification", "jaxvision.classification.task:ClassificationTask")

    classifier = "jaxvision.classification.classifier:Classifier"
    register("model", "linear", classifier, backbone={"name": "flatten"}, doc="softmax regression on pixels")
    register("model", "lenet5", classifier, backbone={"name": "lenet5"}, doc="LeCun et al. 1998")
    for depth in (18, 34, 50, 101, 152):
        register(
            "model", f"resnet{depth}", classifier, backbone={"name": "resnet", "depth": depth}, doc="He et al. 2015"
        )

    register("backbone", "flatten", "jaxvision.classification.linear:Flatten")
    register("backbone", "lenet5", "jaxvision.backbones.lenet:LeNet5")
    register("backbone", "resnet", "jaxvision.backbones.resnet:ResNet", smoke={"depth": 18, "width": 8})

    for kind in ("bn", "sync_bn", "frozen_bn", "gn", "ln"):
        register("norm", kind, "jaxvision.layers.norm:Norm", fixed={"kind": kind})

    for name, attribute in (("digits", "Digits"), ("idx", "Idx"), ("npz", "Npz"), ("tfds", "Tfds")):
        register("source", name, f"jaxvision.data.sources:{attribute}", smoke={"name": "synthetic"})
    register("source", "synthetic", "jaxvision.data.sources:Synthetic", smoke={"num_examples": 20})

    for name, attribute in (
        ("color_jitter", "ColorJitter"),
        ("normalize", "Normalize"),
        ("random_crop_pad", "RandomCropPad"),
        ("random_flip", "RandomFlip"),
    ):
        register("augment", name, f"jaxvision.augment:{attribute}")

    for name in ("sgd", "adam", "adamw", "lamb", "lars", "lion", "rmsprop", "lbfgs"):
        register("optimizer", name, f"jaxvision.engine.optimizers:{name}")
    for name in (
        *("constant", "step", "cosine", "polynomial", "linear", "one_cycle"),
        *("exponential", "reduce_on_plateau", "restarts"),
    ):
        register("learning_rate", name, f"jaxvision.engine.schedules:{name}")


_fill_table()
