"""The bytes of a checkpoint, and tensors as views of them: every offset, stride and size is checked before it is used.

Local files are memory-mapped, so that a tensor costs nothing until it is read; do not overwrite a file whose arrays are
still in use (replace it: an open map keeps the old one).
"""

import dataclasses
import math
import mmap
import os
from collections.abc import Callable, Mapping

import numpy as np
from etils import epath

from jaxvision.pretrained.pickle_objects import DTYPES, TensorRef
from jaxvision.pretrained.pickle_reader import CheckpointError

MAX_EXPANSION = 8
"""Elements of all tensors together, views and expanded ones included, over the bytes of the file."""
_SLACK = 64 << 20


def map_file(path: epath.PathLike) -> memoryview:
    """The read-only bytes of a file: mapped where it is local.

    Raises:
      FileNotFoundError: no such file.
      CheckpointError: a folder or an empty file.
    """
    file = epath.Path(path)
    if not file.exists():
        raise FileNotFoundError(f"no weights at {path}")
    if file.is_dir():
        raise CheckpointError(f"{path} is a folder: expected a file of weights")
    if "://" in str(path):
        data = memoryview(file.read_bytes())
    else:
        with open(os.fspath(path), "rb") as handle:
            size = os.fstat(handle.fileno()).st_size
            data = memoryview(mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)) if size else memoryview(b"")
    if not data:
        raise CheckpointError(f"{path} is empty")
    return data


@dataclasses.dataclass(eq=False)
class Storages:
    """Where the storages of a file lie.

    Attributes:
      data: the file.
      places: key -> (first byte, number of bytes).
      little_endian: byte order of the elements.
      budget: bytes that tensors may still have, taken together.
    """

    data: memoryview
    places: Mapping[str, tuple[int, int]]
    little_endian: bool = True
    budget: int = 0

    def __post_init__(self) -> None:
        self.budget = MAX_EXPANSION * len(self.data) + _SLACK

    def reader(self) -> Callable[[TensorRef], np.ndarray]:
        """`array(tensor)`; the same tensor twice is the same array."""
        made: dict[tuple, np.ndarray] = {}

        def array(tensor: TensorRef) -> np.ndarray:
            key = (tensor.storage.key, tensor.dtype, tensor.storage.offset, tensor.offset, tensor.shape, tensor.strides)
            if key not in made:
                made[key] = self.array(tensor)
            return made[key]

        return array

    def array(self, tensor: TensorRef) -> np.ndarray:
        """A read-only view of the file, or a copy where the byte order differs.

        Raises:
          CheckpointError: a tensor that reaches beyond its storage, or a storage beyond the file.
        """
        dtype, shape, storage = DTYPES[tensor.dtype], tensor.shape, tensor.storage
        if math.prod(size for size in shape if size) > 1 << 48:
            raise CheckpointError(f"a tensor has the shape {shape}")
        if 0 in shape:
            return np.empty(shape, dtype)
        if storage.key not in self.places:
            raise CheckpointError(f"the storage {storage.key!r:.40} of a tensor {tensor} is not in the file")
        start, size = self.places[storage.key]
        item = dtype.itemsize
        unit = DTYPES[storage.dtype].itemsize
        if (storage.offset + storage.size) * unit > size:
            raise CheckpointError(
                f"storage {storage.key!r:.40} should have {storage.size:,} elements and has {size:,} bytes"
            )
        last = tensor.offset + sum((n - 1) * stride for n, stride in zip(shape, tensor.strides, strict=True))
        if (last + 1) * item > storage.size * unit:
            raise CheckpointError(
                f"a tensor {tensor} with offset {tensor.offset} and strides {tensor.strides} reaches beyond "
                f"its storage of {storage.size:,} elements"
            )
        self.budget -= math.prod(shape) * item
        if self.budget < 0:
            raise CheckpointError(
                f"the tensors together are over {MAX_EXPANSION} times as large as the file: expanded to exhaust memory?"
            )
        offset = start + storage.offset * unit + tensor.offset * item
        strides = tuple(stride * item if n > 1 else item for n, stride in zip(shape, tensor.strides, strict=True))
        view = np.ndarray(shape, dtype, self.data, offset, strides)
        return view if self.little_endian else _swapped(view)


def _swapped(array: np.ndarray) -> np.ndarray:
    unit = array.dtype.itemsize // (2 if array.dtype.kind == "c" else 1)
    words = np.ascontiguousarray(array).reshape(-1).view(f"u{unit}")
    return words.byteswap().view(array.dtype).reshape(array.shape)
