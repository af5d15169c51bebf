"""A config as text: JSON that is read back without executing anything, its hash, and a readable tree with origins."""

import hashlib
import json
from typing import Any

from jaxvision.config import types
from jaxvision.config.node import Config, ConfigError, Leaf, Many, Origin, Tree, from_tree, leaves, to_plain

_FORMAT = 1


def to_json(config: Config) -> str:
    """The resolved config as JSON: its values, and beside them where each came from and the types of placeholders."""
    rows = list(leaves(config))
    document = {
        "format": _FORMAT,
        "config": to_plain(config),
        "arg": config._arg,
        "origins": {path: origin.text for path, _, origin, _ in rows},
        "types": {path: _encode(t) for path, _, _, t in rows if t is not None},
    }
    return json.dumps(document, indent=2, allow_nan=True)


def from_json(text: str) -> Config:
    """The config that `to_json` wrote: equal to it, locked, with its types and origins. Executes nothing."""
    try:
        document = json.loads(text)
        if document["format"] != _FORMAT:
            raise ConfigError(f"saved config of format {document['format']!r}; this version reads {_FORMAT}")
        tree = _tree(document["config"], "", document["origins"], document["types"])
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"not a saved config: {type(error).__name__}: {error}") from error
    config = from_tree(tree)
    object.__setattr__(config, "_arg", document.get("arg", ""))
    return config


def config_hash(config: Config) -> str:
    """Twelve hexadecimal digits of the SHA-256 of the values, whatever their order and origins."""
    canonical = json.dumps(to_plain(config), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def facts(config: Config) -> dict[str, str]:
    """Dotted path -> value as text."""
    return {path: repr(value) for path, value, _, _ in leaves(config)}


def origins(config: Config) -> dict[str, str]:
    """Dotted path -> where the value came from."""
    return {path: origin.text for path, _, origin, _ in leaves(config)}


def describe(config: Config, *, with_origins: bool = True) -> str:
    """The config as an indented tree of `key = value   # where from`."""
    lines = _lines(config, 0)
    width = min(max((len(left) for left, _ in lines), default=0), 72)
    return "\n".join(f"{left:<{width}}  # {right}" if with_origins and right else left for left, right in lines)


def _lines(config: Config, depth: int) -> list[tuple[str, str]]:
    indent, lines = "  " * depth, []
    for key, value in config.items():
        if isinstance(value, Config) and len(value):
            lines += [(f"{indent}{key}", ""), *_lines(value, depth + 1)]
        elif isinstance(value, tuple) and any(isinstance(element, Config) for element in value):
            for i, element in enumerate(value):
                lines += [(f"{indent}{key}[{i}]", ""), *_lines(element, depth + 1)]
        else:
            lines.append((f"{indent}{key} = {to_plain(value)!r}", config._origins[key].text))
    return lines


def _tree(values: dict[str, Any], path: str, origin_texts: dict[str, str], kinds: dict[str, Any]) -> Tree:
    tree: Tree = {}
    for key, value in values.items():
        here = f"{path}.{key}" if path else key
        if isinstance(value, dict):
            tree[key] = _tree(value, here, origin_texts, kinds)
        elif (
            isinstance(value, list) and any(isinstance(element, dict) for element in value) and here not in origin_texts
        ):
            items = tuple(_tree(element, f"{here}[{i}]", origin_texts, kinds) for i, element in enumerate(value))
            inside = (Origin.read(text) for place, text in origin_texts.items() if place.startswith(f"{here}["))
            tree[key] = Many(items, max(inside, default=Origin.read("")))
        else:
            kind = _decode(kinds[here]) if here in kinds else types.infer(value)
            tree[key] = Leaf(_tuples(value), Origin.read(origin_texts.get(here, "")), kind)
    return tree


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _encode(expected: types.Type) -> Any:
    """A type as JSON; a dataclass counts as a dict."""
    coded: list[Any] = []
    for option in expected.options:
        if option.name == "tuple":
            coded.append([*map(_encode, option.items), *(["..."] if option.repeated else [])])
        elif option.name in ("literal", "slot"):
            coded.append({option.name: option.value})
        else:
            coded.append("dict" if option.name == "struct" else option.name)
    return coded


def _decode(coded: Any) -> types.Type:
    return types.Type(tuple(map(_decode_option, coded)))


def _decode_option(coded: Any) -> types.Option:
    if isinstance(coded, str):
        return types.Option(coded)
    if isinstance(coded, dict):
        ((name, value),) = coded.items()
        return types.Option(name, value)
    repeated = coded[-1:] == ["..."]
    return types.Option("tuple", items=tuple(map(_decode, coded[:-1] if repeated else coded)), repeated=repeated)
