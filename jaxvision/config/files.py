"""Config files: finding them by path or name, running them, and the importable package `configs`.

`configs` is looked up in the working directory first and then among the shipped files, folder by folder, so that a
user's own `configs/classification/mine.py` inherits with `from configs.common import base` wherever it lies.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import inspect
import itertools
import os
import sys
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from jaxvision.config.complete import complete
from jaxvision.config.node import Config, ConfigError, shipped_configs, short_path
from jaxvision.config.overrides import apply_overrides
from jaxvision.config.text import from_json
from jaxvision.registry import RegistryError, hint

_serial = itertools.count()


def config_roots() -> tuple[Path, ...]:
    """Folders that hold configs, the nearest first."""
    roots = (Path.cwd() / "configs", shipped_configs())
    return tuple(dict.fromkeys(root.resolve() for root in roots if root.is_dir()))


def config_names() -> tuple[str, ...]:
    """Every config as "direction/name"."""
    files = (file.relative_to(root) for root in config_roots() for file in root.rglob("*.py"))
    shown = (f for f in files if f.name != "__init__.py" and f.parts[0] != "common" and len(f.parts) > 1)
    return tuple(sorted({file.with_suffix("").as_posix() for file in shown}))


def load(spec: str | os.PathLike[str], overrides: Iterable[tuple[str, str]] = ()) -> Config:
    """The completed config of a file, a name, or a run.

    Args:
      spec: "path.py", "classification/lenet5_digits" or "lenet5_digits", each with ":arg" where wanted; or a workdir or
        a `config.json`, of which nothing is executed.
      overrides: (dotted path, text) pairs of the command line, `("schedule.epochs", "12")`.

    Raises:
      ConfigError: in one line what is wrong, and where.
    """
    name, arg = split_spec(os.fspath(spec))
    saved = saved_config(name)
    config = from_json(saved) if saved is not None else _run_file(_find(name), arg)
    return apply_overrides(config, overrides)


def split_spec(spec: str) -> tuple[str, str]:
    """ "path.py:arg" -> ("path.py", "arg")."""
    head, colon, arg = spec.rpartition(":")
    if not colon or "/" in arg or "\\" in arg:
        return spec, ""
    return head, arg


def config_name(spec: str | os.PathLike[str]) -> str:
    """A short name for the runs of a config: "configs/classification/linear_digits.py:smoke" -> linear_digits_smoke."""
    name, arg = split_spec(os.fspath(spec))
    return "_".join([Path(name).with_suffix("").name, *(part for part in arg.split(",") if part)])


def saved_config(spec: str) -> str | None:
    """The text of a `config.json`, given itself or its workdir; None where `spec` is neither."""
    if spec.endswith(".json") or "://" in spec or os.path.isdir(spec):
        from etils import epath

        path = epath.Path(spec)
        path = path if path.suffix == ".json" else path / "config.json"
        if not path.is_file():
            raise ConfigError(f"config {spec!r}: there is no {path}; give a .py file, a name, or the workdir of a run")
        return path.read_text()
    return None


def _find(name: str) -> Path:
    if Path(name).is_file():
        return Path(name).resolve()
    stem = name.removesuffix(".py").removeprefix("configs/")
    for root in config_roots():
        if (root / f"{stem}.py").is_file():
            return root / f"{stem}.py"
    found = [known for known in config_names() if known.rpartition("/")[2] == stem]
    if len(found) > 1:
        raise ConfigError(f"config {name!r} is ambiguous: give one of {', '.join(found)}")
    if found:
        return next(root / f"{found[0]}.py" for root in config_roots() if (root / f"{found[0]}.py").is_file())
    near = hint(stem, config_names() if "/" in stem else [known.rpartition("/")[2] for known in config_names()])
    what = "there is no such file" if name.endswith(".py") else "unknown config"
    raise ConfigError(f"config {name!r}: {what} in the working directory or among the shipped ones; {near}")


def _run_file(path: Path, arg: str) -> Config:
    """Runs `get_config(arg)` of a file; whatever goes wrong becomes one line with the file's line."""
    make_configs_importable()
    name = _module_name(path)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look their module up
    try:
        spec.loader.exec_module(module)
        get_config = getattr(module, "get_config", None)
        if get_config is None:
            raise ConfigError(f"{short_path(path)}: defines no get_config(arg='')")
        if arg and not inspect.signature(get_config).parameters:
            raise ConfigError(f"{short_path(path)}: get_config() takes no arg, but {arg!r} was given")
        config = get_config(arg) if inspect.signature(get_config).parameters else get_config()
        if config is None:
            raise ConfigError(
                f"{short_path(path)}: get_config returned None; end it with `return base.complete(config)`"
            )
        return config if isinstance(config, Config) and config.is_locked else complete(config)
    except (ConfigError, RegistryError) as error:
        raise ConfigError(_located(error, path) if isinstance(error, RegistryError) else str(error)) from error
    except Exception as error:
        raise ConfigError(_located(error, path)) from error


def _module_name(path: Path) -> str:
    for root in config_roots():
        if path.is_relative_to(root):
            folder = path.relative_to(root).parent.parts
            return ".".join(("configs", *folder, f"_{path.stem}_{next(_serial)}"))
    return f"_jaxvision_config_{path.stem}_{next(_serial)}"


def _located(error: Exception, path: Path) -> str:
    """ "file:line: what happened": the innermost line of a file that is neither this package nor a library."""
    text = " ".join(str(error).split())
    what = text if isinstance(error, RegistryError) else f"{type(error).__name__}: {text}"
    if isinstance(error, SyntaxError):
        return f"{short_path(error.filename or path)}:{error.lineno}: SyntaxError: {error.msg}"
    frames = traceback.extract_tb(error.__traceback__)
    roots = (*map(str, config_roots()), str(path))
    own = [frame for frame in frames if frame.filename.startswith(roots)]
    return f"{short_path(own[-1].filename)}:{own[-1].lineno}: {what}" if own else f"{short_path(path)}: {what}"


def make_configs_importable() -> None:
    """Makes `configs.*` the union of the folders of `config_roots`, and puts the working directory on sys.path."""
    if not any(isinstance(finder, _ConfigsFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _ConfigsFinder())
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())


class _ConfigsFinder(importlib.abc.MetaPathFinder):
    """Finds `configs` and what is below it, the working directory's before the shipped."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        first, *rest = fullname.split(".")
        if first != "configs":
            return None
        places = [root.joinpath(*rest) for root in config_roots()]
        for place in places if rest else ():
            if place.with_suffix(".py").is_file():
                return importlib.util.spec_from_file_location(fullname, place.with_suffix(".py"))
        folders = [place for place in places if place.is_dir()]
        if not folders:
            return None
        locations = [str(folder) for folder in folders]
        init = next((folder / "__init__.py" for folder in folders if (folder / "__init__.py").is_file()), None)
        if init is not None:
            return importlib.util.spec_from_file_location(fullname, init, submodule_search_locations=locations)
        spec: Any = importlib.machinery.ModuleSpec(fullname, None, is_package=True)
        spec.submodule_search_locations = locations
        return spec
