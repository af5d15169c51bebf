"""Annotation files and folders of images: read and listed with errors that name them.

Paths are local, or URLs that `etils.epath` opens (`gs://`).
"""

import collections
import contextlib
import gc
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any

from etils import epath

from jaxvision.data.faults import DataError, Faults
from jaxvision.registry import hint

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".jp2", ".avif"),
    *(".ico", ".tga"),
)
"""Of file names that count as images in a listing."""


def as_path(path: epath.PathLike) -> epath.Path:
    """With `~` expanded."""
    return epath.Path(path).expanduser()


def read_bytes(path: epath.PathLike, what: str) -> bytes:
    """The content of a file that must have one.

    Raises:
      DataError: missing, empty, a directory, or unreadable; `what` says what was expected ("COCO annotations").
    """
    file = as_path(path)
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        raise DataError(f"there is no file {str(file)!r}; expected {what}{_nearby(file)}") from None
    except IsADirectoryError:
        raise DataError(f"{str(file)!r} is a directory; expected a file with {what}{_inside(file)}") from None
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {str(file)!r} ({what}): {error}") from error
    if not content.strip():
        raise DataError(f"{str(file)!r} is empty; expected {what}")
    return content


def read_text(path: epath.PathLike, what: str) -> str:
    """The text of a file, UTF-8 with or without a byte order mark. Raises like `read_bytes`."""
    try:
        return read_bytes(path, what).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{str(path)!r} is not text in UTF-8 ({error}); expected {what}") from error


def read_lines(path: epath.PathLike, what: str) -> list[str]:
    """Its lines without surrounding space, empty ones left out. Raises like `read_bytes`."""
    return [line.strip() for line in read_text(path, what).splitlines() if line.strip()]


def read_json(path: epath.PathLike, what: str) -> dict[str, Any]:
    """A JSON object.

    Raises:
      DataError: like `read_bytes`; invalid JSON, with line and column; not an object.
    """
    text = read_text(path, what)
    try:
        with _no_collection():
            document = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{str(path)!r} is not valid JSON (expected {what}): {error.msg} in line {error.lineno}, "
            f"column {error.colno}; the file may be cut short or not JSON at all"
        ) from error
    except RecursionError as error:
        raise DataError(f"{str(path)!r} nests too deeply to be {what}") from error
    except ValueError as error:  # a number of more than 4,300 digits
        raise DataError(f"{str(path)!r} is not valid JSON (expected {what}): {error}") from error
    if not isinstance(document, dict):
        kind = "a list" if isinstance(document, list) else f"a {type(document).__name__}"
        raise DataError(f"{str(path)!r} holds {kind}; expected {what}, which is an object {{...}}")
    return document


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Millions of new lists and dicts would be searched for cycles again and again; JSON has none."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def stamp(path: epath.PathLike) -> tuple[int, int]:
    """Size and time of change of a file: whether it is still what it was. Raises OSError where there is none."""
    text = os.fspath(as_path(path))
    if "://" in text:
        remote = epath.Path(text).stat()
        return int(remote.length), int(remote.mtime)
    local = os.stat(text)
    return local.st_size, local.st_mtime_ns


def directory(path: epath.PathLike, what: str) -> epath.Path:
    """A folder that must exist.

    Raises:
      DataError: it does not, or is a file.
    """
    folder = as_path(path)
    try:
        if folder.is_dir():
            return folder
        exists = folder.exists()
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {str(folder)!r} ({what}): {error}") from error
    if exists:
        raise DataError(f"{str(folder)!r} is a file; expected a folder with {what}")
    raise DataError(f"there is no folder {str(folder)!r}; expected {what}{_nearby(folder)}")


def entries(folder: epath.PathLike) -> tuple[list[str], list[str]]:
    """Names of the files and of the folders in a folder, sorted, without hidden ones; links are followed.

    A folder that cannot be listed has none.
    """
    files: list[str] = []
    folders: list[str] = []
    text = os.fspath(folder)
    try:
        if "://" in text:
            for item in epath.Path(text).iterdir():
                (folders if item.is_dir() else files).append(item.name)
        else:
            with os.scandir(text) as items:
                for entry in items:
                    (folders if entry.is_dir() else files).append(entry.name)
    except (OSError, ValueError):
        return [], []
    return _visible(files), _visible(folders)


def _visible(names: list[str]) -> list[str]:
    return sorted(name for name in names if not name.startswith("."))


def list_images(folder: epath.PathLike, faults: Faults | None = None) -> list[str]:
    """Relative names of the images in a folder and below it, by suffix, sorted within each folder.

    Args:
      folder: must exist.
      faults: is told of other files.
    """
    root = str(as_path(folder))
    found: list[str] = []
    others: list[str] = []
    waiting, seen = collections.deque([""]), set[str]()
    while waiting:
        prefix = waiting.popleft()
        where = f"{root.rstrip('/')}/{prefix}"
        place = where if "://" in where else os.path.realpath(where)
        if place in seen:  # a link to a folder above
            continue
        seen.add(place)
        files, folders = entries(where)
        for name in files:
            (found if name.lower().endswith(IMAGE_SUFFIXES) else others).append(prefix + name)
        waiting.extend(f"{prefix}{name}/" for name in folders)
    if faults is not None:
        faults.extend("file(s) not used, which are no images by their name", len(others), map(repr, others))
    return found


def present(paths: Sequence[str]) -> list[bool]:
    """Whether each file exists. Each folder is listed once, which for many files is far cheaper."""
    listed: dict[str, set[str]] = {}

    def there(path: str) -> bool:
        parent, _, name = path.rpartition("/")
        if parent not in listed:
            listed[parent] = set(entries(parent or ("/" if path.startswith("/") else "."))[0])
        return name in listed[parent]

    return [there(path) for path in paths]


def locate(folder: epath.Path, names: Sequence[str]) -> list[str | None]:
    """The path of each named file below `folder`, or None where it is not there.

    A file that lies directly in `folder` is found by the last part of its name too.
    """
    root = str(folder).rstrip("/")
    names = [name.replace("\\", "/") for name in names]
    full = [name if name.startswith("/") or "://" in name else f"{root}/{name}" for name in names]
    flat = [f"{root}/{name.rpartition('/')[2]}" for name in names]
    found = [path if there else None for path, there in zip(full, present(full), strict=True)]
    beside = present(flat) if None in found else [False] * len(flat)
    return [path or (other if there else None) for path, other, there in zip(found, flat, beside, strict=True)]


def _nearby(path: epath.Path) -> str:
    """What stands beside a missing path."""
    try:
        parent = path.parent
        names = [name for names in entries(parent) for name in names]
    except (OSError, ValueError):
        return ""
    if not names:
        return f"; {str(parent)!r} is empty or does not exist either"
    listed = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    near = hint(path.name, names)
    return f"; {near}" if near.startswith("did you mean") else f"; {str(parent)!r} holds {listed}"


def _inside(path: epath.Path) -> str:
    names = entries(path)[0]
    return f"; it holds {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}" if names else ""
