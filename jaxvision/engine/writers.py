"""Where the numbers of a run go: the console, `metrics.jsonl`, TensorBoard. Only process 0 makes writers.

`metrics.jsonl` is the record that other tools read: one JSON object per line,
`{"step": int, "epoch": float, "kind": "train" | "eval", "time": unix seconds, "values": {name: float}}`. Its lines are
complete after each call, and a resumed run goes on from the step of its checkpoint, so that the file of a killed and
resumed run has the records of an uninterrupted one (but for times). For this a loop must write the records of a step
before it saves that step, and call `flush` in between.
"""

import contextlib
import json
import logging
import math
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath


class Writer:
    """What a writer may do; each does nothing unless the writer says otherwise."""

    def scalars(self, step: int, values: Mapping[str, Any], *, kind: str = "train", epoch: float = 0.0) -> None:
        """Numbers by name at a step (completed updates) and epoch; `kind` is "train" or "eval"."""

    def text(self, step: int, name: str, text: str) -> None:
        """A text in Markdown."""

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """A picture: uint8 `[H, W, 3]` or `[H, W]`."""

    def flush(self) -> None:
        """Makes what was written survive the process."""

    def close(self) -> None:
        """Flushes and ends."""

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


class Writers(Writer):
    """Passes everything on to several writers; with none (a process other than 0) it does nothing."""

    def __init__(self, writers: Sequence[Writer] = ()):
        self.writers = tuple(writers)

    def scalars(self, step: int, values: Mapping[str, Any], *, kind: str = "train", epoch: float = 0.0) -> None:
        for writer in self.writers:
            writer.scalars(step, values, kind=kind, epoch=epoch)

    def text(self, step: int, name: str, text: str) -> None:
        for writer in self.writers:
            writer.text(step, name, text)

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        for writer in self.writers:
            writer.image(step, name, image)

    def flush(self) -> None:
        for writer in self.writers:
            writer.flush()

    def close(self) -> None:
        with contextlib.ExitStack() as stack:  # each is closed, whatever another one raises
            for writer in reversed(self.writers):
                stack.callback(writer.close)


class ConsoleWriter(Writer):
    """One line per evaluation. Training numbers are shown by `Progress`.

    Args:
      say: prints a line; `Progress.say` where a bar is shown.
    """

    def __init__(self, say: Callable[[str], None] = print):
        self._say = say

    def scalars(self, step: int, values: Mapping[str, Any], *, kind: str = "train", epoch: float = 0.0) -> None:
        if kind != "train":
            self._say(f"step {step}  epoch {epoch:.2f}  {kind}  {format_values(values)}")


class JsonlWriter(Writer):
    """Appends records to a `.jsonl` file.

    Not-a-number and infinities are written as the strings "NaN", "Infinity", "-Infinity", which keeps each line valid
    JSON and which `float` understands; `read_records` turns them back. On `gs://`, which cannot append, the file is
    written anew by `flush` and `close`.
    """

    def __init__(self, path: epath.PathLike, resume_step: int | None = None):
        """Opens the file.

        Args:
          path: local or `gs://`; its folder is created.
          resume_step: drops records of later steps (the step of the restored checkpoint; -1 for a run that starts
            anew). None keeps all (an evaluation added to a finished run). A last line cut short by a kill goes.
        """
        self._path = epath.Path(path).expanduser()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        before = self._path.read_bytes() if self._path.exists() else b""
        lines = [line for line, record in _lines(before) if record and _is_kept(record, resume_step)]
        kept = b"".join(lines)
        self._file: Any = None
        self._remote: list[bytes] | None = [kept] if "://" in str(self._path) else None
        if kept != before:
            partial = self._path.parent / f".{self._path.name}.{os.getpid()}.tmp"
            partial.write_bytes(kept)
            partial.replace(self._path)
        if self._remote is None:
            self._file = self._path.open("ab")

    def scalars(self, step: int, values: Mapping[str, Any], *, kind: str = "train", epoch: float = 0.0) -> None:
        numbers = {name: _to_json(value) for name, value in values.items()}
        record = {"step": int(step), "epoch": float(epoch), "kind": kind, "time": time.time(), "values": numbers}
        line = json.dumps(record, allow_nan=False).encode() + b"\n"
        if self._remote is not None:
            self._remote.append(line)
            return
        try:
            self._file.write(line)
            self._file.flush()
        except OSError as error:
            raise OSError(error.errno, f"cannot write to {self._path}: {error.strerror}; free space there") from error

    def flush(self) -> None:
        if self._remote is not None:
            self._path.write_bytes(b"".join(self._remote))
        elif not self._file.closed:
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        self.flush()
        if self._file is not None:
            self._file.close()


class TensorBoardWriter(Writer):
    """TensorBoard events (tags "train/loss", "eval/top1"), written by tensorboardX without TensorFlow.

    On `gs://` the events are written to a temporary folder and copied by `flush` and `close`.
    """

    def __init__(self, directory: epath.PathLike, resume_step: int | None = None):
        """Opens a new event file; with `resume_step`, TensorBoard hides what earlier ones have of later steps."""
        import tensorboardX  # 0.4 s

        # It warns of each number that is not finite, which is the loop's business.
        logging.getLogger("tensorboardX.x2num").setLevel(logging.ERROR)
        self._remote = epath.Path(directory) if "://" in str(directory) else None
        self._local = tempfile.TemporaryDirectory() if self._remote is not None else None
        folder = self._local.name if self._local is not None else str(epath.Path(directory).expanduser())
        purge = None if resume_step is None else resume_step + 1
        # Its queue blocks the caller when it is full; what a kill may lose is what the last seconds wrote.
        self._events = tensorboardX.SummaryWriter(folder, purge_step=purge, max_queue=1000, flush_secs=5)

    def scalars(self, step: int, values: Mapping[str, Any], *, kind: str = "train", epoch: float = 0.0) -> None:
        for name, value in values.items():
            self._events.add_scalar(f"{kind}/{name}", float(value), int(step))
        self._events.add_scalar(f"{kind}/epoch", float(epoch), int(step))

    def text(self, step: int, name: str, text: str) -> None:
        self._events.add_text(name, text, int(step))

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        self._events.add_image(name, np.asarray(image), int(step), dataformats="HW" if image.ndim == 2 else "HWC")

    def flush(self) -> None:
        self._events.flush()
        self._copy()

    def close(self) -> None:
        self._events.close()
        self._copy()
        if self._local is not None:
            self._local.cleanup()

    def _copy(self) -> None:
        if self._remote is None or self._local is None:
            return
        self._remote.mkdir(parents=True, exist_ok=True)
        for file in Path(self._local.name).iterdir():
            (self._remote / file.name).write_bytes(file.read_bytes())


def read_records(path: epath.PathLike) -> list[dict[str, Any]]:
    """Records of a `metrics.jsonl` in order, values as floats. A last line that is being written is left out.

    Raises:
      FileNotFoundError: no such file.
      ValueError: another line is not a record; names the line.
    """
    records = []
    lines = _lines(epath.Path(path).expanduser().read_bytes())
    for number, (line, record) in enumerate(lines, 1):
        if record is not None:
            records.append({**record, "values": {name: float(value) for name, value in record["values"].items()}})
        elif line.endswith(b"\n"):
            raise ValueError(f"{path}, line {number} is not a record of metrics: {line[:80]!r}")
    return records


def format_values(values: Mapping[str, Any]) -> str:
    """ "loss 0.1234  top1 0.9812": names with four significant digits."""
    return "  ".join(f"{name} {float(value):.4g}" for name, value in values.items())


def _lines(content: bytes) -> list[tuple[bytes, dict[str, Any] | None]]:
    return [(line, _parse(line)) for line in content.splitlines(keepends=True)]


def _parse(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):  # "1.2" cut from "1.25" would still be valid
        return None
    try:
        record = json.loads(line)
        return record if isinstance(record["values"], dict) and isinstance(record["step"], int) else None
    except (ValueError, TypeError, KeyError):
        return None


def _is_kept(record: Mapping[str, Any], resume_step: int | None) -> bool:
    return resume_step is None or record["step"] <= resume_step


def _to_json(value: Any) -> float | str:
    number = float(value)
    if math.isfinite(number):
        return number
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"
