"""What goes wrong in a run is one plain line and a status, and the last good checkpoint stays."""

import logging
import re
import resource
import shutil
import socket

import numpy as np
import pytest

from tests.system.helpers import assert_same_run, checkpoint, here, last_step, records, run, saved_steps, start


def fails(capsys, caplog, *arguments, status=2):
    """The one line of a failing command."""
    caplog.set_level(logging.WARNING)
    assert here(*arguments) == status
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    return errors[0]


def test_a_corrupted_newest_checkpoint_falls_back_says_so_and_ends_in_the_same_result(tmp_path, uninterrupted):
    workdir = tmp_path / "run"
    shutil.copytree(uninterrupted, workdir)
    newest, before = saved_steps(workdir)[::-1][:2]
    assert (newest, before) == (60, 56)
    for file in (workdir / "checkpoints/60/state").rglob("d/*"):
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 0x01
        file.write_bytes(bytes(data))
    text = run(workdir)
    assert re.search(r"the checkpoint of step 60 in .* is damaged", text)
    assert "falling back to the checkpoint before it, step 56" in text and "resuming from step 56 of 60" in text
    assert_same_run(workdir, uninterrupted)


@pytest.mark.parametrize("full", ["of checkpoints", "of records"])
def test_a_full_disk_stops_with_one_line_and_leaves_the_last_good_checkpoint(tmp_path, full):
    workdir = tmp_path / "run"
    every = 1000 if full == "of checkpoints" else 1
    process = start(workdir, "--config.schedule.steps=100000", f"--config.log.every_steps={every}")
    process.until(lambda: len(saved_steps(workdir)) == 2, "two checkpoints")
    sizes = [path.stat().st_size for path in (workdir / "checkpoints").rglob("*") if path.is_file()]
    size = max(sizes) // 2 if full == "of checkpoints" else (workdir / "metrics.jsonl").stat().st_size
    resource.prlimit(process.process.pid, resource.RLIMIT_FSIZE, (size, size))  # of files, from now on
    assert process.wait() == 1, process.text
    errors = [line for line in process.text.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and re.search("exceeds the size limit|File too large", errors[0]), process.text
    assert "Traceback" not in process.text
    step = saved_steps(workdir)[-1]
    arrays, _ = checkpoint(workdir, step)
    assert int(arrays["step"]) == step


def test_a_workdir_in_use_names_its_owner_and_a_dead_owner_is_taken_over(tmp_path, capsys, caplog):
    workdir = tmp_path / "run"
    process = start(workdir, "--config.schedule.steps=100000")
    process.until(lambda: last_step(workdir) >= 8, "some steps")
    error = fails(capsys, caplog, workdir, status=1)
    owner = rf"pid {process.process.pid} on host {re.escape(socket.gethostname())}, started \d{{4}}-"
    assert re.search(rf"{re.escape(str(workdir))} is in use by another run \({owner}", error)
    process.kill()
    assert here(workdir, "--config.schedule.steps=9", "--config.schedule.ema=0.9") == 0
    assert re.search(rf"took over .* from a run that has ended without saying so \({owner}", capsys.readouterr().out)


def test_a_changed_model_lists_every_difference_at_once(tmp_path, uninterrupted, capsys, caplog):
    workdir = tmp_path / "run"
    shutil.copytree(uninterrupted, workdir)
    options = ["--config.model.backbone.width=4", "--config.schedule.optimizer=dict(name='adam')"]
    assert here(workdir, *options) == 2
    text = capsys.readouterr().err
    assert text.startswith("error: the checkpoint of step 60") and "belongs to another model or optimizer" in text
    for line in (
        r"shape +params/backbone/conv1/kernel: float32\[3, 3, 1, 8\] in the file, float32\[3, 3, 1, 4\] in the model",
        r"shape +ema/batch_stats/backbone/bn1/mean",
        r"missing +opt_state/loss/.*mu/head/kernel",
        r"unexpected +opt_state/loss/.*trace/head/kernel",
    ):
        assert re.search(line, text), text
    assert saved_steps(workdir) == saved_steps(uninterrupted)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--config.parallel.devices=8", "--config.data.batch_size=30"], "data.batch_size=30 does not split over 8"),
        (["--config.parallel.devices=8", "--config.data.batch_size=30"], "the nearest sizes: 24 or 32"),
        (["--config.parallel.devices=9"], "parallel.devices=9, but there are 8"),
        (["--config.data.batch_size=400"], "batch_size 400 is larger than the 370 training samples"),
        (["--config.model.num_classes=5"], "model.num_classes=5, but the data have 6 classes"),
        (["--config.schedule.freeze=('nothing',)"], "'nothing' matches no parameter"),
        (["--config.schedule.freeze=('.*',)"], "nothing is left to train"),
        (["--mode", "eval"], "no checkpoints"),
    ],
)
def test_settings_that_do_not_go_together_are_one_line(tmp_path, capsys, caplog, options, expected):
    error = fails(capsys, caplog, tmp_path / "run", *options, status=1 if options[-1] == "eval" else 2)
    assert expected in error


def test_a_loss_that_is_not_finite_names_step_metric_and_samples_and_saves_nothing_after(tmp_path, capsys, caplog):
    options = ["--config.schedule.learning_rate.value=1e30", "--config.checkpoint.every_steps=1"]
    error = fails(capsys, caplog, tmp_path / "run", *options, status=1)
    found = re.search(r"error: step (\d+): (\w+) is (nan|inf); .*Samples of this batch: ((\d+, ){31}\d+)\.", error)
    assert found and found[2] in ("loss", "grad_norm")
    assert all(0 <= int(index) < 370 for index in found[4].split(", ")) and len(set(found[4].split(", "))) == 32
    assert saved_steps(tmp_path / "run") == list(range(1, int(found[1])))[-2:]
    arrays, _ = checkpoint(tmp_path / "run")
    assert all(np.isfinite(array).all() for array in arrays.values())


def test_debug_nans_names_the_first_operation_that_is_not_a_number_and_its_line(tmp_path, capsys, caplog):
    options = ["--config.schedule.learning_rate.value=1e30", "--config.log.debug_nans=true"]
    error = fails(capsys, caplog, tmp_path / "run", *options, status=1)
    assert re.search(r"error: step 2: invalid value \(nan\) encountered in \w+ at \w+\.py:\d+ in \w+: .+", error)
    records(tmp_path / "run")


def test_a_mistake_in_the_code_keeps_its_traceback(tmp_path, monkeypatch):
    from jaxvision.classification.task import ClassificationTask

    def broken(self, *_, **__):
        raise ValueError("a mistake in a loss")

    monkeypatch.setattr(ClassificationTask, "sample_losses", broken)
    with pytest.raises(ValueError, match="a mistake in a loss"):
        here(tmp_path / "run")
