"""Two real processes through `jax.distributed` on localhost: one run, whose parts live, stop, fail and die together."""

import os
import re
import signal
import socket
import time

import numpy as np
import pytest

from tests.system.helpers import (
    checkpoint,
    here,
    last_step,
    records,
    run,
    saved_steps,
    start,
    start_two,
)

HEARTBEAT = 10
"""`parallel.heartbeat_timeout_seconds` where a process is to be lost."""


def files(workdir):
    """Of a workdir, without the arrays and names that hold a time."""
    found = {path.relative_to(workdir).as_posix() for path in workdir.rglob("*") if path.is_file()}
    return {re.sub(r"events\.out.*", "events", name) for name in found if not re.match(r"checkpoints/\d+/state", name)}


OPTIONS = (
    "--config.task.multi_label=True",  # with mAP, which needs the scores of all processes in one ranking
    "--config.task.criterion=binary_cross_entropy",
    "--config.data.source.multi_label=True",
    "--config.schedule.steps=40",
    "--config.evaluation.every_steps=16",
    "--config.checkpoint.every_steps=32",
    "--config.log.every_steps=1",
    "--config.log.tensorboard=True",
)


@pytest.fixture(scope="session")
def one(tmp_path_factory):
    """Workdir of the complete run in one process with two devices."""
    workdir = tmp_path_factory.mktemp("one") / "run"
    run(workdir, *OPTIONS, devices=2)
    return workdir


def assert_equal(workdir, wanted):
    """Two complete runs: the same states, histories and evaluations."""
    (arrays, _), (wanted_arrays, _) = checkpoint(workdir), checkpoint(wanted)
    assert arrays.keys() == wanted_arrays.keys() and int(arrays["step"]) == 40
    for name, array in arrays.items():
        np.testing.assert_allclose(array, wanted_arrays[name], atol=1e-6, rtol=0, err_msg=name)
    history, wanted_history = records(workdir), records(wanted)
    assert [(r["step"], r["kind"]) for r in history] == [(r["step"], r["kind"]) for r in wanted_history]
    for record, other in zip(history, wanted_history, strict=True):
        assert record["values"] == pytest.approx(other["values"], abs=1e-6)
    assert "map" in history[-1]["values"]


def test_two_processes_equal_one_with_as_many_devices_uneven_batch_and_ranking_metric_included(tmp_path, one, capsys):
    two = tmp_path / "two"
    first, second = start_two(two, *OPTIONS)
    said, silent = first.succeeds(), second.succeeds()
    assert_equal(two, one)
    assert "mAP" in said and [line for line in silent.splitlines() if "[Gloo]" not in line] == []
    assert files(two) == files(one), "process 0 writes what a single process writes, and the other nothing"
    # What two wrote, one reads.
    assert here(two, *OPTIONS, "--config.parallel.devices=2") == 0
    assert "This run is complete" in capsys.readouterr().out
    assert here(two, *OPTIONS, "--mode", "eval") == 0
    assert f"mAP {records(two)[-1]['values']['map']:.4f}" in capsys.readouterr().out


def test_sigterm_to_one_process_stops_both_at_the_same_step_and_the_run_goes_on_in_any_number(tmp_path, one):
    workdir = tmp_path / "run"
    single = start(workdir, *OPTIONS, devices=2)
    single.until(lambda: last_step(workdir) >= 3, "some steps in one process")
    single.process.send_signal(signal.SIGTERM)
    single.succeeds()
    stopped = saved_steps(workdir)[-1]
    assert 3 <= stopped < 30

    both = start_two(workdir, *OPTIONS)
    both[0].until(lambda: last_step(workdir) > stopped, "steps in two processes")
    both[1].process.send_signal(signal.SIGTERM)
    texts = [process.succeeds() for process in both]
    assert f"resuming from step {stopped} of 40" in texts[0]
    found = re.search(r"stopped by SIGTERM after step (\d+) of 40\nThe same command resumes from here", texts[0])
    assert found and saved_steps(workdir)[-1] == int(found[1]) > stopped, texts
    assert int(checkpoint(workdir)[0]["step"]) == int(found[1]) < 40

    for process in start_two(workdir, *OPTIONS):
        process.succeeds()
    assert_equal(workdir, one)


def test_processes_with_different_configs_both_stop_and_say_what_differs_and_where(tmp_path):
    both = start_two(tmp_path / "run", each=([], ["--config.seed=1", "--config.schedule.ema=0.5"]))
    host = socket.gethostname()
    where = f"the config differs between process 0 ({host}) and process 1 ({host}): "
    for process in both:
        assert process.wait() == 2, process.text
        assert f"error: the processes do not run the same thing: {where}" in process.text
        assert "seed is 0 and 1" in process.text and "schedule.ema is 0.9 and 0.5" in process.text
        assert "Traceback" not in process.text and "the code differs" not in process.text
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("victim", "how"), [(1, signal.SIGKILL), (0, signal.SIGKILL), (1, signal.SIGSTOP)])
def test_a_lost_process_is_an_error_of_the_other_within_the_heartbeat_timeout(tmp_path, victim, how):
    workdir = tmp_path / "run"
    endless = ["--config.schedule.steps=100000", "--config.checkpoint.every_steps=100000"]
    endless.append(f"--config.parallel.heartbeat_timeout_seconds={HEARTBEAT}")
    both = start_two(workdir, *endless)
    lost, other = both[victim], both[1 - victim]
    try:
        other.until(lambda: last_step(workdir) >= 8, "some steps")
        lost.process.send_signal(how)
        started = time.monotonic()
        assert other.wait(4 * HEARTBEAT) not in (0, None)
        seconds = time.monotonic() - started
    finally:
        os.kill(lost.process.pid, signal.SIGKILL)
        lost.process.wait()
    if how == signal.SIGKILL and victim == 1:
        plain = "error: process 0 on .* has lost the other processes of the run: one of them ended or cannot be reached"
        assert re.search(plain, other.text) and "Traceback" not in other.text
    else:  # JAX itself ends the process
        assert re.search("has lost the other processes|another task died", other.text), other.text
    assert seconds < (HEARTBEAT if how == signal.SIGKILL else 2 * HEARTBEAT) + 10
