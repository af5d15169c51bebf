"""The classification task on real models in the engine's step: devices, accumulation, precision, dropout, learning.

What is equal and what is not: with `sync_bn`, `frozen_bn`, `gn` or no normalisation any number of devices equals one
device on the global batch, and any number of micro-batches equals the large batch with all of these but `sync_bn`.
With `bn` every device normalises by its own rows: the loss differs from the global batch's, and the running statistics
are the mean of the devices' own, whose variances lack the spread between the devices' means.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxvision as jv
from jaxvision import layers
from jaxvision.classification.classifier import Classifier
from jaxvision.classification.linear import Flatten
from jaxvision.classification.task import ClassificationTask
from jaxvision.engine.task import Context
from tests.backbones.fill import fill
from tests.engine.running import UNEVEN, arrays, every_shard, run


@dataclasses.dataclass(frozen=True)
class Drawn(ClassificationTask):
    """With variables drawn by numpy, since compiling the initialisers of a network takes as long as its step."""

    def init(self, rng, batch):
        return fill(self.model, batch["image"][:1])


class Small(nn.Module):
    """One convolution and one norm."""

    norm: layers.Norm = layers.Norm()

    @nn.compact
    def __call__(self, images, *, train):
        x = layers.Conv(8, 3, name="conv1")(images)
        return {"c2": nn.relu(self.norm(name="bn1")(x, train=train))}


def small(norm):
    return Drawn(Classifier(Small(layers.Norm(norm, groups=4)), 3))


def images(rows=16, size=16, channels=3, classes=3, valid=None):
    rng = np.random.default_rng(0)
    return {
        "image": rng.normal(size=(rows, size, size, channels)).astype(np.float32),
        "label": (np.arange(rows) % classes).astype(np.int32),
        "valid": np.ones(rows, bool) if valid is None else valid,
        "index": np.arange(rows, dtype=np.int32),
        "position": np.arange(rows, dtype=np.uint32),
    }


def assert_same_run(a, b, rtol=1e-3, atol=1e-4):
    (state, history, _), (expected, expected_history, _) = a, b
    for got, want in zip(arrays(state), arrays(expected), strict=True):
        np.testing.assert_allclose(got, want, rtol=rtol, atol=atol)
    for got, want in zip(history, expected_history, strict=True):
        assert got.keys() == want.keys()
        for name in want:
            np.testing.assert_allclose(got[name], want[name], rtol=rtol, atol=atol, err_msg=name)


RESNET = Drawn(jv.create_model("resnet18", num_classes=3, backbone={"width": 8, "stem": "cifar", "norm": "sync_bn"}))


@pytest.fixture(scope="module")
def one_device():
    jax.config.update("jax_disable_most_optimizations", True)
    yield run(RESNET, "jit", 1, batch=images(valid=UNEVEN), steps=2, optimizer=optax.sgd(0.05))
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.mark.parametrize(
    ("kind", "devices", "check"),
    [
        *(("pmap", 2, False), ("pmap", 8, False), ("shard_map", 2, False), ("shard_map", 8, True), ("jit", 8, False)),
    ],
)
def test_a_resnet_on_any_number_of_devices_equals_one_on_the_global_batch(one_device, kind, devices, check):
    """With `check`, JAX also verifies that no reduction was forgotten."""
    got = run(RESNET, kind, devices, batch=images(valid=UNEVEN), steps=2, optimizer=optax.sgd(0.05), check=check)
    assert_same_run(got, one_device)
    for shards in every_shard(got[0]):
        assert len(shards) == devices
        for shard in shards[1:]:
            np.testing.assert_array_equal(shard, shards[0])
    before = RESNET.init(None, images())["batch_stats"]["backbone"]["bn1"]["mean"]
    assert np.any(before != got[0].collections["batch_stats"]["backbone"]["bn1"]["mean"])


@pytest.mark.parametrize("norm", ["frozen_bn", "gn"])
def test_norms_without_batch_statistics_do_not_see_the_devices(norm):
    batch = images(valid=UNEVEN)
    got, expected = (run(small(norm), *where, batch=batch, steps=2) for where in (("pmap", 8), ("jit", 1)))
    assert_same_run(got, expected)
    if norm == "frozen_bn":
        before = small(norm).init(None, batch)
        for name in ("mean", "var"):
            kept = got[0].collections["batch_stats"]["backbone"]["bn1"][name]
            np.testing.assert_array_equal(kept, before["batch_stats"]["backbone"]["bn1"][name])
        scale = got[0].params["backbone"]["bn1"]["scale"]
        np.testing.assert_array_equal(scale, before["params"]["backbone"]["bn1"]["scale"])


def test_local_batch_norm_keeps_the_mean_of_the_devices_own_statistics():
    task, batch = small("bn"), images()
    state, _, _ = run(task, "pmap", 8, batch=batch, steps=1)
    variables = task.init(None, batch)

    @jax.jit
    def statistics(rows):
        return task.model.apply(variables, rows, train=True, mutable=["batch_stats"])[1]["batch_stats"]

    own = [statistics(rows) for rows in np.split(batch["image"], 8)]
    mean = jax.tree.map(lambda *x: np.mean(np.stack(x), axis=0), *own)
    for got, want in zip(jax.tree.leaves(state.collections["batch_stats"]), jax.tree.leaves(mean), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    for shards in every_shard(state):
        for shard in shards[1:]:
            np.testing.assert_array_equal(shard, shards[0])


@pytest.mark.parametrize(("kind", "devices"), [("jit", 1), ("pmap", 2)])
def test_four_micro_batches_equal_the_large_batch(kind, devices):
    """The loss, metrics, gradient and update are equal, uneven valid rows included."""
    batch = images(valid=UNEVEN)
    got = run(small("gn"), kind, devices, batch=batch, steps=2, accumulate=4)
    assert_same_run(got, run(small("gn"), "jit", 1, batch=batch, steps=2))


def test_micro_batches_have_batch_statistics_of_their_own():
    """Batch norm sees a micro-batch: its running statistics move once per micro-batch, and the loss differs."""
    task, batch = small("bn"), images()
    state, history, _ = run(task, "jit", 1, batch=batch, steps=1, accumulate=4)
    _, large, _ = run(task, "jit", 1, batch=batch, steps=1)
    variables = task.init(None, batch)
    stats = variables["batch_stats"]
    for rows in np.split(batch["image"], 4):
        variables = {"params": variables["params"], "batch_stats": stats}
        stats = task.model.apply(variables, rows, train=True, mutable=["batch_stats"])[1]["batch_stats"]
    got = state.collections["batch_stats"]["backbone"]["bn1"]
    for name, want in stats["backbone"]["bn1"].items():
        np.testing.assert_allclose(got[name], want, rtol=1e-4, atol=1e-5)
    assert history[0]["loss"][0] != pytest.approx(large[0]["loss"][0], rel=1e-6)
    assert history[0]["loss"][0] == pytest.approx(large[0]["loss"][0], rel=0.1)


def test_bf16_keeps_parameters_statistics_and_losses_in_float32():
    batch = images(valid=UNEVEN)
    half = run(small("sync_bn"), "pmap", 8, batch=batch, steps=3, dtype=jnp.bfloat16, ema=0.9)
    full = run(small("sync_bn"), "pmap", 8, batch=batch, steps=3, ema=0.9)
    state, history, _ = half
    tensors = (state.params, state.collections, state.ema, state.opt_state)
    assert {x.dtype for x in jax.tree.leaves(tensors)} == {jnp.dtype("float32")}
    for got, want in zip(history, full[1], strict=True):
        assert {value.dtype for value in got.values()} == {np.dtype("float32")}
        assert got["finite"][0] == 1 and np.isfinite(got["grad_norm"]).all()
        np.testing.assert_allclose(got["loss"], want["loss"], rtol=3e-2)
        assert got["loss"][0] != want["loss"][0], "nothing was computed in bfloat16"


def test_dropout_differs_between_devices_and_steps():
    task = Drawn(Classifier(Flatten(), 3, dropout=0.5))
    same = {name: np.repeat(value[:1], 2, axis=0) for name, value in images(size=4).items()}
    state, _, _ = run(task, "pmap", 2, batch=same, steps=0)
    _, history, _ = run(task, "pmap", 2, batch=same, steps=2, optimizer=optax.sgd(0.0))
    variables, one = task.init(None, same), {name: value[:1] for name, value in same.items()}

    def loss(step, device):
        key = jax.random.fold_in(jax.random.fold_in(state.rng, step), device)
        ctx = Context(rng=jax.random.fold_in(key, 0), train=True)
        return float(task.loss(variables["params"], {}, one, ctx)[0])

    own = [[loss(step, device) for device in range(2)] for step in range(2)]
    assert len({round(value, 5) for values in own for value in values}) == 4
    for values, record in zip(own, history, strict=True):
        assert record["loss"][0] / record["loss"][1] == pytest.approx(np.mean(values), rel=1e-5)


@pytest.mark.parametrize(
    ("name", "arguments", "shape", "rate"),
    [
        ("linear", {}, (8, 1), 0.1),
        ("lenet5", {}, (32, 1), 0.05),
        ("resnet18", {"backbone": {"width": 8, "stem": "cifar", "norm": "sync_bn"}}, (16, 3), 0.02),
    ],
)
def test_one_batch_is_learned_by_heart(name, arguments, shape, rate, unoptimized):
    task = Drawn(jv.create_model(name, num_classes=3, **arguments))
    batch = images(8, *shape)
    _, history, _ = run(task, "pmap", 2, batch=batch, steps=40, optimizer=optax.sgd(rate, momentum=0.9))
    losses = [record["loss"][0] / record["loss"][1] for record in history]
    assert losses[-1] < 0.02 < losses[0] and history[-1]["top1"][0] == 8
