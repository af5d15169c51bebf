"""What a person sees while a run trains: a bar on a terminal (rich), a line every ten seconds elsewhere.

Both show the step, the metrics of the last log, images/s, the share of time spent waiting for input, and the time left;
`status` says what takes long before the first step. Nothing here may end a run: a closed or full output is ignored
from then on, and letters that the output's encoding lacks are replaced.
"""

import collections
import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from jaxvision.engine.writers import format_values

BAR_SECONDS = 0.25
"""Least time between two drawings of the bar: drawing costs about 2 ms."""
LINE_SECONDS = 10.0
"""Time between two lines where there is no terminal."""
WINDOW_SECONDS = 10.0
"""Speed, input wait and time left are those of this last stretch."""


class Progress:
    """Progress of one run; a context manager. Time spent in `status` does not count for the speed.

    Args:
      total_steps: length of the run, in steps.
      step: completed steps at the start (a resumed run).
      batch_size: global; images per step.
      steps_per_epoch: to show epochs; None shows steps only.
      enabled: False shows nothing (processes other than 0) but still measures.
      stream: text stream, by default stdout.
    """

    def __init__(
        self,
        total_steps: int,
        *,
        step: int = 0,
        batch_size: int = 1,
        steps_per_epoch: float | None = None,
        enabled: bool = True,
        stream: Any = None,
    ):
        self._total, self._step = total_steps, step
        self._batch_size, self._steps_per_epoch = batch_size, steps_per_epoch
        self._values: dict[str, float] = {}
        self._paused = 0.0
        self._marks: collections.deque[tuple[float, int, float]] = collections.deque()
        self._marks.append((self._clock(), step, 0.0))
        self._stream = _SafeStream(sys.stdout if stream is None else stream)
        self._enabled = enabled
        self._bar = _Bar(self._stream, total_steps) if enabled and self._stream.is_terminal() else None
        self._next = 0.0 if self._bar else self._clock() + LINE_SECONDS
        self._shown: int | None = None

    def update(
        self, step: int, values: Mapping[str, float] | None = None, *, wait_seconds: float | None = None
    ) -> None:
        """Call after each step; costs a microsecond unless something is due to be shown.

        Args:
          step: completed steps.
          values: metrics to show from now on (host floats).
          wait_seconds: time spent waiting for input since the run started, as the prefetcher counts it.
        """
        self._step = step
        if values is not None:
            self._values = dict(values)
        now = self._clock()
        if now < self._next and step < self._total and values is None:
            return
        if wait_seconds is None:
            wait_seconds = self._marks[-1][2]
        self._marks.append((now, step, wait_seconds))
        while len(self._marks) > 2 and self._marks[1][0] <= now - WINDOW_SECONDS:
            self._marks.popleft()
        if self._enabled and (now >= self._next or self._bar is not None):
            self._next = now + (BAR_SECONDS if self._bar else LINE_SECONDS)
            self._show()

    def resume(self, step: int) -> None:
        """Starts from `step` completed steps, once it is known that an earlier run has done them."""
        self._step = self._shown = step
        self._marks.clear()
        self._marks.append((self._clock(), step, 0.0))

    @property
    def images_per_second(self) -> float:
        """Over the last `WINDOW_SECONDS`; NaN before the second mark."""
        (start, first, _), (end, last, _) = self._marks[0], self._marks[-1]
        return (last - first) * self._batch_size / (end - start) if end > start else float("nan")

    @property
    def input_wait(self) -> float:
        """Share (0 to 1) of the last `WINDOW_SECONDS` in which the run waited for input."""
        (start, _, before), (end, _, after) = self._marks[0], self._marks[-1]
        return min(1.0, max(0.0, (after - before) / (end - start))) if end > start else 0.0

    def say(self, line: str) -> None:
        """Prints a line above the bar."""
        if not self._enabled:
            return
        if self._bar is not None:
            self._bar.say(line)
        else:
            self._stream.write(line + "\n")
            self._stream.flush()

    @contextlib.contextmanager
    def status(self, message: str, done: str | None = None) -> Iterator[None]:
        """Says that `message` is going on, with the seconds that it has taken, then "`done` in 12.3 s".

        For example `status("compiling the training step (first time only)", "compiled")`. Without `done`, for what
        repeats and says its own result, nothing stays behind, and only a terminal shows it.
        """
        start = time.monotonic()
        try:
            with self._bar.status(message) if self._bar is not None else contextlib.nullcontext():
                if self._bar is None and done is not None:
                    self.say(f"{message} ...")
                yield
        finally:
            self._paused += time.monotonic() - start
        if done is not None:
            self.say(f"{done} in {time.monotonic() - start:.1f} s")

    def close(self) -> None:
        """Shows the last state and ends the bar; `say` then prints plain lines."""
        if self._enabled and self._shown != self._step:
            self._show()
        if self._bar is not None:
            self._bar.close()
            self._bar = None
            self._shown = self._step

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _clock(self) -> float:
        return time.monotonic() - self._paused

    def _show(self) -> None:
        self._shown = self._step
        where = f"step {self._step}/{self._total}"
        if self._steps_per_epoch:
            epochs = self._total / self._steps_per_epoch
            where = f"epoch {self._step / self._steps_per_epoch:.1f}/{epochs:.4g}"
        parts = [format_values(self._values)] if self._values else []
        speed = self.images_per_second
        if speed > 0:
            parts += [f"{speed:,.0f} images/s" if speed >= 100 else f"{speed:.3g} images/s"]
            parts += [f"input wait {self.input_wait:.0%}"]
            if self._step < self._total:
                parts += [f"{_duration((self._total - self._step) * self._batch_size / speed)} left"]
        if self._bar is not None:
            self._bar.show(self._step, where, "  ".join(parts))
            return
        if self._steps_per_epoch:
            where = f"step {self._step}/{self._total}  {where}"
        self.say("  ".join([f"{where}  {self._step / max(1, self._total):.0%}", *parts]))


class _Bar:
    """A bar as wide as the terminal, and under it one line: the numbers, or the status while there is one."""

    def __init__(self, stream: "_SafeStream", total: int):
        from rich import console, progress, text

        class BarAndLine(progress.Progress):
            line = ""

            def get_renderables(self) -> Any:
                yield self.make_tasks_table(self.tasks)
                yield text.Text(self.line, no_wrap=True, overflow="crop")

        self._console = console.Console(file=stream, highlight=False)  # type: ignore[arg-type]
        columns = (
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(bar_width=None),
            progress.TextColumn("{task.percentage:>3.0f}%"),
        )
        self._live = BarAndLine(*columns, console=self._console, auto_refresh=False, expand=True)
        self._task = self._live.add_task(f"step 0/{total}", total=total)
        self._live.start()

    def show(self, step: int, where: str, numbers: str) -> None:
        self._live.update(self._task, completed=step, description=where)
        self._write(numbers)

    def say(self, line: str) -> None:
        self._console.print(line, markup=False, soft_wrap=True)

    @contextlib.contextmanager
    def status(self, message: str) -> Iterator[None]:
        ended = threading.Event()
        before, start = self._live.line, time.monotonic()

        def watch() -> None:
            while not ended.wait(0.5):
                self._write(f"{message} {time.monotonic() - start:.0f} s")

        self._write(f"{message} 0 s")
        thread = threading.Thread(target=watch, name="status", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            self._write(before)

    def close(self) -> None:
        self._live.stop()

    def _write(self, line: str) -> None:
        self._live.line = line
        self._live.refresh()


class _SafeStream:
    """A text stream that is never the reason for a run to end."""

    def __init__(self, stream: Any):
        self._stream = stream
        self._dead = stream is None or getattr(stream, "closed", False)  # `>&-`
        self.encoding = getattr(stream, "encoding", None) or "utf-8"

    def is_terminal(self) -> bool:
        return self.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")

    def isatty(self) -> bool:
        with contextlib.suppress(ValueError, AttributeError, OSError):
            return not self._dead and bool(self._stream.isatty())
        return False

    def fileno(self) -> int:
        return self._stream.fileno()

    def write(self, text: str) -> int:
        self._try(lambda: self._stream.write(text.encode(self.encoding, "replace").decode(self.encoding)))
        return len(text)

    def flush(self) -> None:
        self._try(lambda: self._stream.flush())

    def _try(self, action: Any) -> None:
        if self._dead:
            return
        try:
            action()
        except BrokenPipeError:
            self._dead = True
            self._drain()
        except (OSError, ValueError):  # a full disk behind `> log`, a stream that was closed
            self._dead = True

    def _drain(self) -> None:
        # The reader of a pipe has gone (`| head`): let what else prints there, and the interpreter's last flush, go on.
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02}:{int(seconds):02}"
