"""Reads `.pth`, `.pt` and `.bin` without torch: both of its formats, plain pickles, and what surrounds the weights.

The format since torch 1.6 is a zip archive of uncompressed records: `NAME/data.pkl` is a pickle whose tensors refer to
storages in `NAME/data/KEY` (torch/serialization.py, `_save`). The one before is a row of pickles (magic number,
protocol, byte order, the object, the keys of its storages) with the storages behind (`_legacy_save`). Nothing in a file
is ever called, see `pickle_reader`; what a checkpoint holds beside tensors comes back as data.
"""

import dataclasses
import io
import json
import struct
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from jaxvision.pretrained.pickle_objects import CONSTRUCTORS, DTYPES, StorageRef, is_known, storage_dtype
from jaxvision.pretrained.pickle_reader import CheckpointError, Global, Opaque, Result, read_pickle
from jaxvision.pretrained.state_dict import find_state_dict, plain
from jaxvision.pretrained.torch_storage import Storages, map_file

MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
_MAX_RECORDS = 200_000


@dataclasses.dataclass(frozen=True, eq=False)
class LoadedFile:
    """The contents of a file of weights.

    Attributes:
      state_dict: the file's own names -> arrays in the file's own layout, read-only; views of the file where possible.
      other: everything else as plain data: tensors as a description ("float32[64, 3]"), objects that were not rebuilt
        as `Opaque`.
      unknown_globals: sorted names of classes and functions that the file refers to and that were not rebuilt. Harmless
        ones (`argparse.Namespace`) and an attack (`os.system`) look alike here: neither was imported.
      wrapper: where in the file the weights were found ("model_ema", "state_dict, without 'module.'"), "" at the top.
      format: "zip", "legacy", "pickle" or "safetensors".
    """

    state_dict: dict[str, np.ndarray]
    other: Any = None
    unknown_globals: tuple[str, ...] = ()
    wrapper: str = ""
    format: str = ""

    def __str__(self) -> str:
        where = f" in {self.wrapper}" if self.wrapper else ""
        rest = f", not rebuilt: {', '.join(self.unknown_globals)}" if self.unknown_globals else ""
        return f"{len(self.state_dict)} arrays{where} ({self.format}{rest})"


def load_torch(path: epath.PathLike, *, prefer_ema: bool = True) -> LoadedFile:
    """Reads a file that `torch.save` wrote.

    Args:
      path: local file or `gs://` path.
      prefer_ema: where a file has averaged weights beside the last ones, takes those (published numbers are theirs).

    Raises:
      FileNotFoundError: no such file.
      CheckpointError: not such a file, damaged, or without tensors.
    """
    data = map_file(path)
    try:
        tree, unknown, storages, kind = _read(data)
        found = find_state_dict(tree, prefer_ema=prefer_ema)
        array = storages.reader()
        state_dict = {name: array(value) for name, value in found.tensors.items()} | found.arrays
        other = plain(found.other)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    if not state_dict:
        raise CheckpointError(f"{path} holds no weights: found {_outline(tree)}")
    return LoadedFile(state_dict, other, unknown, found.where, kind)


def read_weights(path: epath.PathLike, *, prefer_ema: bool = True) -> LoadedFile:
    """Reads any file of weights: torch's, `.safetensors`, or the `.index.json` of one that is split.

    Args and errors as for `load_torch`.
    """
    from jaxvision.pretrained.safetensors import read_safetensors

    name = str(path)
    if name.endswith(".index.json"):
        return _read_split(path, prefer_ema)
    if name.endswith(".safetensors"):
        return LoadedFile(read_safetensors(path), format="safetensors")
    return load_torch(path, prefer_ema=prefer_ema)


def _read_split(path: epath.PathLike, prefer_ema: bool) -> LoadedFile:
    """Hugging Face's index of a checkpoint in several files: {"weight_map": {name: file}}."""
    try:
        table = json.loads(epath.Path(path).read_text())["weight_map"]
        files = sorted(set(table.values()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise CheckpointError(f'{path} is no index of weights: expected {{"weight_map": {{name: file}}}}') from None
    wrong = [file for file in files if not isinstance(file, str) or epath.Path(file).name != file or file[:1] == "."]
    if wrong:
        raise CheckpointError(f"{path} refers to {wrong[0]!r}: expected names of files beside it")
    parts = {file: read_weights(epath.Path(path).parent / file, prefer_ema=prefer_ema) for file in files}
    missing = [name for name, file in table.items() if name not in parts[file].state_dict]
    if missing:
        raise CheckpointError(
            f"{path} places {missing[0]} in {table[missing[0]]}, which lacks it ({len(missing)} names)"
        )
    unknown = sorted({name for part in parts.values() for name in part.unknown_globals})
    kind = next((part.format for part in parts.values()), "")
    return LoadedFile(
        {name: parts[file].state_dict[name] for name, file in table.items()}, None, tuple(unknown), "", kind
    )


def _read(data: memoryview) -> tuple[Any, tuple[str, ...], Storages, str]:
    head = bytes(data[:512])
    if head[:2] == b"PK":
        return _read_zip(data)
    if _LEGACY in head[:24]:
        return _read_legacy(data)
    if head[:1] == b"\x80":
        result = _pickle(data, 0, _no_storages)
        return result.value, result.unknown, Storages(data, {}), "pickle"
    if head[257:262] == b"ustar":
        raise CheckpointError("the tar format of torch before 0.2: open it with torch and save it again")
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError("a pointer of Git LFS instead of the file: run `git lfs pull`")
    if head.lstrip()[:1] == b"<":
        raise CheckpointError("a web page instead of weights: the download went wrong")
    if head[8:9] == b"{":
        raise CheckpointError("this looks like safetensors: give the file the suffix .safetensors")
    raise CheckpointError("neither a zip archive nor a pickle: no file that torch.save wrote")


def _pickle(data: memoryview, start: int, persistent: Any) -> Result:
    return read_pickle(data, start, CONSTRUCTORS, is_known, persistent)


def _no_storages(pid: Any) -> Any:
    raise CheckpointError("the pickle refers to data outside of it")


def _read_zip(data: memoryview) -> tuple[Any, tuple[str, ...], Storages, str]:
    places = _records(data)
    roots = sorted({name[: -len("data.pkl")] for name in places if name.endswith("data.pkl") and name.count("/") <= 1})
    if len(roots) != 1:
        raise CheckpointError(f"a zip archive with {len(roots)} data.pkl: expected one, as torch.save writes it")
    root = roots[0]
    if f"{root}constants.pkl" in places:
        raise CheckpointError(
            "a TorchScript program: save its weights with torch.save(torch.jit.load(path).state_dict(), ...)"
        )
    start, size = places[f"{root}data.pkl"]
    result = _pickle(data[: start + size], start, _storage)
    order = places.get(f"{root}byteorder")
    little = order is None or bytes(data[order[0] : sum(order)]) != b"big"
    prefix = f"{root}data/"
    storages = {name[len(prefix) :]: place for name, place in places.items() if name.startswith(prefix)}
    return result.value, result.unknown, Storages(data, storages, little), "zip"


def _records(data: memoryview) -> dict[str, tuple[int, int]]:
    """Name -> (first byte, size) of the records of a zip archive."""
    try:
        with zipfile.ZipFile(_Reader(data)) as archive:
            entries = archive.infolist()
    except (
        zipfile.BadZipFile,
        ValueError,
        NotImplementedError,
        struct.error,
        OSError,
        OverflowError,
        EOFError,
    ) as error:
        raise CheckpointError(f"damaged or cut off zip archive ({error})") from None
    if len(entries) > _MAX_RECORDS:
        raise CheckpointError(f"a zip archive with {len(entries):,} records")
    places: dict[str, tuple[int, int]] = {}
    for entry in entries:
        name, at = entry.filename, entry.header_offset
        if name in places:
            raise CheckpointError(f"the zip archive has two records {name!r:.80}")
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 or entry.file_size != entry.compress_size:
            raise CheckpointError(f"the record {name!r:.80} is compressed or encrypted; torch.save does neither")
        header = bytes(data[at : at + 30]) if 0 <= at <= len(data) - 30 else b""
        if header[:4] != b"PK\x03\x04":
            raise CheckpointError(f"damaged zip archive: no record at byte {at} for {name!r:.80}")
        start = at + 30 + sum(struct.unpack("<HH", header[26:30]))
        if start + entry.file_size > len(data):
            raise CheckpointError(f"the zip archive is cut off in the record {name!r:.80}")
        places[name] = start, entry.file_size
    return places


class _Reader(io.RawIOBase):
    """A file object over a buffer that copies only what is read."""

    def __init__(self, data: memoryview) -> None:
        self.data, self.at = data, 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        at = offset + (0, self.at, len(self.data))[whence]
        if at < 0:
            raise OSError("a position before the file")
        self.at = at
        return at

    def tell(self) -> int:
        return self.at

    def read(self, size: int | None = -1) -> bytes:
        end = len(self.data) if size is None or size < 0 else self.at + size
        chunk = bytes(self.data[self.at : end])
        self.at += len(chunk)
        return chunk


def _storage(pid: Any) -> Any:
    """The storage of a persistent id ("storage", class, key, device, number of elements[, view])."""
    if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage":
        if isinstance(pid, tuple) and len(pid) >= 2 and pid[0] == "module":
            return pid[1]  # the legacy format wraps each class with its source text
        raise CheckpointError("the pickle refers to data outside of it, and not to a storage")
    kind, key, _, size, *view = pid[1:]
    dtype = storage_dtype(kind)
    if dtype is None:
        return Opaque(str(kind) if isinstance(kind, Global) else "storage")
    if not isinstance(key, (str, int)) or not isinstance(size, int) or not 0 <= size < 1 << 62:
        raise CheckpointError("a storage has no proper key or size")
    if not view or view[0] is None:
        return StorageRef(str(key), dtype, size)
    if not isinstance(view[0], tuple) or len(view[0]) != 3 or not all(isinstance(n, int) for n in view[0][1:]):
        raise CheckpointError("a view of a storage has no proper offset or size")
    _, offset, length = view[0]
    if not (0 <= offset <= offset + length <= size):
        raise CheckpointError(f"a view of a storage has offset {offset} and {length} of {size} elements")
    return StorageRef(str(key), dtype, length, offset)


def _read_legacy(data: memoryview) -> tuple[Any, tuple[str, ...], Storages, str]:
    magic = _pickle(data, 0, _no_storages)
    protocol = _pickle(data, magic.end, _no_storages)
    system = _pickle(data, protocol.end, _no_storages)
    if magic.value != MAGIC or protocol.value != 1001:
        raise CheckpointError("the legacy format has protocol 1001; this file says otherwise")
    little = not isinstance(system.value, Mapping) or system.value.get("little_endian") is not False
    sizes: dict[str, int] = {}

    def persistent(pid: Any) -> Any:
        storage = _storage(pid)
        if isinstance(storage, StorageRef):
            sizes[storage.key] = DTYPES[storage.dtype].itemsize
        return storage

    result = _pickle(data, system.end, persistent)
    keys = _pickle(data, result.end, _no_storages)
    if not isinstance(keys.value, list) or not all(isinstance(key, (str, int)) for key in keys.value):
        raise CheckpointError("the legacy format ends with the keys of its storages; this file does not")
    places, at = {}, keys.end
    for key in map(str, keys.value):
        count = int.from_bytes(data[at : at + 8], "little" if little else "big")
        size = count * sizes.get(key, 0)
        if key in places or key not in sizes or at + 8 + size > len(data):
            raise CheckpointError(f"the file is cut off or damaged in storage {key!r:.40}")
        places[key] = at + 8, size
        at += 8 + size
    return result.value, result.unknown, Storages(data, places, little), "legacy"


def _outline(tree: Any) -> str:
    if isinstance(tree, dict):
        return f"a dict with {', '.join(repr(key)[:40] for key in list(tree)[:8])}"
    return f"a {tree.name}" if isinstance(tree, Opaque) else f"a {type(tree).__name__}"
