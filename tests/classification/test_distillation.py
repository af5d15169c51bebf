"""Distillation: who is trained and who is not, students with two heads, devices, and a run with a trained teacher."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxvision as jv
from jaxvision import config as configs
from jaxvision import experiment, training
from jaxvision.classification.distillation import DistillationTask
from jaxvision.engine.task import Context
from jaxvision.trees import TreeMismatch, flatten
from tests.classification.test_task import Linear, make_batch
from tests.conftest import strict
from tests.engine.running import arrays, run

BATCH = {**make_batch(16), "index": jnp.arange(16, dtype=jnp.int32), "position": jnp.arange(16, dtype=jnp.uint32)}


class TwoHeads(nn.Module):
    """A student as DeiT: one vector of logits for the labels and one for the teacher, averaged when it predicts."""

    num_classes: int = 6

    def setup(self):
        self.head = nn.Dense(self.num_classes, dtype=jnp.float32)
        self.head_dist = nn.Dense(self.num_classes, dtype=jnp.float32)

    def __call__(self, inputs, *, train=False):
        first, second = self.both(inputs, train=train)
        return (first + second) / 2.0

    def both(self, inputs, *, train=False):
        x = inputs.reshape(len(inputs), -1)
        return self.head(x), self.head_dist(x)


def losses(task, batch):
    variables = task.init(jax.random.key(0), batch)
    collections = {name: value for name, value in variables.items() if name != "params"}
    with strict():
        loss, aux = jax.jit(lambda p, c: task.loss(p, c, batch, Context(train=True)))(variables["params"], collections)
    return loss, aux, variables


def test_the_second_head_learns_from_the_teacher_and_the_first_from_the_labels():
    task = DistillationTask(TwoHeads(), teacher=Linear(), weight=0.25)
    batch = make_batch()
    loss, aux, variables = losses(task, batch)
    params = variables["params"]
    first, second = TwoHeads().apply({"params": params}, batch["image"], method="both")
    taught = Linear().apply({"params": params["teacher"], **variables["teacher"]}, batch["image"])
    cross_entropy = optax.softmax_cross_entropy_with_integer_labels
    by_label = cross_entropy(first, batch["label"])[:6].mean()
    by_teacher = cross_entropy(second, taught.argmax(-1))[:6].mean()
    np.testing.assert_allclose(loss, 0.75 * by_label + 0.25 * by_teacher, rtol=1e-6)
    assert set(aux.metrics) == {"label_loss", "teacher_loss", "top1", "top5"}
    grads = jax.grad(lambda p: task.loss(p, {"teacher": variables["teacher"]}, batch, Context(train=True))[0])(params)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(grads["teacher"]))
    assert (grads["head"]["kernel"] != 0).any() and (grads["head_dist"]["kernel"] != 0).any()
    with strict():
        predictions, _ = task.predict(variables, batch, Context())
    np.testing.assert_allclose(predictions["logits"], (first + second) / 2, rtol=1e-6)


def test_the_teacher_runs_in_evaluation_mode_and_its_statistics_stay():
    task = DistillationTask(Linear(), teacher=Linear(dropout=0.9))
    batch = make_batch()
    state, _, _ = run(task, "pmap", 1, batch=BATCH, create={"frozen": lambda name: name.startswith("teacher/")})
    assert state.collections["batch_stats"]["calls"] == 3 and state.collections["teacher"]["batch_stats"]["calls"] == 0
    loss, _, _ = losses(task, batch)
    other, _, _ = losses(dataclasses.replace(task, teacher=Linear()), batch)
    assert loss == other, "dropout of the teacher"


def test_the_teacher_has_no_gradient_optimizer_state_or_average():
    task = DistillationTask(Linear(), teacher=Linear())
    frozen = {"frozen": lambda name: name.startswith("teacher/")}
    start = task.init(jax.random.split(jax.random.key(0))[0], BATCH)["params"]["teacher"]["kernel"]
    state, _, _ = run(task, "pmap", 1, batch=BATCH, create=frozen, ema=0.9)
    assert list(flatten(state.params)) == ["kernel"] and list(flatten(state.frozen)) == ["teacher/kernel"]
    assert state.ema and all("teacher" not in name for name in flatten(state.ema))
    np.testing.assert_array_equal(state.frozen["teacher"]["kernel"], start)


@pytest.mark.parametrize("kind", ["pmap", "shard_map"])
def test_eight_devices_equal_one(kind):
    task = DistillationTask(TwoHeads(), teacher=Linear(), form="soft", temperature=2.0)
    frozen = {"frozen": lambda name: name.startswith("teacher/")}
    batch = BATCH | {"valid": jnp.arange(16) % 5 != 0}
    one, history, _ = run(task, "pmap", 1, batch=batch, create=frozen)
    eight, other, _ = run(task, kind, 8, batch=batch, create=frozen, check=kind == "shard_map")
    for a, b in zip(arrays(one), arrays(eight), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(history[-1]["teacher_loss"], other[-1]["teacher_loss"], rtol=1e-5)


def test_contradictions_are_refused():
    for fields, message in (
        ({"form": "sofft"}, "did you mean 'soft'"),
        ({"weight": 1.5}, "weight=1.5"),
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"teacher": Linear(5)}, "the teacher has 5 classes, the model 6"),
        ({"criterion": "focal", "multi_label": True}, "multi_label has none"),
    ):
        with pytest.raises(ValueError, match=message):
            DistillationTask(Linear(), **{"teacher": Linear(), **fields})


OVERRIDES = [
    ("task", "dict(name='distillation', teacher=dict(name='lenet5', num_classes=10), form='soft', temperature=3.0)"),
    ("model", "dict(name='linear', num_classes=10)"),
]


def test_a_run_takes_the_teacher_of_another_and_saves_only_what_it_needs(tmp_path, unoptimized, capsys):
    smoke = "lenet5_digits:smoke"
    training.train(configs.load(smoke), tmp_path / "teacher")
    pretrained = [("pretrained", f"dict(teacher='{tmp_path / 'teacher'}')")]
    config = configs.load(smoke, OVERRIDES + pretrained)
    run_ = experiment.build(config)
    assert {row.path.split("/")[0] for row in run_.bundle.table.rows if row.frozen} == {"teacher"}
    state = training._initial_state(run_, training.Progress(1, enabled=False))
    taught = flatten(jv.Inferencer(tmp_path / "teacher").model.variables["params"])
    held = flatten(state.frozen["teacher"])
    assert held.keys() == taught.keys()
    for name, value in held.items():
        np.testing.assert_array_equal(value, taught[name])
    results = training.train(config, tmp_path / "student")
    assert np.isfinite(results["loss"])
    assert "random" not in capsys.readouterr().out
    repeated = training.evaluate(configs.load(str(tmp_path / "student")), tmp_path / "student")
    assert repeated["loss"] == pytest.approx(results["loss"])
    image = np.zeros((32, 32, 1), np.uint8)
    infer = jv.Inferencer(tmp_path / "student")
    assert 0 <= infer(image).json["label"] < 10
    assert not any("teacher" in name for name in flatten(infer.model.variables))


def test_a_teacher_without_weights_is_told_and_one_of_other_classes_refused(tmp_path, unoptimized, capsys):
    smoke = "lenet5_digits:smoke"
    training.train(configs.load(smoke, OVERRIDES), tmp_path / "student")
    assert "the weights of the teacher are random" in capsys.readouterr().out
    wrong = [("pretrained", f"dict(teacher='{tmp_path / 'student'}')")]
    with pytest.raises(TreeMismatch, match="the teacher from step 2 of .* does not fit the model"):
        training.train(configs.load(smoke, OVERRIDES + wrong), tmp_path / "other")
