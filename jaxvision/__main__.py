"""The `jaxvision` command: `jaxvision run ...` is `python -m experiments.run ...`, and so for each file there.

In a checkout `experiments` lies beside the package, in an installed wheel inside it.
"""

import ast
import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from jaxvision import __version__
from jaxvision.registry import hint

_PACKAGE = Path(__file__).resolve().parent


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = arguments[0] if arguments else "--help"
    known = commands()
    if command in ("-h", "--help", "help"):
        print(_usage(known))
        return 0
    if command == "--version":
        print(__version__)
        return 0
    if command not in known:
        print(f"error: unknown command {command!r}: {hint(command, known)}", file=sys.stderr)
        return 2
    _make_importable()
    module = importlib.import_module(f"jaxvision.experiments.{command}")
    return module.main(arguments[1:]) or 0


def commands() -> dict[str, Path]:
    """Name -> file of every command."""
    return {file.stem: file for file in sorted(_folder().glob("[a-z]*.py"))}


def _folder() -> Path:
    inside = _PACKAGE / "experiments"
    return inside if inside.is_dir() else _PACKAGE.parent / "experiments"


def _make_importable() -> None:
    """Gives the folder beside the package the name that it has in a wheel: another `experiments` may come first."""
    name = "jaxvision.experiments"
    if name in sys.modules or _folder().parent == _PACKAGE:
        return
    init = _folder() / "__init__.py"
    spec = importlib.util.spec_from_file_location(name, init, submodule_search_locations=[str(_folder())])
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


def _usage(known: dict[str, Path]) -> str:
    lines = [
        f"jaxvision {__version__}",
        "",
        "usage: jaxvision COMMAND [ARGS]; `jaxvision COMMAND --help` explains one",
        "",
    ]
    for name, file in known.items():
        summary = (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").partition("\n")[0]
        lines.append(f"  {name:<12}{summary}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
