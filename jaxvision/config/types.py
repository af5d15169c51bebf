"""The types of configuration values: derived from annotations, checked on assignment, read from a command line.

A `Type` is a union of options. Numbers, strings and truth values are checked, tuples element by element; a slot holds
`dict(name=...)` of a registered kind, a struct the fields of a frozen dataclass; anything else is plain data.
"""

import ast
import collections.abc
import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from typing import Any

_PLAIN = (bool, int, float, str)


@dataclasses.dataclass(frozen=True)
class Option:
    """One alternative of a union.

    Attributes:
      name: "int", "float", "bool", "str", "None", "any", "dict", "literal", "tuple", "slot" or "struct".
      value: the literal, the kind of a slot, or the dataclass of a struct.
      items: the element types of a tuple.
      repeated: whether a tuple has any number of `items[0]`.
    """

    name: str
    value: Any = None
    items: tuple["Type", ...] = ()
    repeated: bool = False

    def __str__(self) -> str:
        if self.name == "literal":
            return repr(self.value)
        if self.name == "slot":
            return f"{self.value} (a name or a dict)"
        if self.name == "struct":
            return f"dict of {self.value.__name__}"
        if self.name == "tuple":
            return f"tuple of {self.items[0]}" if self.repeated else f"({', '.join(map(str, self.items))})"
        return "any value" if self.name == "any" else self.name


@dataclasses.dataclass(frozen=True)
class Type:
    """A union of options; its text is what error messages show."""

    options: tuple[Option, ...]

    def __str__(self) -> str:
        literals = [str(option) for option in self.options if option.name == "literal"]
        others = [str(option) for option in self.options if option.name != "literal"]
        return " or ".join([f"one of {', '.join(literals)}"] * bool(literals) + others)

    def find(self, name: str) -> Option | None:
        """The first option of this name."""
        return next((option for option in self.options if option.name == name), None)

    @property
    def optional(self) -> bool:
        return self.find("None") is not None

    @property
    def element(self) -> "Type | None":
        """The type of the elements of a tuple of any length."""
        option = self.find("tuple")
        return option.items[0] if option is not None and option.repeated else None

    @property
    def classes(self) -> tuple[type, ...] | type:
        """What `isinstance` takes, for a placeholder."""
        by_name = {"int": int, "float": float, "bool": bool, "str": str, "tuple": tuple, "dict": dict}
        by_name |= {"slot": dict, "struct": dict}
        some = [option for option in self.options if option.name != "None"]
        found = [type(o.value) if o.name == "literal" else by_name.get(o.name, object) for o in some]
        unique = tuple(dict.fromkeys(found))
        return unique[0] if len(unique) == 1 else unique or object


ANY = Type((Option("any"),))


def slot(kind: str, *, many: bool = False, optional: bool = False) -> Type:
    """The type of a slot, or of a tuple of them."""
    one = Type((Option("slot", kind),))
    options = (Option("tuple", items=(one,), repeated=True),) if many else one.options
    return Type(options + ((Option("None"),) if optional else ()))


def from_annotation(annotation: Any) -> Type:
    """The type that an annotation stands for; whatever is not plain data counts as any value."""
    if annotation is None or annotation is type(None):
        return Type((Option("None"),))
    if annotation in _PLAIN:
        return Type((Option(annotation.__name__),))
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return Type(tuple(dict.fromkeys(o for argument in arguments for o in from_annotation(argument).options)))
    if origin is typing.Literal:
        return Type(tuple(Option("literal", argument) for argument in arguments))
    if origin is typing.Annotated:
        return from_annotation(arguments[0])
    base = origin or annotation
    if base is tuple and arguments and not (len(arguments) == 2 and arguments[1] is Ellipsis):
        return Type((Option("tuple", items=tuple(map(from_annotation, arguments))),))
    if base in (tuple, list, collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection):
        element = from_annotation(arguments[0]) if arguments else ANY
        return Type((Option("tuple", items=(element,), repeated=True),))
    if isinstance(base, type):
        if issubclass(base, Mapping):
            return Type((Option("dict"),))
        if dataclasses.is_dataclass(base) and base.__dataclass_params__.frozen:  # type: ignore[attr-defined]
            return Type((Option("struct", base),))
    return ANY


class Mismatch(ValueError):
    """A value that is not of the expected type."""


def coerce(value: Any, expected: Type) -> Any:
    """The value as this type: lists become tuples, an int a float where only that fits.

    Raises:
      Mismatch: it is of another type.
    """
    value = _scalar(value)
    for lenient in (False, True):
        for option in expected.options:
            try:
                return _coerce_option(value, option, lenient)
            except Mismatch:
                continue
    raise Mismatch(f"expected {expected}, got {describe(value)}{_near(value, expected)}")


def describe(value: Any) -> str:
    """A value and its type for an error message."""
    return "None" if value is None else f"{type(value).__name__} {value!r}"


def _near(value: Any, expected: Type) -> str:
    known = [option.value for option in expected.options if option.name == "literal" and isinstance(option.value, str)]
    near = difflib.get_close_matches(value, known, n=1) if isinstance(value, str) else []
    return f"; did you mean {near[0]!r}?" if near else ""


def _coerce_option(value: Any, option: Option, lenient: bool) -> Any:
    name = option.name
    if name == "None" and value is None:
        return None
    if name == "literal" and value == option.value and type(value) is type(option.value):
        return value
    if name in ("bool", "str") and type(value).__name__ == name:
        return value
    if name in ("int", "float") and isinstance(value, (int, float)) and not isinstance(value, bool):
        if type(value).__name__ == name:
            return value
        if lenient and name == "float":
            return float(value)
    if name == "tuple" and isinstance(value, (list, tuple)):
        items = option.items * len(value) if option.repeated else option.items
        if len(items) == len(value):
            return tuple(coerce(element, item) for element, item in zip(value, items, strict=True))
    if name == "dict" and isinstance(value, Mapping):
        return plain(value)
    if name == "any" and value is not None:
        return plain(value)
    raise Mismatch


def plain(value: Any) -> Any:
    """Plain data with tuples for sequences; Mismatch for anything else (functions, arrays, objects)."""
    value = _scalar(value)
    if value is None or isinstance(value, _PLAIN):
        return value
    if isinstance(value, (list, tuple)):
        return tuple(plain(element) for element in value)
    if isinstance(value, Mapping):
        return {str(key): plain(element) for key, element in value.items()}
    raise Mismatch(f"expected plain data (numbers, strings, tuples, dicts), got {type(value).__name__} {value!r}")


def _scalar(value: Any) -> Any:
    """numpy scalars as Python ones."""
    return value.item() if getattr(value, "shape", None) == () and hasattr(value, "item") else value


def infer(value: Any) -> Type:
    """The type of a value that has no annotation."""
    if value is None:
        return Type((Option("None"), Option("any")))
    if isinstance(value, _PLAIN):
        return Type((Option(type(value).__name__),))
    return from_annotation(tuple if isinstance(value, (list, tuple)) else dict)


def parse(text: str, expected: Type) -> Any:
    """A command-line value, read as the expected type: `12`, `1e-3`, `true`, `None`, `(1,2)` or `1,2`, `dict(a=1)`.

    Raises:
      Mismatch: it cannot be read so.
    """
    stripped = text.strip()
    if stripped in ("None", "none", "null") and expected.optional:
        return None
    order = ("literal", "bool", "int", "float", "tuple", "dict", "struct", "slot", "any", "str")
    for option in sorted(expected.options, key=lambda o: order.index(o.name) if o.name in order else -1):
        try:
            return _parse_option(stripped, option)
        except (Mismatch, ValueError, SyntaxError):
            continue
    raise Mismatch(f"expected {expected}, got {text!r}{_near(stripped, expected)}")


def _parse_option(text: str, option: Option) -> Any:
    name = option.name
    if name == "literal":
        value = parse(text, infer(option.value))
        if value == option.value:
            return value
    elif name == "bool":
        if text.lower() in _BOOLEANS:
            return _BOOLEANS[text.lower()]
    elif name in ("int", "float"):
        return (int if name == "int" else float)(text)
    elif name == "str":
        return literal(text) if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text
    elif name == "tuple":
        return _elements(_sequence(text), option)
    elif name in ("dict", "struct", "slot"):
        value = literal(text) if text.startswith(("{", "dict(")) else text
        if isinstance(value, dict) or name == "slot":
            return value
    elif name == "any":
        try:
            return literal(text)
        except (ValueError, SyntaxError):
            return text
    raise Mismatch


_BOOLEANS = {"true": True, "false": False, "1": True, "0": False}


def _sequence(text: str) -> tuple[Any, ...]:
    try:
        value = literal(text)
    except (ValueError, SyntaxError):
        inner = text[1:-1] if text[0] + text[-1] in ("()", "[]") and "," in text else text
        value = tuple(part.strip() for part in inner.split(",") if part.strip())
    return value if isinstance(value, tuple) else (value,)


def _elements(value: tuple[Any, ...], option: Option) -> tuple[Any, ...]:
    """Checks the elements, except slots and structs, which are checked when the config is completed."""
    element = option.items[0] if option.repeated else ANY
    if element.find("slot") or element.find("struct"):
        if all(isinstance(item, (str, dict)) for item in value):
            return value
        raise Mismatch
    return _coerce_option(value, option, True)


def literal(text: str) -> Any:
    """A Python literal; `dict(a=1)` and bare words are read too, lists become tuples. Nothing is executed."""
    return _literal(ast.parse(text, mode="eval").body)


def _literal(node: ast.expr) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        return {"true": True, "false": False, "none": None}.get(node.id, node.id)
    if isinstance(node, (ast.Tuple, ast.List)):
        return tuple(_literal(element) for element in node.elts)
    if isinstance(node, ast.Dict) and all(key is not None for key in node.keys):
        return {_literal(key): _literal(value) for key, value in zip(node.keys, node.values, strict=True) if key}
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict" and not node.args:
        return {keyword.arg: _literal(keyword.value) for keyword in node.keywords if keyword.arg}
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        value = _literal(node.operand)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return -value if isinstance(node.op, ast.USub) else value
    raise ValueError(f"not a literal: {ast.unparse(node)}")
