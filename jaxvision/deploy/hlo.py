"""What a compiled program does, read from the text of its HLO: collectives, traffic to the memory, loops.

`compiled.as_text()` of a TPU program is one computation per block and one instruction per line,

    %body (param: (s32[], f32[8])) -> (s32[], f32[8]) {
      %sum = f32[8]{0:T(128)S(1)} all-reduce(%x), channel_id=1, replica_groups={{0,1}}, to_apply=%add
    }

where `S(1)` in a layout says that the array lies in the chip's on-chip memory and nothing in the large one.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
"""Operations over chips; also in two halves, `-start` and `-done`."""
_BITS = {"pred": 8, "bf16": 16, "c64": 64, "c128": 128}
"""Of types whose name does not end in their width."""
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\](?:\{([^{}]*)\})?")
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = ")
_OPENING = re.compile(r"^\s*(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_CALLED = re.compile(r"(?:body|condition|to_apply|calls|\w+_computation)=%?([\w.\-]+)|branch_computations=\{([^}]*)\}")
_CONTROL = ("while", "call", "conditional")
"""Instructions whose computations move what their own instructions move; those of others are parts of an operation."""
_FREE = (
    *_CONTROL,
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "opt-barrier"),
    *("partition-id", "replica-id"),
)
"""Instructions that move nothing themselves."""
_WINDOWS = ("slice", "dynamic-slice", "gather", "copy", "slice-start", "dynamic-slice-start", "copy-start")
"""Those that read as much of their first operand as they write."""


@dataclasses.dataclass(frozen=True)
class Arrays:
    """One array of an instruction's result.

    Attributes:
      size: in bytes, without the padding of tiles.
      in_memory: whether it lies in the chip's large memory.
    """

    size: int
    in_memory: bool


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line.

    Attributes:
      name: without "%".
      arrays: of the result, one for each element of a tuple.
      operation: "fusion", "all-reduce", ...
      operands: names.
      rest: everything behind the operands.
      constant: what stands in the parentheses of a constant.
    """

    name: str
    arrays: tuple[Arrays, ...]
    operation: str
    operands: tuple[str, ...]
    rest: str
    constant: str


@dataclasses.dataclass(frozen=True)
class Collective:
    """Equal collectives of one step.

    Attributes:
      operation: of `COLLECTIVES`.
      count: how often a step does it.
      size: bytes of the arrays on one chip, once: what is reduced, or the whole of what is gathered.
      group: chips that take part in one of them.
    """

    operation: str
    count: int
    size: int
    group: int

    @property
    def total(self) -> int:
        """Bytes of a step."""
        return self.count * self.size


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled program.

    Attributes:
      computations: instructions by the name of their computation.
      entry: the name of the first one.
    """

    computations: dict[str, tuple[Instruction, ...]]
    entry: str

    @functools.cached_property
    def times(self) -> dict[str, int]:
        """How often each computation is done; the body of a loop whose length cannot be read counts once."""
        found: dict[str, int] = {}

        def visit(name: str, times: int) -> None:
            found[name] = found.get(name, 0) + times
            for instruction in self.computations[name]:
                loops = (self.trips(instruction) or 1) if instruction.operation == "while" else 1
                for called in calls(instruction):
                    if called in self.computations:
                        visit(called, times * loops)

        visit(self.entry, 1)
        return found

    def trips(self, loop: Instruction) -> int | None:
        """Length of a `while`: what its condition compares with, where that is a single constant."""
        known = re.search(r'known_trip_count":\{"n":"(\d+)"', loop.rest)
        if known:
            return int(known.group(1))
        condition = re.search(r"condition=%?([\w.\-]+)", loop.rest)
        lines = self.computations.get(condition.group(1), ()) if condition else ()
        constants = [line.constant for line in lines if line.operation == "constant"]
        whole = (
            len(constants) == 1 and constants[0].isdigit() and sum(line.operation == "compare" for line in lines) == 1
        )
        return int(constants[0]) if whole and len(lines) <= 5 else None

    def loops(self) -> tuple[int, int]:
        """How many loops there are, and how many of them have a length that cannot be read."""
        found = [x for name in self.times for x in self.computations[name] if x.operation == "while"]
        return len(found), sum(self.trips(loop) is None for loop in found)

    def collectives(self, chips: int) -> tuple[Collective, ...]:
        """Those of one step, equal ones together, the largest total first.

        Args:
          chips: that run the program, for those that name no groups.
        """
        counts: dict[tuple[str, int, int], int] = {}
        for name, times in self.times.items():
            for line in self.computations[name]:
                operation = line.operation.removesuffix("-start")
                if operation in COLLECTIVES:
                    size = self._payload(line, name, chips)
                    key = (operation, size, group_size(line.rest, chips))
                    counts[key] = counts.get(key, 0) + times
        found = (Collective(operation, count, size, group) for (operation, size, group), count in counts.items())
        return tuple(sorted(found, key=lambda each: (-each.total, each.operation, each.size)))

    def _payload(self, line: Instruction, computation: str, chips: int) -> int:
        result = [array.size for array in line.arrays]
        if line.operation == "reduce-scatter":
            return sum(result) * group_size(line.rest, chips)
        if line.operation in ("all-gather-start", "collective-permute-start"):
            return max(result)  # (operand, result, ...)
        return sum(result)

    def traffic(self) -> int:
        """Bytes that one pass moves between the chip and its memory, bodies of loops counted once.

        An operation reads its operands and writes its results, unless they lie in on-chip memory.
        """
        everything = [line for lines in self.computations.values() for line in lines]
        inner = {called for line in everything if line.operation not in _CONTROL for called in calls(line)}
        total = 0
        for name in self.times.keys() - inner:
            arrays = {line.name: line.arrays for line in self.computations[name]}
            total += sum(_moved(line, arrays) for line in self.computations[name])
        return total


def _moved(line: Instruction, arrays: dict[str, tuple[Arrays, ...]]) -> int:
    if line.operation in _FREE or line.operation.endswith("-done"):
        return 0
    given = [array for name in line.operands for array in arrays.get(name, ())]
    if line.operation in _WINDOWS and given and line.arrays:
        window = line.arrays[0]
        return window.size * (window.in_memory + given[0].in_memory)
    if line.operation == "dynamic-update-slice" and len(given) > 1:
        return given[1].size * (given[1].in_memory + line.arrays[0].in_memory)
    written = line.arrays if not line.operation.endswith("-start") else line.arrays[-1:]
    return sum(array.size for array in (*given, *written) if array.in_memory)


def parse(text: str) -> Program:
    """Reads the text of a compiled module.

    Raises:
      ValueError: it has no entry computation.
    """
    computations: dict[str, tuple[Instruction, ...]] = {}
    entry, name = "", ""
    lines: list[Instruction] = []
    for line in text.splitlines():
        opening = _OPENING.match(line)
        if opening and " = " not in line.partition("(")[0]:
            name, lines = opening.group(2), []
            entry = name if opening.group(1) else entry
        elif line.strip() == "}" and name:
            computations[name] = tuple(lines)
            name = ""
        elif name and (found := _INSTRUCTION.match(line)):
            lines.append(_instruction(found.group(1), line[found.end() :]))
    if entry not in computations:
        raise ValueError("this text is no compiled HLO module: it has no ENTRY computation")
    return Program(computations, entry)


def _instruction(name: str, text: str) -> Instruction:
    end = _closing(text, 0) + 1 if text.startswith("(") else text.index(" ")
    arrays, text = tuple(arrays_of(text[:end])), text[end:].lstrip()
    start = text.index("(")
    stop = _closing(text, start)
    inside = text[start + 1 : stop]
    return Instruction(name, arrays, text[:start], tuple(re.findall(r"%([\w.\-]+)", inside)), text[stop + 1 :], inside)


def _closing(text: str, start: int) -> int:
    """Where the parenthesis that opens at `start` closes."""
    depth = 0
    for found in re.finditer(r"[()]", text[start:]):
        depth += 1 if found.group() == "(" else -1
        if not depth:
            return start + found.start()
    return len(text) - 1


def arrays_of(text: str) -> Iterator[Arrays]:
    """The arrays of a type: "(f32[8,2]{1,0:T(8,128)S(1)}, pred[])" has two, of 64 and 1 bytes."""
    for dtype, sides, layout in _ARRAY.findall(text):
        bits = _BITS.get(dtype) or next((int(n) for n in re.findall(r"^[a-z]+(\d+)", dtype)), 0)
        count = math.prod(int(side) for side in sides.split(",") if side)
        yield Arrays(-(-count * bits // 8), not re.search(r"S\([1-9]\d*\)", layout))


def calls(instruction: Instruction) -> list[str]:
    """Computations that an instruction runs."""
    found = []
    for one, several in _CALLED.findall(instruction.rest):
        found += [one] if one else re.findall(r"%?([\w.\-]+)", several)
    return found


def group_size(rest: str, chips: int) -> int:
    """Chips of a group by `replica_groups={{0,1},{2,3}}` or `[2,128]<=[256]`; all where there is none."""
    listed = re.search(r"replica_groups=\{\{([\d,]*)\}", rest)
    if listed:
        return len(listed.group(1).split(","))
    counted = re.search(r"replica_groups=\[\d+,(\d+)\]", rest)
    return int(counted.group(1)) if counted else chips
