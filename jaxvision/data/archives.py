"""Data sets in archives: unpacked once, beside others of their kind in a cache folder, and not beyond it.

An archive is input from strangers: names that lead out of the folder, links and devices are refused before anything is
written, and what it says and what it really holds must stay below a limit of size and number.
"""

import contextlib
import hashlib
import os
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

from etils import epath

from jaxvision.data.faults import DataError
from jaxvision.data.files import as_path, stamp

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
MAX_GIB = 200.0
"""Unpacked; the pictures of ImageNet take 150."""
MAX_FILES = 5_000_000
_BLOCK = 2**20
_TAR_BLOCK = 512
_DAMAGED = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError)


def is_archive(path: epath.PathLike) -> bool:
    """Whether its name ends like that of an archive that `unpack` takes."""
    return str(path).lower().endswith(SUFFIXES)


def unpack(path: epath.PathLike, cache: epath.PathLike | None = None, *, max_gib: float = MAX_GIB) -> Path:
    """The folder with the content of an archive; unpacks it where that has not been done.

    Where everything lies in one folder of the archive, that folder. An archive that has changed (size or time) is
    unpacked anew; one that is unpacked halfway never appears, however the process ends.

    Args:
      path: `.zip`, `.tar`, `.tar.gz`, `.tgz`, `.tar.bz2` or `.tar.xz`, local or a URL.
      cache: where folders are put; None: `$JAXVISION_CACHE`, else `~/.cache/jaxvision`, there `archives`.
      max_gib: refuse what unpacks to more, in GiB.

    Raises:
      DataError: no archive, a damaged one, one that needs a password, an entry that is a link or a device or leads out
        of the folder, two entries of one name, too large.
    """
    file = as_path(path)
    if not is_archive(file):
        raise DataError(f"{str(file)!r} is no archive by its name; expected one of {', '.join(SUFFIXES)}")
    try:
        size, changed = stamp(file)
        if file.is_dir():
            raise DataError(f"{str(file)!r} is a directory; expected an archive")
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"there is no file {str(file)!r}; expected an archive") from None
    identity = f"{file.resolve()}:{size}:{changed}"
    name = f"{_stem(file.name)[:60]}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"
    home = Path(cache) if cache is not None else _cache()
    target = home / name
    if not target.is_dir():
        home.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=home))
        try:
            _extract(file, temporary, int(max_gib * 2**30))
            with contextlib.suppress(OSError):  # another process was faster
                temporary.rename(target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    inner = [entry for entry in target.iterdir() if entry.name not in ("__MACOSX", ".DS_Store")]
    return inner[0] if len(inner) == 1 and inner[0].is_dir() else target


def _cache() -> Path:
    home = os.environ.get("JAXVISION_CACHE")
    return (Path(home) if home else Path.home() / ".cache" / "jaxvision") / "archives"


def _stem(name: str) -> str:
    suffix = max((s for s in SUFFIXES if name.lower().endswith(s)), key=len)
    return name[: -len(suffix)] or "archive"


def _extract(file: epath.Path, folder: Path, limit: int) -> None:
    seen: set[str] = set()
    written = 0
    try:
        for name, size, stream in _members(file):
            place = _inside(name, file)
            if str(place).lower() in seen:
                raise DataError(f"{str(file)!r} holds two files of the name {name!r}")
            seen.add(str(place).lower())
            if len(seen) > MAX_FILES or written + size > limit:
                _too_large(file, limit)
            destination = folder / place
            destination.parent.mkdir(parents=True, exist_ok=True)
            with destination.open("xb") as out:
                while block := stream.read(_BLOCK):
                    written += len(block)  # what is really there counts, not what the header says
                    if written > limit:
                        _too_large(file, limit)
                    out.write(block)
    except DataError:
        raise
    except RuntimeError as error:
        raise DataError(f"{str(file)!r} cannot be unpacked: {error}") from error
    except _DAMAGED as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk, not the archive
            raise DataError(f"{str(file)!r} cannot be unpacked into {str(folder.parent)!r}: {error}") from error
        raise DataError(f"{str(file)!r} is damaged or not what its name says: {error}") from error
    if not seen:
        raise DataError(f"{str(file)!r} holds no file")


def _members(file: epath.Path) -> Iterator[tuple[str, int, IO[bytes]]]:
    """(name, size, content) of each file in an archive; content is valid until the next one."""
    with file.open("rb") as raw:
        if file.name.lower().endswith(".zip"):
            with zipfile.ZipFile(raw) as archive:
                for info in archive.infolist():
                    kind = stat.S_IFMT(info.external_attr >> 16)
                    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                        _special(file, info.filename)
                    if info.flag_bits & 1:
                        raise DataError(f"{str(file)!r} needs a password")
                    if not info.is_dir():
                        with archive.open(info) as stream:
                            yield info.filename, info.file_size, stream
        else:
            if file.name.lower().endswith(".tar"):
                _check_end(raw, file)
            with tarfile.open(fileobj=raw, mode="r:*") as tar:
                for member in tar:
                    if not (member.isfile() or member.isdir()):
                        _special(file, member.name)
                    content: Any = tar.extractfile(member) if member.isfile() else None
                    if content is not None:
                        yield member.name, member.size, content


def _check_end(raw: Any, file: epath.Path) -> None:
    """An archive without compression that is cut between two files reads like a whole one but for its end."""
    raw.seek(0, os.SEEK_END)
    size = raw.tell()
    raw.seek(max(0, size - _TAR_BLOCK))
    if raw.read() != bytes(_TAR_BLOCK):
        raise DataError(f"{str(file)!r} is cut short or no tar archive: it does not end with a block of zeros")
    raw.seek(0)


def _special(file: epath.Path, name: str) -> None:
    raise DataError(f"{str(file)!r}: {name!r} is a link or a device; expected files and folders only")


def _too_large(file: epath.Path, limit: int) -> None:
    raise DataError(
        f"{str(file)!r} unpacks to more than {limit / 2**30:.3g} GiB or {MAX_FILES} files; unpack it "
        "yourself if it is right"
    )


def _inside(name: str, file: epath.Path) -> PurePosixPath:
    """The relative path of an entry, which must not lead out of the folder."""
    path = PurePosixPath(name.replace("\\", "/"))
    parts = [part for part in path.parts if part != "."]
    drive = bool(parts) and ":" in parts[0]
    if path.is_absolute() or ".." in parts or drive or not parts or "\0" in name:
        raise DataError(f"{str(file)!r}: the entry {name!r} leads out of the folder; nothing was unpacked")
    return PurePosixPath(*parts)
