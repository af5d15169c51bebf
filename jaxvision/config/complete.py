"""`complete`: writes every default into a config, checks names and types, applies `smoke`, and locks it.

It starts from what was set explicitly and can be repeated: after a `name` has changed, the defaults of the new
constructor take the place of the former one's, and arguments that were set before the change and that the new
constructor does not know are dropped with a note.
"""

import dataclasses
import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxvision import registry
from jaxvision.config import node, schema, sections, types
from jaxvision.config.node import Config, ConfigError, Leaf, Many, Origin, Tree, join
from jaxvision.config.smoke import smoke


@dataclasses.dataclass(frozen=True)
class _Scope:
    """What surrounds a value.

    Attributes:
      owner: whose default it takes.
      since: when that constructor was chosen.
      notes: lines for the user, appended to.
      partial: missing values are left empty, because more is to come.
    """

    owner: str
    since: Origin
    notes: list[str]
    partial: bool = False


def blank(arg: str = "") -> Config:
    """A config in which nothing is set, to be written by a config file and then completed."""
    config = Config({name: {} for name in ("data", "schedule", "evaluation", "checkpoint", "log", "parallel")})
    object.__setattr__(config, "_arg", arg)
    return config


def complete(config: Mapping[str, Any], *, partial: bool = False) -> Config:
    """The config with every default filled in, checked and locked.

    `partial` leaves missing values empty instead of raising, while there is more to come.

    Raises:
      ConfigError: an unknown key or name, a wrong type, a missing value, or a section that contradicts itself.
    """
    if not isinstance(config, Config):
        config = Config(config)
    notes = list(config._notes)
    tree = node.explicit(node.to_tree(config, node.here())) or {}
    import_extensions(tree.get("imports"))
    scope = _Scope("jaxvision", Origin.default("jaxvision"), notes, partial)
    tree = _struct(sections.Experiment, tree, "", scope)
    if "smoke" in config._arg.split(","):
        tree = node.explicit(smoke(tree))
        tree = _struct(sections.Experiment, tree, "", scope)
    completed = node.from_tree(tree)
    object.__setattr__(completed, "_arg", config._arg)
    object.__setattr__(completed, "_notes", tuple(dict.fromkeys(notes)))
    return completed


def complete_saved(config: Config, folder: str | os.PathLike[str] | None = None) -> Config:
    """A saved config with the defaults of fields that did not exist when it was written; whatever it says stays.

    Args:
      config: as it was read.
      folder: in which it lies; modules that it names are not imported from there.

    Raises:
      ConfigError: a field that this version does not know, or a value that it does not take.
    """
    saved = node.to_tree(config, node.here())
    import_extensions(saved.get("imports"), folder)
    origin = Origin.read("config.json")  # one for all, so that nothing counts as older than the choice of a name
    scope = _Scope("jaxvision", Origin.default("jaxvision"), [])
    tree = _struct(sections.Experiment, _of_origin(saved, origin), "", scope)
    completed = node.from_tree(_with_origins(tree, saved))
    object.__setattr__(completed, "_arg", config._arg)
    return completed


def _of_origin(tree: Any, origin: Origin) -> Any:
    if isinstance(tree, dict):
        return {key: _of_origin(value, origin) for key, value in tree.items()}
    if isinstance(tree, Many):
        return dataclasses.replace(tree, items=tuple(_of_origin(item, origin) for item in tree.items), origin=origin)
    return dataclasses.replace(tree, origin=origin)


def _with_origins(tree: Any, saved: Any) -> Any:
    """The tree with the origins of `saved` where both have a value."""
    if isinstance(tree, dict):
        given = saved if isinstance(saved, dict) else {}
        return {key: _with_origins(value, given[key]) if key in given else value for key, value in tree.items()}
    if isinstance(tree, Many) and isinstance(saved, Many):
        items = tuple(_with_origins(*pair) for pair in zip(tree.items, saved.items, strict=True))
        return dataclasses.replace(tree, items=items, origin=saved.origin)
    return tree if isinstance(saved, dict) else dataclasses.replace(tree, origin=saved.origin)


def complete_slot(kind: str, spec: Any, path: str) -> Tree:
    """The completed tree of one `dict(name=...)`, or of a name."""
    given = node.to_tree(spec, Origin.now(node.FILE, "given"))
    return _slot(kind, given, None, path, _Scope(path, Origin.default(path), []))


def import_extensions(modules: Any, outside: str | os.PathLike[str] | None = None) -> None:
    """Imports the modules that a config (its `imports`) names; they register constructors of a user's own.

    Args:
      modules: their names.
      outside: a folder that holds data and from which nothing may be executed: the workdir of a run.

    Raises:
      ConfigError: a module that cannot be imported, or that lies in `outside`.
    """
    if modules is None:
        return
    origin = modules.origin.text if isinstance(modules, Leaf) else ""
    given = modules.plain if isinstance(modules, Leaf) else modules
    try:
        names = types.coerce(given, types.from_annotation(tuple[str, ...]))
    except types.Mismatch as error:
        raise ConfigError(f"imports{_by(origin)}: {error}") from None
    data = None if outside is None or "://" in os.fspath(outside) else Path(outside).resolve()
    inside = data is not None and Path.cwd().resolve().is_relative_to(data)
    if names and os.getcwd() not in sys.path and "" not in sys.path and not inside:
        sys.path.append(os.getcwd())
    for name in names:
        if data is not None:
            _refuse_inside(name, data)
        try:
            importlib.import_module(name)
        except Exception as error:
            raise ConfigError(f"imports{_by(origin)}: {_import_failure(name, error)}") from error


def _refuse_inside(name: str, folder: Path) -> None:
    """Raises ConfigError if the module, or a package that it is in, lies in the folder; nothing there is imported."""
    parts = name.split(".")
    for count in range(1, len(parts) + 1):
        try:
            spec = importlib.util.find_spec(".".join(parts[:count]))  # imports the package around it, which was checked
        except Exception:  # importing it says why
            return
        if spec is None:
            return
        for place in (spec.origin, *(spec.submodule_search_locations or ())):
            if place and Path(place).resolve().is_relative_to(folder):
                raise ConfigError(
                    f"imports: {name!r} lies in {str(folder)!r}, a workdir, of which nothing is executed: if you trust "
                    "it, move it to a folder of its own and put that on PYTHONPATH, or install it"
                )


def _import_failure(name: str, error: Exception) -> str:
    if (
        isinstance(error, ModuleNotFoundError)
        and error.name
        and (name == error.name or name.startswith(f"{error.name}."))
    ):
        how = "run from the folder that holds it, put that on PYTHONPATH, or install it"
        return f"no module named {name!r} on sys.path: {how}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "importlib" not in f.filename]
    place = f" ({node.short_path(frames[-1].filename)}:{frames[-1].lineno})" if len(frames) > 1 else ""
    return f"importing {name!r} failed{place}: {type(error).__name__}: {error}"


def _struct(cls: type, tree: Tree, path: str, scope: _Scope) -> Tree:
    """Completes a section, or another dataclass."""
    signature = schema.section(cls)
    for key, value in tree.items():
        if key not in signature.fields:
            raise ConfigError(f"unknown key {join(path, key)}{_by(value)}: {registry.hint(key, signature.fields)}")
    done = _fields(signature, tree, path, scope)
    for field in signature.fields.values():
        if field.excludes is not None:
            _choose(done, field.name, field.excludes, path)
    if hasattr(cls, "__post_init__") and not scope.partial:
        try:
            cls(**{name: _plain(value) for name, value in done.items()})
        except ValueError as error:
            raise ConfigError(f"{path}: {error}") from None
    return done


def _fields(signature: schema.Signature, tree: Tree, path: str, scope: _Scope) -> Tree:
    """Completes what is given first: a misspelt key explains more than the absence of the right one."""
    order = sorted(signature.fields.values(), key=lambda field: field.name not in tree)
    done = {field.name: _field(field, tree.get(field.name), join(path, field.name), scope) for field in order}
    return {name: done[name] for name in signature.fields}


def _field(field: schema.Field, value: Any, path: str, scope: _Scope) -> Any:
    default = None if field.default is schema.REQUIRED else schema.default_tree(field, scope.owner)
    given = default if value is None else value
    if given is None and scope.partial:
        empty = types.Type((*field.type.options, types.Option("None")))
        return Leaf(None, Origin.default(scope.owner), empty)
    if given is None and field.type.find("slot"):
        kinds = registry.names(field.type.find("slot").value)  # type: ignore[union-attr]
        raise ConfigError(f"{path} is required: a name or dict(name=...) of one of {', '.join(kinds)}")
    if given is None:
        raise ConfigError(f"{path} is required (by {scope.owner}): expected {field.type}")
    element = field.type.element
    if element is not None and (element.find("slot") or element.find("struct")) and not _is_none(given):
        return _many(field, given, path, scope)
    if _is_none(given) and field.type.optional:
        return dataclasses.replace(given, type=field.type)
    return _one(field.type, given, default, path, scope)


def _one(expected: types.Type, given: Any, default: Any, path: str, scope: _Scope) -> Any:
    """Completes a value that is no tuple of slots or structs."""
    slot, struct = expected.find("slot"), expected.find("struct")
    if slot is not None:
        if isinstance(given, dict) or (isinstance(given, Leaf) and isinstance(given.plain, str)):
            return _slot(slot.value, given, default, path, scope)
    elif struct is not None and isinstance(given, dict):
        base = default if isinstance(default, dict) else {}
        owner = path if struct.value.__module__ == sections.__name__ else scope.owner
        return _struct(struct.value, _overlay(base, given), path, dataclasses.replace(scope, owner=owner))
    elif isinstance(given, dict) and (expected.find("dict") or expected.find("any")):
        return {key: _free(value, join(path, key)) for key, value in given.items()}
    return _leaf(expected, given, path)


def _leaf(expected: types.Type, given: Any, path: str) -> Leaf:
    origin = _origin(given)
    reference = isinstance(given, Leaf) and given.value is not given.plain
    try:
        value = types.coerce(_plain(given), expected)
    except types.Mismatch as error:
        raise ConfigError(f"{path}{_by(origin)}: {error}") from None
    if reference:
        if given.plain != value or type(given.plain) is not type(value):
            given.value.set(value, type_safe=False)
        value = given.value
    return Leaf(value, origin, expected)


def _free(value: Any, path: str) -> Any:
    """A value below a mapping without a schema."""
    if isinstance(value, dict):
        return {key: _free(element, join(path, key)) for key, element in value.items()}
    return _leaf(types.infer(_plain(value)), value, path)


def _many(field: schema.Field, given: Any, path: str, scope: _Scope) -> Leaf | Many:
    element = field.type.element
    assert element is not None
    items: tuple[Any, ...] | None = None
    if isinstance(given, Many):
        items = given.items
    elif isinstance(given, Leaf) and isinstance(given.plain, (tuple, list)):
        items = tuple(node.to_tree(item, given.origin) for item in given.plain)
    if items is None:
        shown = "a dict" if isinstance(given, dict) else types.describe(given.plain)
        raise ConfigError(f"{path}{_by(given)}: expected {field.type}, got {shown}; put it into a tuple")
    origin = _origin(given)
    if not items:
        return Leaf((), origin, field.type)
    done = tuple(_one(element, item, None, f"{path}[{i}]", scope) for i, item in enumerate(items))
    return Many(done, origin, field.type)


def _slot(kind: str, given: Any, default: Any, path: str, scope: _Scope) -> Tree:
    """Completes `dict(name=...)` with the defaults of the constructor of that name."""
    if isinstance(given, Leaf):
        given = {"name": given}
    if isinstance(default, Leaf):
        default = {"name": default} if isinstance(default.plain, str) else None
    default = default or {}
    name = given.get("name") or default.get("name")
    if not isinstance(name, Leaf) or not isinstance(name.plain, str):
        raise ConfigError(f"{path}{_by(given)}: a {kind} needs a name, one of {', '.join(registry.names(kind))}")
    tree = _overlay(default, given)
    try:
        entry, text = _entry(kind, name.plain)
        signature = schema.constructor(entry)
    except registry.RegistryError as error:
        raise ConfigError(f"{path}{_by(name)}: {error}") from error
    tree["name"] = Leaf(entry.name, name.origin, types.infer(""))
    if text is not None:
        tree = _first_argument(tree, text, name.origin, signature, path, entry)
    inner = dataclasses.replace(scope, owner=entry.name, since=max(name.origin, scope.since))
    _check_arguments(tree, signature, entry, path, inner)
    done: Tree = {"name": tree["name"]} | _fields(signature, tree, path, inner)
    for key in tree.keys() - done.keys():
        if signature.open:
            done[key] = _free(tree[key], join(path, key))
    return done


def _check_arguments(tree: Tree, signature: schema.Signature, entry: registry.Entry, path: str, scope: _Scope) -> None:
    """Drops arguments that are older than the choice of the constructor, and raises on others it does not know."""
    for key, value in list(tree.items()):
        if key == "name" or key in signature.fields:
            continue
        if key in entry.supplied or key in entry.fixed:
            why = "passed by the library" if key in entry.supplied else "what its name stands for"
            raise ConfigError(
                f"{join(path, key)}{_by(value)}: {key} of {entry.kind} {entry.name!r} is {why}; leave it out"
            )
        if signature.open:
            continue
        if _origin(value).rank == node.SMOKE:
            del tree[key]
            continue
        if _origin(value) < scope.since:
            del tree[key]
            shown = f"{key}={_plain(value)!r}" if isinstance(value, Leaf) else key
            change = f"{path}.name={entry.name}{_by(scope.since)}"
            scope.notes.append(f"{change} drops {shown}{_by(value)}, which {entry.name!r} does not take")
            continue
        raise ConfigError(
            f"unknown key {join(path, key)}{_by(value)}: {entry.kind} {entry.name!r} does not take it; "
            f"{registry.hint(key, signature.fields)}"
        )


def _entry(kind: str, name: str) -> tuple[registry.Entry, str | None]:
    """The row of "name" or "name:first argument"."""
    if name not in registry.names(kind) and ":" in name:
        head, _, text = name.partition(":")
        return registry.lookup(kind, head), text
    return registry.lookup(kind, name), None


def _first_argument(
    tree: Tree, text: str, origin: Origin, signature: schema.Signature, path: str, entry: registry.Entry
) -> Tree:
    first = next(iter(signature.fields.values()), None)
    if first is None:
        raise ConfigError(
            f"{path}{_by(origin)}: {entry.kind} {entry.name!r} takes no argument, but ':{text}' was given"
        )
    try:
        value = types.parse(text, first.type)
    except types.Mismatch as error:
        raise ConfigError(f"{join(path, first.name)}{_by(origin)}: {error}") from None
    return tree | {first.name: Leaf(value, origin)}


def _overlay(base: Tree, top: Tree) -> Tree:
    """`top` over `base`; what `base` says about another constructor than `top` names is left out."""
    names = [tree["name"].plain for tree in (base, top) if isinstance(tree.get("name"), Leaf)]
    if len(names) == 2 and names[0] != names[1]:
        return dict(top)
    merged = dict(base)
    for key, value in top.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        merged[key] = _overlay(base[key], value) if both else value
    return merged


def _choose(tree: Tree, a: str, b: str, path: str) -> None:
    """Empties the older one of two alternatives."""
    first, second = tree[a], tree[b]
    if first.plain is None or second.plain is None:
        return
    if first.origin == second.origin:
        raise ConfigError(
            f"{path}: give {a} or {b}, not both{_by(first.origin)}: {a}={first.plain}, {b}={second.plain}"
        )
    loser, winner = (a, second) if first.origin < second.origin else (b, first)
    tree[loser] = Leaf(None, winner.origin, tree[loser].type)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(element) for key, element in value.items()}
    if isinstance(value, Many):
        return tuple(map(_plain, value.items))
    return node.to_plain(value.plain)


def _is_none(value: Any) -> bool:
    return isinstance(value, Leaf) and value.plain is None


def _origin(value: Any) -> Origin:
    """The origin of a value; of a mapping, the latest one in it."""
    if isinstance(value, dict):
        return max((_origin(element) for element in value.values()), default=Origin.default("an empty dict"))
    return value.origin


def _by(value: Any) -> str:
    """ " (where it was set)"."""
    text = value if isinstance(value, str) else (value if isinstance(value, Origin) else _origin(value)).text
    return f" ({text})" if text else ""
