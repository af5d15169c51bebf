"""What was written is there: after a kill, after a resume, in TensorBoard's own format."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.engine.lock import WorkdirLock, WorkdirLocked
from jaxvision.engine.writers import (
    ConsoleWriter,
    JsonlWriter,
    TensorBoardWriter,
    Writer,
    Writers,
    format_values,
    read_records,
)
from jaxvision.pretrained.safetensors import load_safetensors, save_safetensors
from tests.engine.bucket import bucket


def without_time(path):
    return [{key: value for key, value in record.items() if key != "time"} for record in read_records(path)]


def run(path, steps, resume_step=None):
    with JsonlWriter(path, resume_step) as writer:
        for step in steps:
            writer.scalars(step, {"loss": 1 / 3 + step, "top1": jnp.float32(0.1)}, epoch=step / 7)
            if step % 3 == 0:
                writer.scalars(step, {"top1": np.float64(step)}, kind="eval", epoch=step / 7)


def test_each_record_is_one_line_of_the_documented_form(tmp_path):
    path = tmp_path / "run" / "metrics.jsonl"
    run(path, [3])
    train, evaluation = [json.loads(line) for line in path.read_text().splitlines()]
    assert list(train) == ["step", "epoch", "kind", "time", "values"]
    assert (train["step"], train["epoch"], train["kind"]) == (3, 3 / 7, "train") and train["time"] > 1.7e9
    assert train["values"] == {"loss": 1 / 3 + 3, "top1": float(np.float32(0.1))}
    assert evaluation["kind"] == "eval" and evaluation["values"] == {"top1": 3.0}


def test_a_resumed_file_has_the_records_of_an_uninterrupted_one(tmp_path):
    run(tmp_path / "whole.jsonl", range(1, 10))
    path = tmp_path / "resumed.jsonl"
    run(path, range(1, 8))
    with path.open("ab") as file:
        file.write(b'{"step": 8, "epoch": 1.0, "kind": "train", "ti')  # killed within a write
    before = path.read_bytes()
    run(path, range(6, 10), resume_step=5)
    assert without_time(path) == without_time(tmp_path / "whole.jsonl")
    kept = b"".join(line for line in before.splitlines(keepends=True)[:6])
    assert path.read_bytes().startswith(kept)  # not rewritten
    run(path, [], resume_step=-1)
    assert path.read_bytes() == b"" and sorted(os.listdir(tmp_path)) == ["resumed.jsonl", "whole.jsonl"]


def test_numbers_that_are_not_finite_stay_valid_json(tmp_path):
    path = tmp_path / "m.jsonl"
    with JsonlWriter(path) as writer:
        writer.scalars(1, {"a": float("nan"), "b": float("inf"), "c": jnp.float32(-jnp.inf)})

    def refuse(name):
        raise AssertionError(name)

    record = json.loads(path.read_text(), parse_constant=refuse)
    assert record["values"] == {"a": "NaN", "b": "Infinity", "c": "-Infinity"}
    values = read_records(path)[0]["values"]
    assert np.isnan(values["a"]) and values["b"] == np.inf and values["c"] == -np.inf


def test_a_line_being_written_is_left_out_and_a_broken_one_is_named(tmp_path):
    path = tmp_path / "m.jsonl"
    run(path, [1, 2])
    good = path.read_bytes()
    path.write_bytes(good + good[:20])
    assert [record["step"] for record in read_records(path)] == [1, 2]
    path.write_bytes(good + b"nonsense\n" + good)
    with pytest.raises(ValueError, match=r"m\.jsonl, line 3 is not a record of metrics: b'nonsense"):
        read_records(path)
    with JsonlWriter(path):
        pass
    assert path.read_bytes() == good * 2


def test_what_was_written_survives_sigkill(tmp_path):
    code = """
import os, sys
from jaxvision.engine.writers import JsonlWriter
writer = JsonlWriter(sys.argv[1])
for step in range(100):
    writer.scalars(step, {"loss": step})
os.kill(os.getpid(), 9)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "m.jsonl")], env=environment)
    assert done.returncode == -signal.SIGKILL
    assert [record["step"] for record in read_records(tmp_path / "m.jsonl")] == list(range(100))


def events(folder):
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for file in sorted(Path(folder).iterdir()):
        data = file.read_bytes()
        while data:  # length, its checksum, message, its checksum
            size = int.from_bytes(data[:8], "little")
            found.append(Event.FromString(data[12 : 12 + size]))
            data = data[16 + size :]
    return found


def test_tensorboard_gets_scalars_texts_and_pictures(tmp_path):
    with TensorBoardWriter(tmp_path / "tb", resume_step=4) as writer:
        writer.scalars(5, {f"loss{i}": 0.25 * i for i in range(50)}, epoch=0.5)
        writer.scalars(5, {"top1": float("nan")}, kind="eval", epoch=0.5)
        writer.text(5, "config", "# hello")
        writer.image(5, "samples", np.zeros((4, 6, 3), np.uint8))
        writer.image(5, "grey", np.zeros((4, 6), np.uint8))
    found = events(tmp_path / "tb")
    assert any(event.session_log.status == 1 and event.step == 5 for event in found)  # START: hides steps >= 5
    values = {value.tag: (event.step, value) for event in found for value in event.summary.value}
    assert values["train/loss2"][0] == 5 and values["train/loss2"][1].simple_value == 0.5
    assert values["train/epoch"][1].simple_value == 0.5 and np.isnan(values["eval/top1"][1].simple_value)
    assert values["samples"][1].image.width == 6 and values["grey"][1].image.height == 4
    assert any("config" in tag for tag in values)


def test_the_console_says_evaluations_only():
    lines = []
    writer = ConsoleWriter(lines.append)
    writer.scalars(3, {"loss": 1.0})
    writer.scalars(3, {"loss": 0.123456, "top1": 0.98765}, kind="eval", epoch=1)
    assert lines == ["step 3  epoch 1.00  eval  loss 0.1235  top1 0.9877"]
    assert format_values({"n": 12345.678, "x": jnp.float32(1e-7)}) == "n 1.235e+04  x 1e-07"


def test_several_writers_get_everything_and_all_are_closed_even_if_one_fails():
    calls = []

    class Spy(Writer):
        def __init__(self, fail=False):
            self.fail = fail

        def scalars(self, step, values, *, kind="train", epoch=0.0):
            calls.append((step, dict(values), kind, epoch))

        def text(self, step, name, text):
            calls.append(text)

        def image(self, step, name, image):
            calls.append(image.shape)

        def flush(self):
            calls.append("flush")

        def close(self):
            calls.append("close")
            if self.fail:
                raise OSError("full")

    writers = Writers([Spy(fail=True), Spy()])
    writers.scalars(1, {"a": 2.0}, kind="eval", epoch=3.0)
    writers.text(1, "t", "words")
    writers.image(1, "i", np.zeros((2, 2)))
    writers.flush()
    with pytest.raises(OSError, match="full"):
        writers.close()
    assert calls == [(1, {"a": 2.0}, "eval", 3.0)] * 2 + ["words"] * 2 + [(2, 2)] * 2 + ["flush"] * 2 + ["close"] * 2
    with Writers() as nobody:
        nobody.scalars(1, {"a": 1.0})
        nobody.flush()


def test_a_workdir_in_a_bucket(tmp_path):
    with bucket(tmp_path):
        with WorkdirLock("gs://bucket/run"):
            assert (tmp_path / "run" / "lock").exists()
            with pytest.raises(WorkdirLocked, match=f"pid {os.getpid()}"):
                WorkdirLock("gs://bucket/run").acquire()
        assert not (tmp_path / "run" / "lock").exists()
        run("gs://bucket/run/metrics.jsonl", range(1, 6))
        run("gs://bucket/run/metrics.jsonl", range(4, 8), resume_step=3)
        run(tmp_path / "local.jsonl", range(1, 8))
        assert without_time("gs://bucket/run/metrics.jsonl") == without_time(tmp_path / "local.jsonl")
        with TensorBoardWriter("gs://bucket/run/tb") as writer:
            writer.scalars(1, {"loss": 0.5})
        assert any(
            value.tag == "train/loss" for event in events(tmp_path / "run" / "tb") for value in event.summary.value
        )
        save_safetensors("gs://bucket/w/a.safetensors", {"a": np.ones(3)})
        assert load_safetensors("gs://bucket/w/a.safetensors")["a"].sum() == 3
