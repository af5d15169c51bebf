"""The train step on 1, 2 and 8 devices, under every map, equals one device on the global batch."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxvision.engine.parallel import check_batch_size, make_parallel
from tests.engine.running import UNEVEN, arrays, every_shard, run
from tests.engine.toys import Contrastive, FitImage, MomentumQueue, Softmax, ToyGAN, batch_of


@pytest.mark.parametrize("task", [Softmax(), Contrastive()], ids=["uneven-positives", "contrastive"])
@pytest.mark.parametrize(
    "kind,devices", [("pmap", 1), ("pmap", 2), ("pmap", 8), ("shard_map", 2), ("shard_map", 8), ("jit", 8)]
)
def test_any_number_of_devices_equals_one_device_on_the_global_batch(task, kind, devices):
    batch = batch_of(16, valid=UNEVEN)
    expected, expected_history, _ = run(task, "jit", 1, batch=batch)
    state, history, _ = run(task, kind, devices, batch=batch)
    for got, want in zip(arrays(state), arrays(expected), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    for got, want in zip(history, expected_history, strict=True):
        assert got.keys() == want.keys()
        for name in want:
            np.testing.assert_allclose(got[name], want[name], rtol=1e-5, atol=1e-6, err_msg=name)
    for shards in every_shard(state):
        assert len(shards) == devices
        for shard in shards[1:]:
            np.testing.assert_array_equal(shard, shards[0])


def test_the_step_forgets_no_reduction():
    """JAX's own check refuses a result that could differ between devices."""
    state, _, _ = run(Softmax(), "shard_map", 8, steps=1, check=True)
    expected, _, _ = run(Softmax(), "jit", 1, steps=1)
    for got, want in zip(arrays(state), arrays(expected), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-6)


def test_devices_draw_different_noise_and_runs_repeat_exactly():
    one, history, _ = run(Softmax(noise=1.0), "pmap", 8)
    two, again, _ = run(Softmax(noise=1.0), "pmap", 8)
    for a, b in zip(arrays(one), arrays(two), strict=True):
        np.testing.assert_array_equal(a, b)
    assert history[0]["loss"][0] == again[0]["loss"][0]
    same_rows = {name: np.repeat(value[:1], 16, axis=0) for name, value in batch_of(16).items()}
    keys = jax.pmap(
        lambda x: jax.random.normal(jax.random.fold_in(jax.random.key(0), jax.lax.axis_index("batch")), (2,)) + 0 * x,
        axis_name="batch",
    )(jnp.zeros(8))
    assert len({tuple(row) for row in np.asarray(keys)}) == 8
    _, history, _ = run(Softmax(noise=1.0), "pmap", 8, batch=same_rows, steps=2)
    assert history[0]["loss"][0] != history[1]["loss"][0]


@pytest.mark.parametrize("kind,devices", [("jit", 1), ("pmap", 2)])
def test_accumulated_micro_batches_equal_the_large_batch(kind, devices):
    batch = batch_of(16, valid=UNEVEN)
    expected, expected_history, _ = run(Softmax(), "jit", 1, batch=batch, steps=1)
    state, history, _ = run(Softmax(), kind, devices, batch=batch, steps=1, accumulate=4)
    for name in ("kernel", "bias"):
        np.testing.assert_allclose(state.params["head"][name], expected.params["head"][name], atol=1e-6)
    for name in ("loss", "top1", "grad_norm"):
        np.testing.assert_allclose(history[0][name], expected_history[0][name], rtol=1e-5, err_msg=name)


def test_a_gan_alternates_its_objectives_and_skips_the_generator():
    state, history, _ = run(ToyGAN(), "pmap", 2, steps=4)
    assert [float(h["generator/loss"][1]) for h in history] == [1, 0, 1, 0]
    assert [float(h["critic/loss"][1]) for h in history] == [1, 1, 1, 1]
    assert set(state.opt_state) == {"critic", "generator"}
    one, _, _ = run(ToyGAN(), "pmap", 2, steps=1)
    two, _, _ = run(ToyGAN(), "pmap", 2, steps=2)
    np.testing.assert_array_equal(one.params["generator"]["weights"], two.params["generator"]["weights"])
    assert np.any(one.params["critic"]["weights"] != two.params["critic"]["weights"])
    assert np.any(one.params["generator"]["weights"] != 0), "the later objective sees the updated critic"


@pytest.mark.parametrize("kind", ["pmap", "shard_map"])
def test_a_momentum_encoder_keeps_queue_and_pointer_equal_on_all_devices(kind):
    state, _, _ = run(MomentumQueue(), kind, 8, steps=3)
    expected, _, _ = run(MomentumQueue(), "jit", 1, steps=3)
    pointer = state.collections["queue"]["pointer"]
    assert pointer.dtype == jnp.int32 and int(pointer) == 3 * 16 % 32
    for shards in every_shard(state):
        for shard in shards[1:]:
            np.testing.assert_array_equal(shard, shards[0])
    for got, want in zip(arrays(state), arrays(expected), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-5)
    assert np.any(state.collections["teacher"]["kernel"] != state.params["kernel"])


@pytest.mark.parametrize("kind,devices", [("jit", 1), ("pmap", 2)])
def test_an_image_is_optimised_by_lbfgs(kind, devices):
    state, history, _ = run(FitImage(), kind, devices, steps=40, optimizer=optax.lbfgs())
    np.testing.assert_allclose(state.params["image"], 1.0, atol=1e-3)
    assert history[0]["loss"][0] > 1 > history[-1]["loss"][0]
    for shards in every_shard(state):
        for shard in shards[1:]:
            np.testing.assert_array_equal(shard, shards[0])


def test_a_non_finite_update_is_dropped_on_device():
    bad = batch_of(16)
    bad["image"][3, 2] = np.nan
    state, history, _ = run(Softmax(), "pmap", 8, batch=bad, steps=2, ema=0.9)
    fresh, _, _ = run(Softmax(), "pmap", 8, steps=0, ema=0.9)
    assert [float(h["finite"][0]) for h in history] == [0, 0]
    assert int(state.step) == 2
    for got, want in zip(arrays(state.replace(step=None)), arrays(fresh.replace(step=None)), strict=True):
        np.testing.assert_array_equal(got, want)


def test_frozen_parameters_get_no_gradient_optimizer_state_or_average():
    state, _, _ = run(Softmax(), "pmap", 2, ema=0.5, create={"frozen": lambda name: name == "head/kernel"})
    fresh, _, _ = run(Softmax(), "pmap", 2, steps=0)
    assert state.params["head"]["kernel"] is None and state.ema["params"]["head"]["kernel"] is None
    np.testing.assert_array_equal(state.frozen["head"]["kernel"], fresh.params["head"]["kernel"])
    assert np.any(state.params["head"]["bias"] != 0)
    assert len(jax.tree.leaves(state.opt_state)) == 1
    assert set(state.variables(ema=True)["params"]["head"]) == {"kernel", "bias"}


def test_the_average_follows_parameters_and_batch_statistics():
    state, _, _ = run(Softmax(), "pmap", 8, steps=1, ema=0.75)
    fresh, _, _ = run(Softmax(), "pmap", 8, steps=0)
    want = 0.75 * fresh.params["head"]["kernel"] + 0.25 * state.params["head"]["kernel"]
    np.testing.assert_allclose(state.ema["params"]["head"]["kernel"], want, atol=1e-7)
    np.testing.assert_allclose(
        state.variables(ema=True)["batch_stats"]["mean"], 0.25 * state.collections["batch_stats"]["mean"], atol=1e-7
    )


def test_the_decay_of_the_average_rises():
    state, _, _ = run(Softmax(), "jit", 1, steps=1, ema=0.75, ema_ramp=2.0)
    fresh, _, _ = run(Softmax(), "jit", 1, steps=0)
    decay = 0.75 * (1 - np.exp(-1 / 2))
    want = decay * fresh.params["head"]["kernel"] + (1 - decay) * state.params["head"]["kernel"]
    np.testing.assert_allclose(state.ema["params"]["head"]["kernel"], want, atol=1e-6)


@pytest.mark.parametrize("kind", ["pmap", "jit"])
def test_a_task_is_told_of_the_closing_steps(kind):
    @dataclasses.dataclass(frozen=True)
    class Closing(Softmax):
        def loss(self, params, collections, batch, ctx):
            loss, aux = super().loss(params, collections, batch, ctx)
            told = jnp.asarray(ctx.closing).astype(jnp.float32), jnp.ones(())
            return loss, aux.replace(metrics={**aux.metrics, "closing": told})

    _, history, _ = run(Closing(), kind, 2 if kind == "pmap" else 1, steps=3, closing_step=2)
    assert [float(h["closing"][0] / h["closing"][1]) for h in history] == [0, 0, 1]


@pytest.mark.parametrize("kind", ["pmap", "shard_map", "jit"])
def test_an_integer_among_the_batch_statistics_stays_one(kind):
    @dataclasses.dataclass(frozen=True)
    class Counting(Softmax):
        def init(self, rng, batch):
            variables = super().init(rng, batch)
            return {**variables, "batch_stats": {**variables["batch_stats"], "calls": jnp.zeros((), jnp.int32)}}

        def loss(self, params, collections, batch, ctx):
            loss, aux = super().loss(params, collections, batch, ctx)
            calls = collections["batch_stats"]["calls"] + 1
            return loss, aux.replace(collections={"batch_stats": {**aux.collections["batch_stats"], "calls": calls}})

    state, _, _ = run(Counting(), kind, 8, ema=0.5)
    for stats in (state.collections["batch_stats"], state.ema["batch_stats"]):
        assert stats["calls"].dtype == jnp.int32 and int(stats["calls"]) == 3


def test_an_objective_that_trains_nothing_is_an_error():
    @dataclasses.dataclass(frozen=True)
    class Misspelt(ToyGAN):
        @property
        def objectives(self):
            return tuple(dataclasses.replace(o, trains="critik/.*") for o in super().objectives[:1])

    with pytest.raises(ValueError, match=r"trains nothing: no parameter matches 'critik/\.\*'"):
        run(Misspelt(), "jit", 1)


def test_an_uneven_batch_names_the_nearest_sizes():
    with pytest.raises(
        ValueError, match=r"data.batch_size=20 does not split over 8 devices; the nearest sizes: 16 or 24"
    ):
        check_batch_size(20, 8)
    with pytest.raises(ValueError, match=r"over 8 devices x 2 micro-batches; the nearest sizes: 16$"):
        check_batch_size(4, 8, 2)
    check_batch_size(32, 8, 2)


def test_an_unknown_map_gets_a_hint():
    with pytest.raises(ValueError, match="did you mean 'pmap'"):
        make_parallel("pmapp")
    with pytest.raises(ValueError, match=r"parallel.devices=9, but there are 8"):
        make_parallel("pmap", 9)
