"""The loop and its hooks: what is called when, exact windows, a stop that says why."""

import dataclasses
import math
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.engine.distributed import StopRequest, cluster_present, initialize, stop_on_signal
from jaxvision.engine.hooks import Evaluate, Log, NonFiniteError, Profile, Save
from jaxvision.engine.loop import Hooks, fit
from jaxvision.engine.metrics import StepMetrics


class Recorder:
    """Hooks over a fake step that counts in its state."""

    def __init__(self, total=10, *, every=4, evaluate_every=5, save_every=3, values=None, **early):
        self.written, self.saved, self.finished, self.advanced = [], [], [], []
        self.values = values or {}
        log = Log(
            write=lambda *record: self.written.append(record),
            advance=lambda step, shown: self.advanced.append(step),
            every=every,
            total_steps=total,
            batch_size=8,
            samples=lambda step: np.arange(step * 2, step * 2 + 2),
        )
        evaluate = Evaluate(
            run=lambda state: {"score": self.values.get(int(state["step"]), 0.0), "table": np.zeros(3)},
            write=lambda *record: self.written.append(record),
            log=log,
            every=evaluate_every,
            total_steps=total,
            **early,
        )
        save = Save(lambda *record: self.saved.append(record), log, evaluate, save_every, total)
        self.hooks = Hooks(Profile("unused"), log, evaluate, save, lambda *record: self.finished.append(record))
        self.total = total

    def fit(self, first=0, stop=None, bad=()):
        def step(state, batch):
            number = int(state["step"]) + 1
            loss = math.nan if number in bad else float(number)
            metrics = {"loss": (jnp.float32(loss), jnp.float32(1)), "finite": (jnp.float32(1), jnp.float32(1))}
            return {"step": state["step"] + 1}, StepMetrics.pack(metrics)

        state = {"step": np.int32(first)}
        with jax.transfer_guard("allow"):
            batches = iter(dict, None)
            return fit(
                state,
                lambda s, b: _allowed(step, s, b),
                batches,
                first_step=first,
                total_steps=self.total,
                hooks=self.hooks,
                stop=stop or StopRequest(),
            )


def _allowed(step, *args):
    with jax.transfer_guard("allow"):
        return step(*args)


def train_records(recorder):
    return [(step, values["loss"]) for step, kind, values in recorder.written if kind == "train"]


def test_windows_average_whole_and_partial_windows_once():
    recorder = Recorder()
    recorder.fit()
    assert train_records(recorder) == [(4, 2.5), (8, 6.5), (10, 9.5)]
    assert [step for step, kind, _ in recorder.written if kind == "eval"] == [5, 10]
    assert [record[0] for record in recorder.saved] == [3, 6, 9, 10]
    assert recorder.advanced == list(range(1, 11))
    assert [record[0] for record in recorder.finished] == [10]
    assert recorder.saved[-1][3] == {"score": 0.0} and recorder.saved[0][3] is None


def test_a_run_resumed_from_a_checkpoint_writes_the_same_windows():
    whole, resumed = Recorder(), Recorder()
    whole.fit()
    extra = whole.saved[1][2]
    assert whole.saved[1][0] == 6
    resumed.hooks.save.restore(extra)
    resumed.fit(first=6)
    assert train_records(resumed) == train_records(whole)[1:]


def test_a_non_finite_loss_stops_with_step_metric_and_samples():
    recorder = Recorder()
    with pytest.raises(NonFiniteError, match=r"step 6: loss is nan; .* Samples of this batch: 12, 13\."):
        recorder.fit(bad={6})
    assert [record[0] for record in recorder.saved] == [3], "nothing is saved after the bad step"


def test_training_stops_early_when_nothing_improves():
    recorder = Recorder(20, evaluate_every=2, metric="score", patience=2, values={2: 0.5, 4: 0.7, 6: 0.6, 8: 0.7})
    state = recorder.fit()
    assert int(state["step"]) == 8
    assert recorder.finished[0][2] == "early stop: score has not improved for 2 evaluations"
    assert recorder.saved[-1][0] == 8
    unknown = Recorder(metric="scroe", patience=1)
    with pytest.raises(ValueError, match=r"early_stopping.metric='scroe' is not evaluated; there are"):
        unknown.fit()


def test_a_bad_step_is_found_before_an_evaluation_is_written():
    recorder = Recorder(evaluate_every=6)
    with pytest.raises(NonFiniteError, match="^step 5: loss is nan; training stopped"):
        recorder.fit(bad={5})
    assert not [record for record in recorder.written if record[1] == "eval"]


def test_the_first_objective_with_a_bad_value_is_named():
    log = Recorder().hooks.log
    log.objectives = ("student", "critic")
    one, bad = np.float32(1), np.float32(np.nan)
    metrics = {"critic/loss": (bad, one), "student/grad_norm": (bad, one), "student/loss": (bad, one)}
    with pytest.raises(NonFiniteError, match=r"^step 3: student/loss is nan; the update was dropped and training"):
        log(3, None, {**metrics, "finite": (np.float32(0), one)})
        log.flush()


def test_time_spent_in_an_evaluation_does_not_count_for_the_speed():
    recorder = Recorder(every=5, evaluate_every=2, save_every=None)
    slow = recorder.hooks.evaluate.run
    recorder.hooks.evaluate.run = lambda state: time.sleep(0.5) or slow(state)
    recorder.fit()
    assert all(values["images_per_second"] > 80 for _, kind, values in recorder.written if kind == "train")


def test_each_evaluation_that_is_the_best_so_far_is_saved():
    values = {2: 0.5, 4: 0.7, 6: 0.6, 8: math.nan, 10: 0.8}
    recorder = Recorder(save_every=None, evaluate_every=2, values=values)
    recorder.hooks.save.best_metric = "score"
    recorder.fit()
    assert [(record[0], record[3]) for record in recorder.saved] == [(n, {"score": values[n]}) for n in (2, 4, 10)]
    resumed = Recorder(save_every=None, evaluate_every=2, values=values)
    resumed.hooks.save.best_metric = "score"
    resumed.hooks.save.restore(recorder.saved[1][2])
    resumed.fit(first=4)
    assert [record[0] for record in resumed.saved] == [10]
    lowest = Recorder(save_every=None, evaluate_every=2, values=values)
    lowest.hooks.save.best_metric, lowest.hooks.save.best_mode = "score", "min"
    lowest.fit()
    assert [record[0] for record in lowest.saved] == [2, 10]
    unknown = Recorder()
    unknown.hooks.save.best_metric = "scroe"
    with pytest.raises(ValueError, match=r"checkpoint.best_metric='scroe' is not evaluated; there are \['score'\]"):
        unknown.fit()


@pytest.mark.parametrize(
    ("first", "count", "resumed", "traced"),
    [(5, 3, 0, [5, 6, 7]), (1, 1, 0, [1]), (9, 5, 0, [9, 10]), (3, 2, 2, [3, 4]), (3, 2, 3, []), (None, 3, 0, [])],
)
def test_a_profile_has_exactly_its_steps(tmp_path, first, count, resumed, traced):
    recorder = Recorder()
    profile = Profile(str(tmp_path), first, count)
    recorder.hooks = dataclasses.replace(recorder.hooks, profile=profile)
    recorder.fit(first=resumed)
    profile.close()
    files = list(tmp_path.rglob("*.xplane.pb"))
    assert len(files) == bool(traced)
    steps = [
        dict(event.stats)["step_num"]
        for file in files
        for plane in jax.profiler.ProfileData.from_file(str(file)).planes
        for line in plane.lines
        for event in line.events
        if event.name == "train"
    ]
    assert sorted(steps) == traced


def test_a_request_to_stop_saves_this_step():
    class Soon(StopRequest):
        def due(self, step):
            self.signal = "SIGTERM"
            return step == 5

    recorder = Recorder()
    state = recorder.fit(stop=Soon())
    assert int(state["step"]) == 5 and recorder.saved[-1][0] == 5
    assert recorder.finished == [(5, state, "stopped by SIGTERM")]


def test_sigterm_is_a_request_to_stop():
    import os
    import signal

    with stop_on_signal() as request:
        assert not request.due(1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert request.due(2) and request.signal == "SIGTERM"


def test_an_input_that_ends_is_named():
    recorder = Recorder()
    with pytest.raises(RuntimeError, match="the training data ended before step 1"):
        fit({}, None, iter(()), first_step=0, total_steps=3, hooks=recorder.hooks, stop=StopRequest())


@pytest.mark.parametrize(
    "environment,present",
    [
        ({}, False),
        ({"SLURM_STEP_NUM_TASKS": "1"}, False),
        ({"SLURM_STEP_NUM_TASKS": "16"}, True),
        ({"JAX_COORDINATOR_ADDRESS": "host:1234"}, True),
        ({"TPU_WORKER_HOSTNAMES": "a"}, False),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, True),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, False),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, True),
    ],
)
def test_clusters_are_recognised(environment, present):
    assert cluster_present(environment) is present


def test_a_half_described_cluster_is_an_error(monkeypatch):
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "localhost:1234")
    monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
    with pytest.raises(ValueError, match="JAX_PROCESS_ID must be a number"):
        initialize()
