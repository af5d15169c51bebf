"""`Config`: a `ConfigDict` that knows where each value came from, and its conversion to and from a tree of leaves.

While a config file writes it, it is open; `complete` returns it locked, and every later assignment is checked.
"""

import dataclasses
import itertools
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import ml_collections
from ml_collections import config_dict

from jaxvision.config import types
from jaxvision.errors import UserError
from jaxvision.registry import hint


class ConfigError(UserError, ValueError):
    """A mistake in a config or on the command line, told in one line."""


DEFAULT, FILE, SMOKE, COMMAND_LINE = range(4)
_clock = itertools.count(1)


@dataclasses.dataclass(frozen=True, order=True)
class Origin:
    """Where a value came from. Origins compare by who wins: rank (default < file < smoke < command line), then time."""

    rank: int
    time: int
    text: str = dataclasses.field(compare=False, default="")

    @classmethod
    def default(cls, owner: str) -> "Origin":
        return cls(DEFAULT, 0, f"default of {owner}")

    @classmethod
    def now(cls, rank: int, text: str) -> "Origin":
        return cls(rank, next(_clock), text)

    @classmethod
    def read(cls, text: str) -> "Origin":
        """The origin of a value in a saved config."""
        ranks = {"default": DEFAULT, "smoke": SMOKE, "command": COMMAND_LINE}
        return cls(ranks.get(text.partition(" ")[0], FILE), 0, text)


@dataclasses.dataclass(frozen=True)
class Leaf:
    """A value of a tree, with its origin and, once completed, its type."""

    value: Any
    origin: Origin
    type: types.Type = types.ANY

    @property
    def plain(self) -> Any:
        """The value, read through a reference."""
        return self.value.get() if isinstance(self.value, config_dict.FieldReference) else self.value


@dataclasses.dataclass(frozen=True)
class Many:
    """A tuple of slots or structs."""

    items: tuple[Any, ...]
    origin: Origin
    type: types.Type = types.ANY


Tree = dict[str, Any]
"""A node: name -> Leaf | Many | Tree."""


class Config(ml_collections.ConfigDict):
    """Settings by name (`config.data.batch_size`); see the module's docstring."""

    def __init__(self, values: Mapping[str, Any] | None = None, origin: Origin | None = None, path: str = ""):
        super().__init__(type_safe=False, convert_dict=False, sort_keys=False)
        state = {"_origins": {}, "_kinds": {}, "_path": path, "_arg": "", "_notes": ()}
        for name, value in state.items():
            object.__setattr__(self, name, value)
        for key, value in (values or {}).items():
            self.assign(key, value, origin or here())

    def __setitem__(self, key: str, value: Any) -> None:
        self.assign(key, value, here())

    def assign(self, key: str, value: Any, origin: Origin) -> None:
        """Sets a value; a locked config checks its name and type."""
        path = join(self._path, str(key))
        if not isinstance(key, str) or "." in key:
            raise ConfigError(f"{path} ({origin.text}): a key is a name without dots")
        if self.is_locked and key not in self._fields:
            raise ConfigError(f"unknown key {path} ({origin.text}): {hint(key, self._fields)}")
        value = _convert(value, origin, path)
        expected = self._kinds.get(key)
        if self.is_locked and expected is not None and not isinstance(value, config_dict.FieldReference):
            value = _checked(value, expected, path, origin)
        field = self._fields.get(key)
        if isinstance(field, config_dict.FieldReference) and not isinstance(
            value, (Config, config_dict.FieldReference)
        ):
            field.set(value, type_safe=False)  # so that whatever refers to this field follows
        else:
            self._fields[key] = value
        self._origins[key] = origin

    def __getitem__(self, key: str) -> Any:
        if key not in self._fields:
            raise KeyError(f"unknown key {join(self._path, str(key))}: {hint(key, self._fields)}")
        return super().__getitem__(key)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def __repr__(self) -> str:
        return f"Config({to_plain(self)})"

    __str__ = __repr__


def _convert(value: Any, origin: Origin, path: str) -> Any:
    """Mappings as configs, sequences as tuples; a config keeps its own origins."""
    if isinstance(value, Config):
        return value
    if isinstance(value, (Mapping, ml_collections.ConfigDict)):
        return Config(value, origin, path)
    if isinstance(value, (list, tuple)):
        return tuple(_convert(element, origin, f"{path}[{i}]") for i, element in enumerate(value))
    return value


def _checked(value: Any, expected: types.Type, path: str, origin: Origin) -> Any:
    if any(option.name in ("slot", "struct", "dict") for option in (*expected.options, *_element_options(expected))):
        return value  # checked as a whole by complete() and build()
    try:
        return types.coerce(value, expected)
    except types.Mismatch as error:
        raise ConfigError(f"{path} ({origin.text}): {error}") from None


def _element_options(expected: types.Type) -> tuple[types.Option, ...]:
    return expected.element.options if expected.element is not None else ()


def join(path: str, key: str) -> str:
    """`path.key`."""
    return f"{path}.{key}" if path else key


def to_tree(value: Any, origin: Origin) -> Any:
    """Plain data as a tree, all of it from `origin`; a config's values keep theirs."""
    if isinstance(value, Config):
        return {key: to_tree(field, value._origins[key]) for key, field in value.items(preserve_field_references=True)}
    if isinstance(value, (Mapping, ml_collections.ConfigDict)):
        return {key: to_tree(element, origin) for key, element in value.items()}
    if isinstance(value, (list, tuple)) and any(isinstance(v, (Mapping, ml_collections.ConfigDict)) for v in value):
        return Many(tuple(to_tree(item, origin) for item in value), origin)
    return Leaf(value, origin)


def from_tree(tree: Tree, path: str = "") -> Config:
    """The locked config of a completed tree."""
    config = Config(path=path)
    for key, node in tree.items():
        value: Any
        if isinstance(node, dict):
            value = from_tree(node, join(path, key))
            config._origins[key] = Origin(DEFAULT, 0, "")
        else:
            config._origins[key], config._kinds[key] = node.origin, node.type
            if isinstance(node, Many):
                value = tuple(from_tree(item, f"{join(path, key)}[{i}]") for i, item in enumerate(node.items))
            elif node.type.optional and not isinstance(node.value, config_dict.FieldReference):
                value = config_dict.FieldReference(node.value, field_type=node.type.classes)
            else:
                value = node.value
        config._fields[key] = value
    object.__setattr__(config, "_locked", True)
    object.__setattr__(config, "_type_safe", True)
    return config


def explicit(tree: Any) -> Any:
    """The tree without defaults; None where nothing is left."""
    if isinstance(tree, Leaf):
        return None if tree.origin.rank == DEFAULT else tree
    if isinstance(tree, Many):
        return (
            None if tree.origin.rank == DEFAULT else dataclasses.replace(tree, items=tuple(map(_kept_item, tree.items)))
        )
    return _kept(tree) or None


def _kept_item(item: Any) -> Any:
    return _kept(item) if isinstance(item, dict) else item


def _kept(tree: Tree) -> Tree:
    kept = ((key, explicit(node)) for key, node in tree.items())
    return {key: node for key, node in kept if node is not None}


def to_plain(value: Any) -> Any:
    """A config as dicts, tuples, numbers, strings and None."""
    if isinstance(value, ml_collections.ConfigDict):
        return {key: to_plain(element) for key, element in value.items()}
    if isinstance(value, (list, tuple)):
        return tuple(to_plain(element) for element in value)
    return value


def leaves(config: Config) -> Iterator[tuple[str, Any, Origin, types.Type | None]]:
    """(dotted path, value, origin, type) of each value, in the order of the config."""
    for key, value in config.items():
        path = join(config._path, key)
        if isinstance(value, Config):
            yield from leaves(value)
            if len(value):
                continue
        if isinstance(value, tuple) and any(isinstance(element, Config) for element in value):
            for element in value:
                yield from leaves(element)
        else:
            yield path, to_plain(value), config._origins[key], config._kinds.get(key)


_PACKAGES = (f"{Path(__file__).parent}{os.sep}", f"{Path(ml_collections.__file__).parent}{os.sep}")


def here() -> Origin:
    """The line of the config file that is running."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGES):
        frame = frame.f_back
    if frame is None:
        return Origin.now(FILE, "unknown")
    return Origin.now(FILE, f"{short_path(frame.f_code.co_filename)}:{frame.f_lineno}")


def short_path(path: str | Path) -> str:
    """A file relative to the working directory, or from its `configs` folder on, else in full."""
    path = Path(path)
    if path.is_relative_to(Path.cwd()):
        return str(path.relative_to(Path.cwd()))
    root = shipped_configs()
    return str(Path("configs") / path.relative_to(root)) if path.is_relative_to(root) else str(path)


def shipped_configs() -> Path:
    """The folder of the shipped configs: in the wheel inside the package, in a checkout beside it."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"
