"""`build`: a `dict(name=..., **arguments)`, or a name, -> the object that the registered constructor makes of it."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxvision import registry
from jaxvision.config import schema, sections
from jaxvision.config.complete import complete_slot
from jaxvision.config.node import Config, ConfigError, Leaf, Many, Tree, join, to_plain

SECTIONS = {
    "data": sections.Data,
    "schedule": sections.Schedule,
    "evaluation": sections.Evaluation,
    "checkpoint": sections.Checkpoint,
    "log": sections.Log,
    "parallel": sections.Parallel,
}


def build(kind: str, spec: Any, *, path: str = "", **extra: Any) -> Any:
    """Builds a registered constructor; arguments that are slots are built first.

    Args:
      kind: of the registry.
      spec: a name, "name:first argument", or a mapping with a `name`; what it leaves out has its default.
      path: where the spec stands in a config, for error messages.
      **extra: objects that a config does not hold. Those that the row lists as `supplied` are passed where the
        constructor takes them; others must be parameters of it.

    Sequences become tuples and mappings hashable `FrozenDict`s, so that modules stay hashable.

    Raises:
      ConfigError: an unknown name or argument, or a constructor that refuses its arguments; says where.
    """
    path = path or (spec._path if isinstance(spec, Config) else "") or kind
    return _construct(kind, complete_slot(kind, spec, path), path, extra)


def section(config: Config, name: str) -> Any:
    """A section as its frozen dataclass; slots in it stay hashable mappings."""
    if name not in SECTIONS:
        raise ConfigError(f"unknown section {name!r}: {registry.hint(name, SECTIONS)}")
    cls = SECTIONS[name]
    return cls(**{field.name: _frozen(to_plain(config[name][field.name])) for field in dataclasses.fields(cls)})


def _construct(kind: str, tree: Tree, path: str, extra: dict[str, Any]) -> Any:
    entry = registry.lookup(kind, tree["name"].plain)
    known = schema.parameters(entry.load())
    fields = schema.constructor(entry).fields
    arguments = dict(entry.fixed)
    inner = (kind, {**extra, **entry.nested})
    for key, value in tree.items():
        if key != "name" or "name" in fields:
            arguments[key] = _value(fields.get(key), value, join(path, key), inner)
    for key, value in extra.items():
        if key in known.fields or known.open:
            arguments[key] = value
        elif key not in entry.supplied:
            raise ConfigError(f"{path}: {kind} {entry.name!r} takes no {key}; {registry.hint(key, known.fields)}")
    missing = [n for n, f in known.fields.items() if f.default is schema.REQUIRED and n not in arguments]
    if missing:
        raise ConfigError(f"{path}: {kind} {entry.name!r} needs {', '.join(missing)}")
    try:
        return entry.load()(**arguments)
    except ConfigError:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{path}: {kind} {entry.name!r} cannot be built: {error}") from error


def _value(field: schema.Field | None, tree: Any, path: str, supplied: tuple[str, Mapping[str, Any]] = ("", {})) -> Any:
    """`supplied`: a kind, and what slots of that kind get as far as their rows list it."""
    expected = field.type if field is not None else None
    if isinstance(tree, Many):
        assert expected is not None and expected.element is not None
        element = schema.Field(field.name if field else "", expected.element, schema.REQUIRED)
        return tuple(_value(element, item, f"{path}[{i}]", supplied) for i, item in enumerate(tree.items))
    if isinstance(tree, Leaf):
        return _frozen(tree.plain)
    slot = expected.find("slot") if expected is not None else None
    if slot is not None:
        known = registry.lookup(slot.value, tree["name"].plain).supplied if slot.value == supplied[0] else ()
        return _construct(slot.value, tree, path, {key: supplied[1][key] for key in known if key in supplied[1]})
    struct = expected.find("struct") if expected is not None else None
    if struct is not None:
        fields = schema.section(struct.value).fields
        return struct.value(**{key: _value(fields[key], value, join(path, key)) for key, value in tree.items()})
    return _frozen({key: _value(None, value, join(path, key)) for key, value in tree.items()})


def _frozen(value: Any) -> Any:
    if isinstance(value, dict):
        from flax.core import FrozenDict

        return FrozenDict({key: _frozen(element) for key, element in value.items()})
    return tuple(map(_frozen, value)) if isinstance(value, tuple) else value
