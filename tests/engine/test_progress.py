"""What a person sees, on a terminal (a real pseudo-terminal), in a log file, and where nobody listens any more."""

import io
import os
import re
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest

from jaxvision.engine import progress as progress_module
from jaxvision.engine.progress import Progress

RUN = """
import time
from jaxvision.engine.progress import Progress
with Progress(40, batch_size=10, steps_per_epoch=20) as progress:
    progress.say("a [bold]model[/bold]")
    with progress.status("compiling the training step (first time only)", "compiled"):
        time.sleep(0.05)
    for step in range(1, 41):
        time.sleep(0.02)
        progress.update(step, {"loss": 1 / step, "top1": 0.5} if step % 10 == 0 else None, wait_seconds=step * 0.01)
        if step == 20:
            with progress.status("evaluating"):
                time.sleep(0.05)
            print("a line of somebody else")
import os
os.write(2, b"finished")
"""


def start(code=RUN, **options):
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "TERM": "xterm-256color",
        "COLUMNS": "80",
    }
    environment |= options.pop("env", {})
    return subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE, **options)


def on_a_terminal(**env):
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    process = start(stdout=theirs, env=env)
    os.close(theirs)
    chunks = []
    try:
        while chunk := os.read(ours, 65536):
            chunks.append(chunk)
    except OSError:  # how Linux ends a terminal
        pass
    os.close(ours)
    assert process.communicate()[1] == b"finished" and process.returncode == 0
    return b"".join(chunks)


def test_a_terminal_shows_a_bar_with_metrics_speed_input_wait_and_time_left():
    raw = on_a_terminal().decode()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", raw)
    assert "━" in text and "a [bold]model[/bold]\r\n" in text and "a line of somebody else\r\n" in text
    assert "compiling the training step (first time only) 0 s" in text and "compiled in 0." in text
    assert re.search(r"epoch [\d.]+/2 .*%", text) and "evaluating 0 s" in text
    assert re.search(r"loss [\d.]+  top1 0.5  \d+ images/s  input wait \d+%  0:00:0\d left", text)
    assert re.search(r"100% *\r\nloss 0.025  top1 0.5  \d+ images/s  input wait \d+% *\r\n$", text)
    assert raw.rindex("\x1b[?25h") > raw.rindex("\x1b[?25l")  # the cursor is back


def test_a_terminal_without_unicode_gets_ascii():
    raw = on_a_terminal(PYTHONIOENCODING="ascii", PYTHONUTF8="0", LC_ALL="C")
    assert raw.isascii() and b"images/s" in raw


def test_a_dumb_terminal_gets_plain_lines():
    assert b"\x1b" not in on_a_terminal(TERM="dumb")


def test_a_log_file_gets_whole_lines(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress_module, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
    out = io.StringIO()
    with Progress(1000, step=100, batch_size=32, steps_per_epoch=100, stream=out) as progress:
        with progress.status("compiling", "compiled"):
            now[0] += 30.25
        for step in range(101, 403):
            now[0] += 1 / 16
            values = {"loss": 1.0, "top1": 0.98765} if step % 50 == 0 else None
            progress.update(step, values, wait_seconds=(step - 100) * 0.01)
        with progress.status("evaluating"):
            now[0] += 100
    assert out.getvalue().splitlines() == [
        "compiling ...",
        "compiled in 30.2 s",
        "step 260/1000  epoch 2.6/10  26%  loss 1  top1 0.9877  512 images/s  input wait 16%  0:00:46 left",
        "step 402/1000  epoch 4.0/10  40%  loss 1  top1 0.9877  512 images/s  input wait 16%  0:00:37 left",
    ]
    assert progress.images_per_second == pytest.approx(512) and progress.input_wait == pytest.approx(0.16)


def test_speed_is_that_of_the_last_stretch_and_the_end_has_no_time_left(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress_module, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
    out = io.StringIO()
    with Progress(40, batch_size=2, stream=out) as progress:
        for step in range(1, 41):
            now[0] += 1.0 if step <= 20 else 4.0
            progress.update(step, {"loss": 1.0})
    assert progress.images_per_second == pytest.approx(0.5)
    assert out.getvalue().splitlines()[-1] == "step 40/40  100%  loss 1  0.5 images/s  input wait 0%"


def test_a_failure_within_a_status_shows_and_passes():
    out = io.StringIO()
    with pytest.raises(KeyError), Progress(10, stream=out) as progress, progress.status("compiling", "compiled"):
        raise KeyError
    assert "compiled" not in out.getvalue()


def test_other_processes_show_nothing_but_measure():
    out = io.StringIO()
    with Progress(10, enabled=False, stream=out) as progress:
        with progress.status("compiling", "compiled"):
            pass
        time.sleep(0.01)
        progress.update(5, {"loss": 1.0})
        progress.say("hello")
        assert progress.images_per_second > 0
    assert out.getvalue() == ""


def test_an_update_costs_microseconds():
    with Progress(10**6, stream=io.StringIO()) as progress:
        start = time.perf_counter()
        for step in range(20_000):
            progress.update(step)
        assert (time.perf_counter() - start) / 20_000 < 50e-6  # about 0.3e-6 on an idle core


def closing(stream):
    stream.close()
    return stream


class Full(io.StringIO):
    def write(self, text):
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("stream", [Full(), closing(io.StringIO()), None])
def test_an_output_that_is_full_or_closed_ends_nothing(stream, monkeypatch):
    if stream is None:
        monkeypatch.setattr(sys, "stdout", None)  # what `>&-` makes of it
    with Progress(2, stream=stream) as progress:
        progress.say("hello")
        progress.update(1, {"loss": 1.0})
        progress.update(2, {"loss": 1.0})


def test_letters_that_the_output_lacks_are_replaced():
    buffer = io.BytesIO()
    with Progress(2, stream=io.TextIOWrapper(buffer, encoding="ascii")) as progress:
        progress.say("µ-law — 5 × 5")
        assert buffer.getvalue() == b"?-law ? 5 ? 5\n"


def test_a_reader_that_goes_away_ends_nothing():
    process = start("import time; time.sleep(0.5)\n" + RUN, stdout=subprocess.PIPE)
    process.stdout.close()  # `| head`: all writes fail, those of others as well
    with process:
        errors = process.stderr.read()
    assert (process.returncode, errors) == (0, b"finished")
