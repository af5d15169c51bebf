"""Writes checkpoints in torch's formats, opcode by opcode and without torch; hostile ones too."""

import dataclasses
import struct
import zipfile

import numpy as np

STORAGES = {
    "float64": "DoubleStorage", "float32": "FloatStorage", "float16": "HalfStorage", "bfloat16": "BFloat16Storage",
    "int64": "LongStorage", "int32": "IntStorage", "int16": "ShortStorage", "int8": "CharStorage",
    "uint8": "ByteStorage", "bool": "BoolStorage", "complex64": "ComplexFloatStorage",
}  # fmt: skip
MAGIC = 0x1950A86A20F9469CFC6C


@dataclasses.dataclass(frozen=True)
class Name:
    """A global: "module.name"."""

    text: str


@dataclasses.dataclass(frozen=True)
class Call:
    """`function(*args)`, then BUILD with `state` where there is one."""

    function: object
    args: tuple = ()
    state: object = None


@dataclasses.dataclass(frozen=True)
class Persistent:
    pid: object


@dataclasses.dataclass(frozen=True)
class Raw:
    """Opcodes as they are; they leave one object on the stack."""

    opcodes: bytes


def dumps(value):
    """A pickle of protocol 2."""
    return b"\x80\x02" + code(value) + b"."


def code(value):
    if isinstance(value, Raw):
        return value.opcodes
    if isinstance(value, Name):
        module, _, name = value.text.rpartition(".")
        return f"c{module}\n{name}\n".encode()
    if isinstance(value, Call):
        built = code(value.function) + code(value.args) + b"R"
        return built if value.state is None else built + code(value.state) + b"b"
    if isinstance(value, Persistent):
        return code(value.pid) + b"Q"
    if value is None or isinstance(value, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    if isinstance(value, int):
        raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        return b"\x8a" + bytes([len(raw)]) + raw
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if isinstance(value, str):
        return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
    if isinstance(value, bytes):
        return b"B" + struct.pack("<I", len(value)) + value
    if isinstance(value, tuple):
        return b"(" + b"".join(map(code, value)) + b"t"
    if isinstance(value, list):
        return b"](" + b"".join(map(code, value)) + b"e"
    if isinstance(value, dict):
        return b"}(" + b"".join(code(k) + code(v) for k, v in value.items()) + b"u"
    raise TypeError(type(value))


def ordered(value):
    """A dict as the OrderedDict that torch writes."""
    return Raw(
        code(Call(Name("collections.OrderedDict")))
        + b"("
        + b"".join(code(k) + code(v) for k, v in value.items())
        + b"u"
    )


def storage(dtype, key, size, view=()):
    return Persistent(("storage", Name(f"torch.{STORAGES[dtype]}"), key, "cpu", size, *view))


def tensor(dtype, key, size, offset, shape, strides, view=()):
    """A tensor in a storage of `size` elements."""
    arguments = (storage(dtype, key, size, view), offset, tuple(shape), tuple(strides), False, ordered({}))
    return Call(Name("torch._utils._rebuild_tensor_v2"), arguments)


class Checkpoint:
    """Collects storages while its tensors are described: `c.array(x)`; then `c.zip(path, tree)` or `c.legacy(...)`."""

    def __init__(self):
        self.storages = {}

    def array(self, value):
        """A tensor with a storage of its own."""
        value, key = np.asarray(value, order="C"), str(len(self.storages))
        self.storages[key] = value
        strides = [step // value.itemsize for step in value.strides]
        return tensor(value.dtype.name, key, value.size, 0, value.shape, strides)

    def zip(self, path, tree, *, root="archive", byteorder=None, extra=()):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(f"{root}/data.pkl", dumps(tree))
            if byteorder:
                archive.writestr(f"{root}/byteorder", byteorder)
            for key, value in self.storages.items():
                swapped = value.byteswap() if byteorder == "big" else value
                archive.writestr(f"{root}/data/{key}", swapped.tobytes())
            for name, content in extra:
                archive.writestr(f"{root}/{name}", content)
        return path

    def legacy(self, path, tree, *, keys=None):
        system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
        parts = [dumps(MAGIC), dumps(1001), dumps(system), dumps(tree), dumps(list(keys or self.storages))]
        for value in self.storages.values():
            parts += [struct.pack("<q", value.size), value.tobytes()]
        path.write_bytes(b"".join(parts))
        return path
