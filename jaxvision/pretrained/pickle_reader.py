"""A pickle interpreter that builds data and calls nothing.

A pickle is a program for a small stack machine (the opcodes are listed in Python's `pickletools`): it can import any
name and call it. This interpreter has no way to import: a global is a `Global`, a name of two strings. Calling one
(REDUCE, NEWOBJ, INST, OBJ, BUILD) looks its name up in a table of our own constructors and gives an inert `Opaque`
where it has none. Not a subclass of `pickle.Unpickler`: overriding `find_class` does not cover the process-wide cache
of extension codes, the C version takes a memo index of 2^31 as the wish for an array of that size, and objects that it
builds are hashed, compared and extended by their own methods.

Work and memory are bounded by the length of the pickle: each opcode takes constant time or that of the bytes it reads,
constructors are charged for what they copy, and only scalars are hashed.
"""

import struct
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jaxvision.errors import UserError

MAX_OPCODES = 3_000_000
"""More than checkpoints have (a ResNet-152's is 20,000 long); bounds time to seconds and memory to some 250 MB."""
_MAX_NAME, _MAX_LONG = 1000, 1024
_WORK_PER_BYTE, _WORK_ALLOWED = 16, 64 << 20
_SCALARS = (str, float, bytes, bool, type(None))


class CheckpointError(UserError, ValueError):
    """A file that is no readable checkpoint; the message says what is wrong with it."""


class Global(NamedTuple):
    """The name of a class or function that a pickle refers to."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Opaque:
    """What stands for an object that is not rebuilt: the name of its constructor and what that would have been given.

    Attributes:
      name: as in "argparse.Namespace".
      args: positional arguments of the constructor.
      kwargs: its keyword arguments.
      state: what `__setstate__` or `__dict__.update` would have got.
      items: what would have been appended, or (key, value) pairs that would have been set.
    """

    __slots__ = ("args", "items", "kwargs", "name", "state")

    def __init__(self, name: str, args: Any = (), kwargs: Any = None) -> None:
        self.name, self.args, self.kwargs = name, args, kwargs
        self.state: Any = None
        self.items: list[Any] = []

    def __repr__(self) -> str:
        return f"<{self.name}, not rebuilt>"


class State(NamedTuple):
    """What constructors may ask of the interpreter that calls them."""

    charge: Callable[[int], None]


Constructor = Callable[..., Any]
Constructors = Mapping[Global, Constructor]
"""`constructor(state, *args)` of a global; it must not trust its arguments, and raises CheckpointError or TypeError."""


class Result(NamedTuple):
    """The object, the position behind the pickle, and the names of all globals without a constructor, sorted."""

    value: Any
    end: int
    unknown: tuple[str, ...]


def read_pickle(
    data: memoryview,
    start: int,
    constructors: Constructors,
    known: Callable[[Global], bool],
    persistent: Callable[[Any], Any],
) -> Result:
    """Interprets the pickle that begins at `start`.

    Args:
      data: the file's bytes.
      constructors: our stand-ins for functions and classes that a pickle may call.
      known: whether a global without a constructor is expected (a dtype, a storage class).
      persistent: gives the object for a persistent id; raises CheckpointError for one it does not know.

    Raises:
      CheckpointError: not a complete pickle, or one of more than `MAX_OPCODES` opcodes.
    """
    machine = _Machine(data, start, constructors, known, persistent)
    try:
        value = machine.run()
    except CheckpointError:
        raise
    except (IndexError, KeyError, TypeError, ValueError, OverflowError, struct.error, AttributeError) as error:
        raise CheckpointError(f"damaged pickle at byte {machine.at}: {type(error).__name__}: {error}") from None
    return Result(value, machine.at, tuple(sorted(str(name) for name in machine.unknown)))


class _Machine:
    def __init__(self, data: memoryview, start: int, constructors: Constructors, known: Any, persistent: Any) -> None:
        self.data, self.at, self.start = data, start, start
        self.constructors, self.known, self.persistent = constructors, known, persistent
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.unknown: set[Global] = set()
        self.work = 0
        self.state = State(self.charge)

    def run(self) -> Any:
        data, table, end = self.data, _TABLE, len(self.data)
        for _ in range(MAX_OPCODES):
            if self.at >= end:
                raise CheckpointError("the pickle ends without its stop sign: the file is cut off or damaged")
            opcode = data[self.at]
            self.at += 1
            if opcode == 0x2E:
                return self.stack.pop()
            action = table.get(opcode)
            if action is None:
                raise CheckpointError(f"byte {self.at - 1} of the pickle is no opcode ({opcode:#04x})")
            action(self)
        raise CheckpointError(f"the pickle has more than {MAX_OPCODES:,} opcodes")

    def charge(self, amount: int) -> None:
        """Counts elements or bytes that a constructor copies."""
        self.work += amount
        if self.work > _WORK_PER_BYTE * (self.at - self.start) + _WORK_ALLOWED:
            raise CheckpointError("the pickle builds far more than it holds: it is damaged or made to exhaust memory")

    def take(self, count: int) -> memoryview:
        if not 0 <= count <= len(self.data) - self.at:
            raise CheckpointError(f"the pickle asks for {count:,} bytes and {len(self.data) - self.at:,} are left")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, form: struct.Struct) -> Any:
        return form.unpack(self.take(form.size))[0]

    def line(self) -> bytes:
        # A line of a pickle is a name or a number; a search without bound would be quadratic for many short reads.
        for size in (256, 65536):
            window = bytes(self.data[self.at : self.at + size])
            found = window.find(b"\n")
            if found >= 0:
                self.at += found + 1
                return window[:found]
        raise CheckpointError("a line of the pickle does not end")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def to_mark(self) -> list[Any]:
        items = self.stack
        self.stack = self.marks.pop()
        return items

    def call(self, function: Any, args: Any, kwargs: Any = None) -> Any:
        """What stands for `function(*args, **kwargs)`."""
        if not isinstance(function, Global):
            return Opaque(getattr(function, "name", type(function).__name__), args, kwargs)
        constructor = self.constructors.get(function)
        if constructor is None or not isinstance(args, tuple) or kwargs:
            return Opaque(str(function), args, kwargs)
        return constructor(self.state, *args)

    def look_up(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str) or len(module) + len(name) > _MAX_NAME:
            raise CheckpointError("the pickle refers to a name that is no string, or an absurdly long one")
        found = Global(module, name)
        if found not in self.constructors and not self.known(found):
            self.unknown.add(found)
        self.push(found)

    def extension(self, code: int) -> None:
        found = Global("copyreg", f"extension {code}")
        self.unknown.add(found)
        self.push(found)

    def remember(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def set_items(self, pairs: list[Any]) -> None:
        target = self.stack[-1]
        if len(pairs) % 2:
            raise CheckpointError("a dict of the pickle has a key without a value")
        if isinstance(target, dict):
            for key, value in zip(pairs[::2], pairs[1::2], strict=True):
                target[hashable(key)] = value
        elif isinstance(target, Opaque):
            target.items.extend(zip(pairs[::2], pairs[1::2], strict=True))
        else:
            raise CheckpointError(f"the pickle sets items of a {type(target).__name__}")

    def append(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Opaque):
            target.items.extend(items)
        elif isinstance(target, list):
            target.extend(items)
        else:
            raise CheckpointError(f"the pickle appends to a {type(target).__name__}")

    def build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        builder = getattr(target, "restore", None)
        if isinstance(target, Opaque):
            target.state = state
        elif builder is not None:
            builder(self.state, state)
        # Attributes of a dict (`_metadata` of a state dict) and of anything else that we rebuild carry no weights.


def hashable(key: Any) -> Any:
    """A key as it can stand in a dict: a scalar as it is, all else by its identity.

    Tuples of tuples can take exponential time to hash, and integers beyond the hash's range can be made to collide.
    """
    if isinstance(key, _SCALARS) or (isinstance(key, int) and abs(key) < 1 << 60):
        return key
    return Opaque(f"key of type {type(key).__name__}", (key,))


_U1, _U2, _U4, _U8, _I4 = (struct.Struct(form) for form in ("<B", "<H", "<I", "<Q", "<i"))
_F8 = struct.Struct(">d")


def _text(raw: memoryview | bytes) -> str:
    return bytes(raw).decode("utf-8", "surrogatepass")


def _old_text(raw: memoryview | bytes) -> str | bytes:
    """A string of Python 2: text where it is plain text, else bytes."""
    raw = bytes(raw)
    return raw.decode() if raw.isascii() else raw


def _quoted(m: _Machine) -> str | bytes:
    import codecs

    raw = m.line()
    if len(raw) < 2 or raw[:1] not in (b"'", b'"') or raw[-1:] != raw[:1]:
        raise CheckpointError("a string of the pickle has no quotes")
    return _old_text(codecs.escape_decode(raw[1:-1])[0])


def _integer(m: _Machine) -> int | bool:
    raw = m.line()
    return {b"00": False, b"01": True}.get(raw) if raw in (b"00", b"01") else int(raw)  # type: ignore[return-value]


def _long(m: _Machine, size: int) -> int:
    if size > _MAX_LONG:
        raise CheckpointError(f"the pickle has an integer of {size:,} bytes")
    return int.from_bytes(m.take(size), "little", signed=True)


def _new_object(m: _Machine, keywords: bool) -> None:
    kwargs = m.stack.pop() if keywords else None
    args = m.stack.pop()
    cls = m.stack.pop()
    m.push(m.call(cls, args, kwargs))


def _reduce(m: _Machine) -> None:
    args = m.stack.pop()
    m.push(m.call(m.stack.pop(), args))


def _instance(m: _Machine) -> None:
    module, name = _text(m.line()), _text(m.line())
    args = tuple(m.to_mark())
    m.look_up(module, name)
    m.push(m.call(m.stack.pop(), args))


def _object(m: _Machine) -> None:
    cls, *args = m.to_mark()
    m.push(m.call(cls, tuple(args)))


def _mark(m: _Machine) -> None:
    m.marks.append(m.stack)
    m.stack = []


def _pop(m: _Machine) -> None:
    if m.stack:
        m.stack.pop()
    else:
        m.to_mark()


def _pop_mark(m: _Machine) -> None:
    m.to_mark()


def _frame(m: _Machine) -> None:
    m.take(8)


def _tuple(m: _Machine, count: int) -> None:
    items = tuple(m.stack[-count:])
    if len(items) != count:
        raise CheckpointError("the pickle takes more from its stack than is there")
    m.stack[-count:] = [items]


def _dict(m: _Machine) -> None:
    pairs = m.to_mark()
    m.push({})
    m.set_items(pairs)


def _pair(m: _Machine) -> None:
    value, key = m.stack.pop(), m.stack.pop()
    m.set_items([key, value])


def _protocol(m: _Machine) -> None:
    version = m.number(_U1)
    if version > 5:
        raise CheckpointError(f"the pickle has protocol {version}; known are 0 to 5")


def _refuse_buffers(m: _Machine) -> None:
    raise CheckpointError("the pickle keeps its buffers in another file")


_TABLE: dict[int, Callable[[_Machine], None]] = {
    ord("("): _mark,
    ord("0"): _pop,
    ord("1"): _pop_mark,
    ord("2"): lambda m: m.push(m.stack[-1]),
    ord("F"): lambda m: m.push(float(m.line())),
    ord("I"): lambda m: m.push(_integer(m)),
    ord("J"): lambda m: m.push(m.number(_I4)),
    ord("K"): lambda m: m.push(m.number(_U1)),
    ord("L"): lambda m: m.push(int(m.line().rstrip(b"L"))),
    ord("M"): lambda m: m.push(m.number(_U2)),
    ord("N"): lambda m: m.push(None),
    ord("P"): lambda m: m.push(m.persistent(_text(m.line()))),
    ord("Q"): lambda m: m.push(m.persistent(m.stack.pop())),
    ord("R"): _reduce,
    ord("S"): lambda m: m.push(_quoted(m)),
    ord("T"): lambda m: m.push(_old_text(m.take(m.number(_I4)))),
    ord("U"): lambda m: m.push(_old_text(m.take(m.number(_U1)))),
    ord("V"): lambda m: m.push(m.line().decode("raw-unicode-escape")),
    ord("X"): lambda m: m.push(_text(m.take(m.number(_U4)))),
    ord("a"): lambda m: m.append([m.stack.pop()]),
    ord("b"): _Machine.build,
    ord("c"): lambda m: m.look_up(_text(m.line()), _text(m.line())),
    ord("d"): _dict,
    ord("}"): lambda m: m.push({}),
    ord("e"): lambda m: m.append(m.to_mark()),
    ord("g"): lambda m: m.push(m.memo[int(m.line())]),
    ord("h"): lambda m: m.push(m.memo[m.number(_U1)]),
    ord("i"): _instance,
    ord("j"): lambda m: m.push(m.memo[m.number(_U4)]),
    ord("l"): lambda m: m.push(m.to_mark()),
    ord("]"): lambda m: m.push([]),
    ord("o"): _object,
    ord("p"): lambda m: m.remember(int(m.line())),
    ord("q"): lambda m: m.remember(m.number(_U1)),
    ord("r"): lambda m: m.remember(m.number(_U4)),
    ord("s"): _pair,
    ord("t"): lambda m: m.push(tuple(m.to_mark())),
    ord(")"): lambda m: m.push(()),
    ord("u"): lambda m: m.set_items(m.to_mark()),
    ord("G"): lambda m: m.push(m.number(_F8)),
    ord("B"): lambda m: m.push(bytes(m.take(m.number(_U4)))),
    ord("C"): lambda m: m.push(bytes(m.take(m.number(_U1)))),
    0x80: _protocol,
    0x81: lambda m: _new_object(m, keywords=False),
    0x82: lambda m: m.extension(m.number(_U1)),
    0x83: lambda m: m.extension(m.number(_U2)),
    0x84: lambda m: m.extension(m.number(_I4)),
    0x85: lambda m: _tuple(m, 1),
    0x86: lambda m: _tuple(m, 2),
    0x87: lambda m: _tuple(m, 3),
    0x88: lambda m: m.push(True),
    0x89: lambda m: m.push(False),
    0x8A: lambda m: m.push(_long(m, m.number(_U1))),
    0x8B: lambda m: m.push(_long(m, m.number(_I4))),
    0x8C: lambda m: m.push(_text(m.take(m.number(_U1)))),
    0x8D: lambda m: m.push(_text(m.take(m.number(_U8)))),
    0x8E: lambda m: m.push(bytes(m.take(m.number(_U8)))),
    0x8F: lambda m: m.push([]),  # a set is a list here, so that nothing is hashed
    0x90: lambda m: m.append(m.to_mark()),
    0x91: lambda m: m.push(m.to_mark()),
    0x92: lambda m: _new_object(m, keywords=True),
    0x93: lambda m: m.look_up(*(lambda name, module: (module, name))(m.stack.pop(), m.stack.pop())),
    0x94: lambda m: m.remember(len(m.memo)),
    0x95: _frame,
    0x96: lambda m: m.push(bytes(m.take(m.number(_U8)))),
    0x97: _refuse_buffers,
    0x98: _refuse_buffers,
}
