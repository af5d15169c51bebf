"""What a constructor or a section accepts: the name, type and default of each of its parameters."""

import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any

from jaxvision import registry
from jaxvision.config import types
from jaxvision.config.node import ConfigError, Many, Origin, to_tree

REQUIRED = dataclasses.MISSING


@dataclasses.dataclass(frozen=True)
class Field:
    """One parameter.

    Attributes:
      default: `REQUIRED` where there is none.
      excludes: the parameter that is its alternative.
    """

    name: str
    type: types.Type
    default: Any = REQUIRED
    excludes: str | None = None


@dataclasses.dataclass(frozen=True)
class Signature:
    """The parameters by name; `open` where any other keyword is accepted as well."""

    fields: Mapping[str, Field]
    open: bool = False


@functools.cache
def section(cls: type) -> Signature:
    """The fields of a section or of another frozen dataclass."""
    hints = _hints(cls)
    fields = {}
    for field in dataclasses.fields(cls):
        kind = field.metadata.get("slot")
        if kind is not None:
            expected = types.slot(kind, many=field.metadata["many"], optional=field.default is None)
        else:
            expected = types.from_annotation(hints.get(field.name, Any))
        fields[field.name] = Field(field.name, expected, _default(field), field.metadata.get("excludes"))
    return Signature(fields)


def constructor(entry: registry.Entry) -> Signature:
    """The parameters of a registered constructor that a config shows, with the row's presets as defaults."""
    everything = parameters(entry.load())
    fields = {}
    for name, field in everything.fields.items():
        if name in entry.supplied or name in entry.fixed:
            continue
        fields[name] = dataclasses.replace(field, default=entry.preset[name]) if name in entry.preset else field
    unknown = [name for name in (*entry.preset, *entry.fixed) if name not in everything.fields]
    if unknown and not everything.open:
        raise ConfigError(f"{entry.kind} {entry.name!r} ({entry.address}) is registered with unknown {unknown[0]!r}")
    return Signature(fields, everything.open)


@functools.cache
def parameters(target: Callable[..., Any]) -> Signature:
    """The parameters of a dataclass, flax module, class or function."""
    hints = _hints(target)
    if dataclasses.is_dataclass(target):
        module = any(base.__module__.startswith("flax.linen") for base in inspect.getmro(target))
        hidden = ("parent", "name") if module else ()
        pairs = [(f.name, _default(f)) for f in dataclasses.fields(target) if f.init and f.name not in hidden]
        return Signature({name: _field(name, hints.get(name, Any), default) for name, default in pairs})
    fields, is_open = {}, False
    for parameter in inspect.signature(target).parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            is_open = True
        elif parameter.kind is not parameter.VAR_POSITIONAL:
            default = REQUIRED if parameter.default is parameter.empty else parameter.default
            fields[parameter.name] = _field(parameter.name, hints.get(parameter.name, Any), default)
    return Signature(fields, is_open)


def default_tree(field: Field, owner: str) -> Any:
    """The default of a parameter as a tree; objects that stand in a slot are named again."""
    origin, default = Origin.default(owner), field.default
    slot, struct = field.type.find("slot"), field.type.find("struct")
    if slot is not None and not isinstance(default, (str, Mapping)) and default is not None:
        return _named(default, slot.value, origin, owner, field.name)
    if struct is not None and isinstance(default, struct.value):
        inner = section(struct.value).fields.values()
        own = (dataclasses.replace(f, default=getattr(default, f.name)) for f in inner)
        return {f.name: default_tree(f, owner) for f in own}
    element = field.type.element
    kind = element.find("slot") if element is not None else None
    if kind is not None and isinstance(default, tuple) and any(not isinstance(x, (str, Mapping)) for x in default):
        items = (default_tree(Field(field.name, element, item), owner) for item in default)  # type: ignore[arg-type]
        return Many(tuple(items), origin)
    if element is not None and element.find("struct") and isinstance(default, tuple) and default:
        return Many(tuple(default_tree(Field(field.name, element, item), owner) for item in default), origin)
    return to_tree(default, origin)


def _field(name: str, annotation: Any, default: Any) -> Field:
    expected = types.from_annotation(annotation)
    slot = registry.slot_kind(name)
    if slot is not None and slot[1] and expected.element is not None and _of_its_own(expected.element, slot[0]):
        slot = None
    if slot is not None and not _only_plain(expected.element if slot[1] and expected.element else expected):
        many = slot[1] or expected.element is not None or isinstance(default, tuple)
        expected = types.slot(slot[0], many=many, optional=expected.optional or default is None)
    elif default is None and not expected.optional:
        expected = types.Type((*expected.options, types.Option("None")))
    return Field(name, expected, default)


def _of_its_own(expected: types.Type, kind: str) -> bool:
    """Whether fields of a dataclass are asked for that no registered constructor of this kind makes."""
    struct = expected.find("struct")
    if struct is None:
        return False
    made = [registry.lookup(kind, name).load() for name in registry.names(kind)]
    # What a function makes is not known; a class makes itself.
    return all(inspect.isclass(one) and not issubclass(one, struct.value) for one in made)


def _only_plain(expected: types.Type) -> bool:
    return all(option.name in ("int", "float", "bool", "str", "None") for option in expected.options)


def _named(value: Any, kind: str, origin: Origin, owner: str, parameter: str) -> Any:
    """`dict(name=..., fields...)` of an object that a registered constructor of this kind makes."""
    for entry in (registry.lookup(kind, name) for name in registry.names(kind)):
        if entry.address.rpartition(":")[2] != type(value).__qualname__ or entry.load() is not type(value):
            continue
        if all(getattr(value, name) == fixed for name, fixed in entry.fixed.items()):
            shown = (name for name in constructor(entry).fields if hasattr(value, name))
            return to_tree({"name": entry.name} | {name: getattr(value, name) for name in shown}, origin)
    raise ConfigError(
        f"the default of {parameter} of {owner} is a {type(value).__name__}, which is no registered {kind}"
    )


def _default(field: dataclasses.Field) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _hints(target: Any) -> dict[str, Any]:
    """Resolved annotations; what cannot be resolved counts as any value."""
    owner = target.__init__ if inspect.isclass(target) and not dataclasses.is_dataclass(target) else target
    try:
        return typing.get_type_hints(owner)
    except (AttributeError, NameError, TypeError, SyntaxError):
        raw = inspect.get_annotations(owner) if callable(owner) else {}
        return {name: annotation for name, annotation in raw.items() if not isinstance(annotation, str)}
