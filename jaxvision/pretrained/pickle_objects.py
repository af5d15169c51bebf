"""What checkpoints may build: our own stand-ins for the few functions that rebuild tensors, arrays and containers.

Each takes untrusted arguments, copies no more than it charges for, and returns data. Tensors stay descriptions
(`TensorRef`) until the storages of the file are known. Dtypes and devices are names ("torch.float32", "cuda:0").
"""

import dataclasses
import math
import re
from typing import Any

import ml_dtypes
import numpy as np

from jaxvision.pretrained.pickle_reader import CheckpointError, Constructors, Global, Opaque, State, hashable

# Error messages never print an untrusted value: a tuple of a tuple of ... that is shared takes exponential time.

DTYPES: dict[str, np.dtype] = {
    name: np.dtype(dtype)
    for name, dtype in {
        "float64": np.float64, "float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16,
        "int64": np.int64, "int32": np.int32, "int16": np.int16, "int8": np.int8, "bool": np.bool_,
        "uint64": np.uint64, "uint32": np.uint32, "uint16": np.uint16, "uint8": np.uint8,
        "complex64": np.complex64, "complex128": np.complex128,
        "float8_e4m3fn": ml_dtypes.float8_e4m3fn, "float8_e5m2": ml_dtypes.float8_e5m2,
        "float8_e4m3fnuz": ml_dtypes.float8_e4m3fnuz, "float8_e5m2fnuz": ml_dtypes.float8_e5m2fnuz,
    }.items()
}  # fmt: skip
"""torch's names of element types -> numpy's."""
_ALIASES = {"double": "float64", "float": "float32", "half": "float16", "long": "int64", "int": "int32"} | {
    "short": "int16",
    "cfloat": "complex64",
    "cdouble": "complex128",
}
STORAGES = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8",
    "ByteStorage": "uint8", "BoolStorage": "bool", "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128", "UntypedStorage": "uint8",
}  # fmt: skip
"""torch's storage classes -> the type of their elements (an untyped one counts bytes)."""
_MAX_DIMENSIONS = 32
_NUMERIC = re.compile(r"[<>=|]?([biufc]\d{1,2}|\?)")


@dataclasses.dataclass(frozen=True, eq=False)
class StorageRef:
    """A storage of the file.

    Attributes:
      key: its name there.
      dtype: type of its elements.
      offset: of a view of another storage (legacy format), in elements.
      size: number of elements.
    """

    key: str
    dtype: str
    size: int
    offset: int = 0


@dataclasses.dataclass(frozen=True, eq=False)
class TensorRef:
    """A tensor of the file: where it lies in its storage; offset and strides in elements."""

    storage: StorageRef
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"


def storage_dtype(kind: Any) -> str | None:
    """Element type of a storage class, None for one that is not known."""
    if isinstance(kind, Global) and kind.module in ("torch", "torch.storage", "torch.cuda"):
        return STORAGES.get(kind.name)
    return None


def is_known(name: Global) -> bool:
    """Names that checkpoints mention and that nothing calls: dtypes, layouts, storage classes."""
    if name.module == "torch":
        return _torch_dtype(name) is not None or name.name in STORAGES or name.name in ("strided", "Tensor")
    return name.module in ("torch.storage", "torch.cuda") and name.name in STORAGES


def _torch_dtype(name: Any) -> str | None:
    if not isinstance(name, Global) or name.module != "torch":
        return None
    plain = _ALIASES.get(name.name, name.name)
    return plain if plain in DTYPES else None


def _sizes(values: Any, what: str) -> tuple[int, ...]:
    if not isinstance(values, (tuple, list)) or len(values) > _MAX_DIMENSIONS:
        raise CheckpointError(f"a tensor has no proper {what}")
    if not all(isinstance(value, int) and 0 <= value < 1 << 62 for value in values):
        raise CheckpointError(f"the {what} of a tensor is not made of integers from 0 to 2^62")
    return tuple(int(value) for value in values)


def _tensor(state: State, storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> Any:
    if not isinstance(storage, StorageRef):
        return Opaque("torch.Tensor", (storage,))
    shape, strides = _sizes(shape, "shape"), _sizes(strides, "strides")
    (offset,) = _sizes((offset,), "offset")
    if len(shape) != len(strides):
        raise CheckpointError(f"a tensor of shape {shape} has {len(strides)} strides")
    return TensorRef(storage, storage.dtype, offset, shape, strides)


def _tensor_v3(state: State, storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> Any:
    """Like `_tensor` with the dtype apart from the storage, which is untyped."""
    dtype = _torch_dtype(rest[2]) if len(rest) > 2 else None
    tensor = _tensor(state, storage, offset, shape, strides)
    if dtype is None or not isinstance(tensor, TensorRef):
        return Opaque("torch.Tensor", (storage,))
    return dataclasses.replace(tensor, dtype=dtype)


def _first(state: State, value: Any, *rest: Any) -> Any:
    return value


def _subclass(state: State, function: Any, kind: Any, args: Any, *rest: Any) -> Any:
    """A tensor of a subclass: the plain tensor that it wraps."""
    constructor = CONSTRUCTORS.get(function) if isinstance(function, Global) else None
    if constructor is None or constructor is _subclass or not isinstance(args, tuple):
        return Opaque("torch.Tensor", (function, kind, args))
    return constructor(state, *args)


def _dict(state: State, *args: Any) -> Any:
    """An OrderedDict: empty, from pairs (Python 2), or from a dict."""
    if not args:
        return {}
    pairs = args[-1]
    if isinstance(pairs, dict):
        state.charge(100 * len(pairs))
        return dict(pairs)
    if not isinstance(pairs, list) or not all(isinstance(p, (list, tuple)) and len(p) == 2 for p in pairs):
        return {} if len(args) == 1 else Opaque("dict", args)
    state.charge(100 * len(pairs))
    return {hashable(key): value for key, value in pairs}


def _list(state: State, *args: Any) -> Any:
    """A set or a list."""
    values = args[0] if args else []
    if not isinstance(values, (list, tuple)):
        return Opaque("list", args)
    state.charge(8 * len(values))
    return list(values)


def _size(state: State, values: Any = ()) -> tuple[int, ...]:
    return _sizes(values, "size")


def _device(state: State, kind: Any, index: Any = None) -> Any:
    if not isinstance(kind, str) or len(kind) > 20:
        return Opaque("torch.device", (kind, index))
    return f"{kind}:{index}" if isinstance(index, int) else kind


def _bytes(state: State, text: Any = "", encoding: Any = "latin1") -> Any:
    """`_codecs.encode` and `bytearray`: how Python 3 writes bytes for protocol 2."""
    if isinstance(text, str) and encoding in ("latin1", "latin-1"):
        state.charge(len(text))
        return text.encode("latin-1")
    return text if isinstance(text, bytes) else Opaque("bytes", (text, encoding))


class DtypeRef:
    """A numpy dtype in the making: its code, then (`restore`) its byte order."""

    def __init__(self, code: str) -> None:
        self.code, self.order = code, "="

    def restore(self, state: State, value: Any) -> None:
        if isinstance(value, tuple) and len(value) > 1 and value[1] in ("<", ">", "|", "="):
            self.order = value[1]

    def make(self) -> np.dtype | None:
        """The dtype, None for one that is not numeric."""
        code = self.code if self.code[:1] in "<>=|" or self.order == "|" else self.order + self.code
        try:
            return np.dtype(code) if _NUMERIC.fullmatch(code) else None
        except TypeError:
            return None


class ArrayRef:
    """A numpy array in the making: `restore` brings its contents."""

    def __init__(self) -> None:
        self.value: Any = Opaque("numpy.ndarray")

    def restore(self, state: State, value: Any) -> None:
        if isinstance(value, tuple) and len(value) == 5:
            _, shape, dtype, fortran, raw = value
            self.value = _array(raw, dtype, shape, "F" if fortran is True else "C")


def _array(raw: Any, dtype: Any, shape: Any, order: str) -> Any:
    made = dtype.make() if isinstance(dtype, DtypeRef) else None
    raw = raw.encode("latin-1") if isinstance(raw, str) else raw
    if made is None or not isinstance(raw, bytes):
        return Opaque("numpy.ndarray", (shape,))
    shape = _sizes(shape, "shape")
    if math.prod(shape) * made.itemsize != len(raw):
        raise CheckpointError(f"a numpy array of shape {shape} and dtype {made} has {len(raw):,} bytes")
    if not raw:
        return Opaque("numpy.ndarray", (shape,)) if max(shape, default=0) > 1 << 40 else np.empty(shape, made)
    return np.frombuffer(raw, made).reshape(shape, order=order)  # type: ignore[call-overload]


def _dtype(state: State, code: Any, *rest: Any) -> Any:
    return DtypeRef(code) if isinstance(code, str) and len(code) < 8 else Opaque("numpy.dtype", (code,))


def _scalar(state: State, dtype: Any, raw: Any = None) -> Any:
    array = _array(raw, dtype, (), "C")
    return array[()] if isinstance(array, np.ndarray) else Opaque("numpy.generic", (raw,))


def _from_buffer(state: State, raw: Any, dtype: Any, shape: Any, order: Any = "C") -> Any:
    return _array(raw, dtype, shape, "F" if order == "F" else "C")


def _reconstruct(state: State, *args: Any) -> ArrayRef:
    return ArrayRef()


def _table() -> Constructors:
    table: dict[Global, Any] = {
        Global("torch._utils", "_rebuild_tensor"): _tensor,
        Global("torch._utils", "_rebuild_tensor_v2"): _tensor,
        Global("torch._utils", "_rebuild_tensor_v3"): _tensor_v3,
        Global("torch._utils", "_rebuild_parameter"): _first,
        Global("torch._utils", "_rebuild_parameter_with_state"): _first,
        Global("torch._tensor", "_rebuild_from_type_v2"): _subclass,
        Global("torch._tensor", "_rebuild_from_type"): _subclass,
        Global("torch.nn.parameter", "Parameter"): _first,
        Global("torch", "Size"): _size,
        Global("torch", "device"): _device,
        Global("collections", "OrderedDict"): _dict,
        Global("collections", "defaultdict"): lambda state, *args: _dict(state, *args[1:]),
        Global("collections", "Counter"): _dict,
        Global("_codecs", "encode"): _bytes,
        Global("numpy", "dtype"): _dtype,
        Global("numpy", "ndarray"): lambda state, *args: Opaque("numpy.ndarray", args),
    }
    for module in ("builtins", "__builtin__"):
        table |= {Global(module, "set"): _list, Global(module, "frozenset"): _list, Global(module, "list"): _list}
        table |= {Global(module, "dict"): _dict, Global(module, "bytearray"): _bytes}
    for core in ("numpy.core", "numpy._core"):
        table |= {Global(f"{core}.multiarray", "_reconstruct"): _reconstruct}
        table |= {
            Global(f"{core}.multiarray", "scalar"): _scalar,
            Global(f"{core}.numeric", "_frombuffer"): _from_buffer,
        }
    return table


CONSTRUCTORS: Constructors = _table()
"""The only names that do anything when a checkpoint calls them."""
