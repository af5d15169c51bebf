"""The four IDX files of MNIST (LeCun et al. 1998) and of sets published in its form (Fashion-MNIST, KMNIST).

An IDX file is two zero bytes, a type code, the number of dimensions, each dimension as a big-endian uint32, then the
values. Files may be gzip-compressed; `train-images.idx3-ubyte` is accepted beside `train-images-idx3-ubyte`.
"""

import gzip
import struct
import zlib

import numpy as np
from etils import epath
from jaxtyping import UInt8

from jaxvision.data.sources.memory import InMemory, check_split, numbered

_PREFIX = {"train": "train", "validation": "t10k"}
_UBYTE = 0x08


class Idx(InMemory):
    """Grey images and labels of `train-*` (training) or `t10k-*` (validation) in a directory; classes are numbered."""

    def __init__(self, directory: str, *, split: str, image_size: tuple[int, int], channels: int):
        check_split(split)
        folder = epath.Path(directory)
        if not folder.is_dir():
            raise ValueError(f"idx: {str(folder)!r} is not a directory; expected the four files of MNIST in it")
        images = read_idx(_find(folder, f"{_PREFIX[split]}-images", 3), dimensions=3)
        labels = read_idx(_find(folder, f"{_PREFIX[split]}-labels", 1), dimensions=1)
        # Both parts number their classes as training does, whatever labels the other part happens to hold.
        classes = labels if split == "train" else read_idx(_find(folder, "train-labels", 1), dimensions=1)
        super().__init__(
            images, labels, numbered(classes), name=f"idx:{folder}", image_size=image_size, channels=channels
        )


def read_idx(path: epath.PathLike, dimensions: int) -> UInt8[np.ndarray, "..."]:
    """Reads an IDX file of unsigned bytes, gzip-compressed where its name ends in `.gz`.

    Raises:
      ValueError: not IDX, another type or number of dimensions than expected, or cut short; names the file.
    """
    path = epath.Path(path)
    data = path.read_bytes()
    if path.suffix == ".gz":
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{path}: cannot be unpacked as gzip ({error}); download it again") from error
    if len(data) < 4 or data[:2] != b"\0\0":
        raise ValueError(f"{path}: not an IDX file (starts with {data[:4].hex(' ') or 'nothing'}, expected 00 00)")
    kind, rank = data[2], data[3]
    if kind != _UBYTE or rank != dimensions:
        raise ValueError(
            f"{path}: IDX type 0x{kind:02x} with {rank} dimensions; expected 0x08 (unsigned bytes) with {dimensions}"
        )
    header = 4 + 4 * rank
    if len(data) < header:
        raise ValueError(f"{path}: cut short inside its header ({len(data)} of {header} bytes)")
    shape = struct.unpack(f">{rank}I", data[4:header])
    expected = header + int(np.prod(shape, dtype=object))
    if len(data) != expected:
        raise ValueError(f"{path}: {len(data)} bytes, but its header {list(shape)} asks for {expected}")
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def _find(folder: epath.Path, stem: str, dimensions: int) -> epath.Path:
    names = [f"{stem}{dash}idx{dimensions}-ubyte{suffix}" for dash in "-." for suffix in ("", ".gz")]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    present = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
    raise ValueError(f"idx: no {names[0]}[.gz] in {str(folder)!r}, which holds {present}")
