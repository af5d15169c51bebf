"""A run that was stopped by whatever means and resumed equals the uninterrupted one bit for bit."""

import re
import signal

import numpy as np

from tests.system.helpers import (
    assert_same_run,
    checkpoint,
    here,
    last_step,
    records,
    run,
    saved_steps,
    start,
)

STEPS, SAVED_EVERY = 60, 7
"""Of tests/system/tiny.py."""


def resumed_from(text: str) -> int:
    found = re.search(r"resuming from step (\d+) of 60", text)
    assert found, text
    return int(found[1])


def kill_after(workdir, step: int) -> int:
    """Starts a run, kills it some time after it has written the record of a step; returns the newest saved step."""
    process = start(workdir)
    # The save of an earlier step goes on in the background, so its end is waited for too.
    process.until(lambda: last_step(workdir) >= step and saved_steps(workdir), f"step {step} and a checkpoint")
    process.kill()
    assert last_step(workdir) < STEPS, "the run was over before it was killed"
    return saved_steps(workdir)[-1]


def test_a_run_killed_twice_at_random_steps_equals_the_uninterrupted_one(tmp_path, uninterrupted):
    workdir = tmp_path / "run"
    first, second = np.sort(np.random.default_rng().choice(np.arange(SAVED_EVERY + 1, 45), 2, replace=False))
    before = kill_after(workdir, int(first))
    between = kill_after(workdir, int(second))
    text = run(workdir)
    assert before <= between == resumed_from(text)
    assert "took over" in text, "the lock of the killed run"
    assert_same_run(workdir, uninterrupted)


def test_a_kill_during_a_save_loses_at_most_the_steps_since_the_save_before(tmp_path, uninterrupted):
    workdir = tmp_path / "run"
    folder = workdir / "checkpoints"
    process = start(workdir)
    process.until(lambda: len(saved_steps(workdir)) >= 2, "two checkpoints")
    partial = process.until(lambda: list(folder.glob("*.orbax-checkpoint-tmp")), "a save that is under way")
    process.kill()
    unsaved = int(partial[0].name.split(".")[0])
    text = run(workdir)
    assert resumed_from(text) in (unsaved - SAVED_EVERY, unsaved), "it may have been complete when the kill came"
    assert not list(folder.glob("*tmp*"))
    assert_same_run(workdir, uninterrupted)


def test_sigterm_saves_this_step_and_the_same_command_resumes_until_the_run_is_complete(
    tmp_path, uninterrupted, capsys
):
    workdir = tmp_path / "run"
    process = start(workdir)
    process.until(lambda: last_step(workdir) >= SAVED_EVERY + 1, "some steps")
    process.process.send_signal(signal.SIGTERM)
    text = process.succeeds()
    stopped = int(re.search(r"stopped by SIGTERM after step (\d+) of 60\nThe same command resumes from here", text)[1])
    assert saved_steps(workdir)[-1] == stopped < STEPS
    assert resumed_from(run(workdir)) == stopped
    assert_same_run(workdir, uninterrupted)
    history = (workdir / "metrics.jsonl").read_bytes()
    assert here(workdir) == 0
    text = capsys.readouterr().out
    assert "This run is complete (60 of 60 steps are done)" in text and "--mode eval" in text
    assert (workdir / "metrics.jsonl").read_bytes() == history and saved_steps(workdir)[-1] == STEPS


def test_a_run_that_stopped_early_is_complete_and_waits_as_long_after_a_kill(tmp_path, capsys):
    early = (
        "--config.schedule.early_stopping.metric=top1",
        "--config.schedule.early_stopping.patience=2",
        "--config.schedule.early_stopping.min_delta=2.0",
        "--config.evaluation.every_steps=15",
    )
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    reason = "early stop: top1 has not improved for 2 evaluations"
    assert f"{reason} after step 45 of 60" in run(whole, *early)
    assert checkpoint(whole)[1]["ended"] == reason and saved_steps(whole)[-1] == 45
    assert here(whole, *early) == 0 and f"This run is complete ({reason})" in capsys.readouterr().out

    process = start(killed, *early)
    process.until(lambda: 35 in saved_steps(killed), "the checkpoint between the evaluations")
    process.kill()
    assert checkpoint(killed, 35)[1]["ended"] is None
    assert [r["step"] for r in records(killed) if r["kind"] == "eval"][:2] == [15, 30]
    assert f"{reason} after step 45 of 60" in run(killed, *early)
    assert_same_run(killed, whole)
