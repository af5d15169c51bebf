"""What is compiled, and when; and that every map over devices is the same program."""

import jax
import numpy as np
import pytest

from jaxvision import config as configs
from jaxvision import training
from jaxvision.engine import hooks
from jaxvision.engine.step import CompiledSteps
from tests.system.helpers import CONFIG, checkpoint, records

COMPILED = "/jax/core/compile/backend_compile_duration"


@pytest.fixture
def compilations():
    """Numbers the compilations of this process."""
    seen = []

    def listen(event, seconds, **_):
        if event == COMPILED:
            seen.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield seen
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.parametrize("kind", ["pmap", "shard_map"])
def test_nothing_is_compiled_after_the_first_step_and_the_first_evaluation(tmp_path, compilations, monkeypatch, kind):
    at = {}
    evaluate, log = hooks.Evaluate.__call__, hooks.Log.__call__

    def counted_evaluate(self, step, state, metrics):
        reason = evaluate(self, step, state, metrics)
        if self.last is not None and self.last[0] == step:
            at[f"evaluation {step}"] = len(compilations)
        return reason

    def counted_log(self, step, state, metrics):
        log(self, step, state, metrics)
        at[f"step {step}"] = len(compilations)

    monkeypatch.setattr(hooks.Evaluate, "__call__", counted_evaluate)
    monkeypatch.setattr(hooks.Log, "__call__", counted_log)
    overrides = {"schedule.steps": 24, "evaluation.every_steps": 6, "checkpoint.every_steps": 8, "parallel.map": kind}
    training.train(configs.load(CONFIG, [(k, str(v)) for k, v in overrides.items()]), tmp_path / "run")
    assert at["step 1"] > 0, "nothing was counted"
    assert at["step 6"] == at["step 1"], at
    assert len(compilations) == at["evaluation 6"], at


def test_steps_on_several_canvases_are_compiled_before_the_first_one(tmp_path, compilations, monkeypatch, unoptimized):
    at, canvases, log = [], set(), hooks.Log.__call__
    compiled = CompiledSteps.__call__

    def counted_log(self, step, state, metrics):
        log(self, step, state, metrics)
        at.append(len(compilations))

    def looking(self, state, batch):
        canvases.add(batch["image"].shape[-3:])
        return compiled(self, state, batch)

    monkeypatch.setattr(hooks.Log, "__call__", counted_log)
    monkeypatch.setattr(CompiledSteps, "__call__", looking)
    overrides = {"schedule.steps": 10, "data.buckets": "((16, 24), (24, 16))", "evaluation.every_steps": 10}
    overrides["checkpoint.every_steps"] = 10
    config = configs.load("resnet18_digit_scenes:smoke", [(k, str(v)) for k, v in overrides.items()])
    assert training.train(config, tmp_path / "run")
    assert canvases == {(16, 24, 3), (24, 16, 3)}
    assert set(at) == {at[0]}, at


def test_every_map_over_devices_gives_the_same_run(tmp_path):
    overrides = {
        "model": "dict(name='resnet18', num_classes=6, backbone=dict(stem='cifar', width=2, norm='sync_bn'))",
        "data.batch_size": 32,
        "schedule.steps": 6,
        "schedule.learning_rate.value": 0.02,
        "evaluation.every_steps": 6,
        "checkpoint.every_steps": 6,
        "log.every_steps": 1,
    }
    states, histories = {}, {}
    for kind in ("jit", "pmap", "shard_map"):
        given = [(name, str(value)) for name, value in [*overrides.items(), ("parallel.map", kind)]]
        training.train(configs.load(CONFIG, given), tmp_path / kind)
        states[kind], histories[kind] = checkpoint(tmp_path / kind)[0], records(tmp_path / kind)
    for kind in ("pmap", "shard_map"):
        for name, array in states["jit"].items():
            np.testing.assert_allclose(states[kind][name], array, atol=1e-5, rtol=1e-5, err_msg=f"{kind}: {name}")
        for record, other in zip(histories[kind], histories["jit"], strict=True):
            assert record["values"] == pytest.approx(other["values"], abs=1e-5, rel=1e-4), kind
