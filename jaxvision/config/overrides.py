"""Values from the command line: `--config.schedule.epochs=12`, read by the type of the value that they replace."""

import copy
import re
from collections.abc import Iterable, Sequence
from typing import Any

from jaxvision.config import types
from jaxvision.config.complete import complete
from jaxvision.config.node import COMMAND_LINE, Config, ConfigError, Origin, join
from jaxvision.registry import hint

_PREFIX = "--config."


def split_overrides(argv: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Separates `--config.a.b=1` and `--config.a.b 1` from the other arguments.

    Raises:
      ConfigError: an override without a value.
    """
    rest: list[str] = []
    overrides: list[tuple[str, str]] = []
    queue = list(argv)
    while queue:
        argument = queue.pop(0)
        if not argument.startswith(_PREFIX):
            rest.append(argument)
            continue
        path, equals, text = argument.removeprefix(_PREFIX).partition("=")
        if not equals:
            if not queue or queue[0].startswith("--"):
                raise ConfigError(f"{argument} needs a value: {argument}=VALUE")
            text = queue.pop(0)
        overrides.append((path, text))
    return rest, overrides


def apply_overrides(config: Config, overrides: Iterable[tuple[str, str]]) -> Config:
    """The config with (dotted path, text) pairs applied, completed again.

    Names come first, in the order of their depth, because they decide which other keys there are; so the order on the
    command line matters only where a key is given twice: the last one wins.
    """
    config = complete(copy.deepcopy(config))
    pending = list(dict(overrides).items())
    pending.sort(key=lambda item: (item[0] != "imports", item[0].count(".")))
    while pending:
        choosing = [item for item in pending if item[0] == "imports" or _chooses(config, item[0])]
        batch = choosing[:1] or pending
        for path, text in batch:
            _set(config, path, text)
        pending = [item for item in pending if item not in batch]
        config = complete(config, partial=bool(pending))
    return config


def _chooses(config: Config, path: str) -> bool:
    """Whether a path is a slot, its name, or another value that other keys depend on."""
    try:
        owner, key = _owner(config, path)
    except ConfigError:
        return False
    value, expected = owner.get(key), owner._kinds.get(key)
    return key == "name" or isinstance(value, Config) or (expected is not None and _structured(expected))


def _structured(expected: types.Type) -> bool:
    element = expected.element.options if expected.element is not None else ()
    return any(option.name in ("slot", "struct", "dict") for option in (*expected.options, *element))


def _set(config: Config, path: str, text: str) -> None:
    origin = Origin.now(COMMAND_LINE, "command line")
    owner, key = _owner(config, path, create=origin)
    value, expected = owner.get(key), owner._kinds.get(key)
    where = f"--config.{path}={text}"
    if isinstance(value, Config):
        _set_mapping(owner, key, value, text, origin, where)
        return
    try:
        new = types.parse(text, expected if expected is not None else types.infer(value))
    except types.Mismatch as error:
        raise ConfigError(f"{where}: {error}") from None
    owner.assign(key, new, origin)


def _set_mapping(owner: Config, key: str, value: Config, text: str, origin: Origin, where: str) -> None:
    """A dict literal replaces a slot or section; a bare name changes the slot's name and keeps what still fits."""
    stripped = text.strip()
    named = "name" in value
    if stripped.startswith(("{", "dict(")):
        try:
            new = types.literal(stripped)
        except (ValueError, SyntaxError):
            raise ConfigError(f"{where}: expected a dict, as in dict(name='x', a=1)") from None
        owner.assign(key, new, origin)
    elif stripped in ("None", "none"):
        owner.assign(key, None, origin)
    elif not named:
        keys = ", ".join(value) or "none"
        raise ConfigError(
            f"{where}: {join(owner._path, key)} holds several values ({keys}); give one of them, or a dict"
        )
    elif re.fullmatch(r"[\w/.-]+", stripped):
        value.assign("name", stripped, origin)
    else:
        owner.assign(key, {"name": stripped}, origin)


def _owner(config: Config, path: str, create: Origin | None = None) -> tuple[Config, str]:
    """The config that holds the last key of a path such as "data.augment[0].padding"."""
    current: Any = config
    *parents, key = path.split(".")
    for part in parents:
        current = _step(current, part, path, create)
    if not isinstance(current, Config):
        raise ConfigError(f"--config.{path}: {'.'.join(parents)} is {types.describe(current)} and has no keys")
    if key not in current and current.is_locked:
        raise ConfigError(f"unknown key {join(current._path, key)} (command line): {hint(key, current)}")
    return current, key


def _step(current: Config, part: str, path: str, create: Origin | None) -> Any:
    match = re.fullmatch(r"(\w+)\[(\d+)\]", part)
    name, index = (match[1], int(match[2])) if match else (part, None)
    if not isinstance(current, Config) or name not in current:
        known = hint(name, current) if isinstance(current, Config) else "it has no keys"
        raise ConfigError(f"unknown key {join(getattr(current, '_path', ''), name)} (command line: {path}): {known}")
    value = current[name]
    expected = current._kinds.get(name)
    if value is None and create is not None and expected is not None and _structured(expected):
        value = Config({}, create, join(current._path, name))
        current.assign(name, value, create)
        return value
    if index is None:
        return value
    if not isinstance(value, tuple) or index >= len(value):
        count = len(value) if isinstance(value, tuple) else 0
        raise ConfigError(f"--config.{path}: {join(current._path, name)} has {count} elements, counted from 0")
    return value[index]
