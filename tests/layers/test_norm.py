"""Normalisation against numpy in float64, and synchronisation against one device on the global batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxvision import layers
from tests.conftest import strict

KINDS = ("bn", "sync_bn", "frozen_bn", "gn", "ln")
KEY = jax.random.key(0, impl="rbg")  # compiles several times faster than the default


def random(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def batch_norm(**kwargs):
    """A BatchNorm and variables in which nothing is 0 or 1."""
    variables = {
        "params": {"scale": jnp.asarray([0.5, 2.0, -1.0]), "bias": jnp.asarray([0.1, -0.2, 0.3])},
        "batch_stats": {"mean": jnp.asarray([0.4, -0.5, 0.6]), "var": jnp.asarray([0.7, 1.8, 0.9])},
    }
    return layers.BatchNorm(**kwargs), variables


def test_training_normalises_by_the_batch_and_keeps_the_unbiased_running_variance():
    module, variables = batch_norm(momentum=0.8, epsilon=1e-3)
    x = 3 * random((4, 5, 2, 3)) + 2
    with strict():
        y, updated = module.apply(variables, x, train=True, mutable=["batch_stats"])
    flat = x.reshape(-1, 3).astype(np.float64)
    scale, bias = variables["params"]["scale"], variables["params"]["bias"]
    want = (x - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-3) * scale + bias
    np.testing.assert_allclose(y, want, atol=1e-5)
    old, new = variables["batch_stats"], updated["batch_stats"]
    np.testing.assert_allclose(new["mean"], 0.8 * old["mean"] + 0.2 * flat.mean(0), rtol=1e-5)
    np.testing.assert_allclose(new["var"], 0.8 * old["var"] + 0.2 * flat.var(0, ddof=1), rtol=1e-5)


def test_evaluation_uses_running_statistics_and_updates_nothing():
    module, variables = batch_norm()
    x = random((2, 4, 4, 3))
    with strict():
        y, updated = module.apply(variables, x, train=False, mutable=["batch_stats"])
    stats, params = variables["batch_stats"], variables["params"]
    want = (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-5) * params["scale"] + params["bias"]
    np.testing.assert_allclose(y, want, atol=1e-5)
    np.testing.assert_array_equal(updated["batch_stats"]["mean"], stats["mean"])


def test_frozen_is_a_constant_map_in_training_without_gradients_to_its_parameters():
    module, variables = batch_norm(frozen=True)
    x = random((2, 4, 4, 3))
    plain, _ = batch_norm()
    with strict():
        y, updated = module.apply(variables, x, train=True, mutable=["batch_stats"])
        grads, dx = jax.grad(lambda v, x: jnp.square(module.apply(v, x, train=True)).sum(), (0, 1))(variables, x)
    np.testing.assert_array_equal(y, plain.apply(variables, x, train=False))
    np.testing.assert_array_equal(updated["batch_stats"]["var"], variables["batch_stats"]["var"])
    assert all(not np.any(g) for g in jax.tree.leaves(grads)) and np.abs(dx).min() > 0


@settings(max_examples=8, deadline=None)
@given(st.floats(-1e4, 1e4), st.integers(0, 5), st.sampled_from([(4, 1, 1, 2), (6, 3, 3, 2), (9, 2)]))
def test_the_one_pass_variance_is_accurate_far_from_zero(offset, seed, shape):
    # The naive E[x²] - E[x]² is off by more than the variance itself at an offset of 1e4.
    x = (random(shape, seed) + np.float32(offset)).astype(np.float32)
    module = layers.BatchNorm(momentum=0.0)
    variables = module.init(KEY, x, train=False)
    _, updated = module.apply(variables, x, train=True, mutable=["batch_stats"])
    want = x.reshape(-1, 2).astype(np.float64).var(0, ddof=1)
    np.testing.assert_allclose(updated["batch_stats"]["var"], want, rtol=2e-5)


def run_over_devices(module, variables, x, devices=8):
    """Output, loss gradient to x and scale, and statistics, of a pmapped training step."""

    def step(variables, x):
        def loss(params, x):
            y, updated = module.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
            return jnp.mean(jnp.sin(y)), (y, updated["batch_stats"])

        (_, (y, stats)), (dparams, dx) = jax.value_and_grad(loss, (0, 1), has_aux=True)(variables["params"], x)
        return y, stats, jax.lax.pmean(dparams, "batch"), dx

    x = x.reshape(devices, -1, *x.shape[1:])
    return jax.pmap(step, "batch", in_axes=(None, 0), devices=jax.devices()[:devices])(variables, x)


def test_synchronised_over_eight_devices_equals_one_device_on_the_global_batch():
    module, variables = batch_norm(sync=True)
    x = random((16, 3, 2, 3)) * np.linspace(0.1, 3, 16, dtype=np.float32)[:, None, None, None] + 50

    def loss(params, x):
        y, updated = module.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
        return jnp.mean(jnp.sin(y)), (y, updated["batch_stats"])

    with strict():
        (_, (y, stats)), (dparams, dx) = jax.value_and_grad(loss, (0, 1), has_aux=True)(variables["params"], x)
        y8, stats8, dparams8, dx8 = run_over_devices(module, variables, x)
        y_local, stats_local, _, _ = run_over_devices(layers.BatchNorm(sync=False), variables, x)
    np.testing.assert_allclose(y8.reshape(y.shape), y, atol=2e-5)
    np.testing.assert_allclose(dx8.reshape(x.shape) / 8, dx, atol=1e-6)
    for name in ("mean", "var"):
        assert (stats8[name] == stats8[name][:1]).all()
        np.testing.assert_allclose(stats8[name][0], stats[name], rtol=1e-5)
        assert np.abs(stats_local[name] - stats[name]).max() > 1e-2
    for name in ("scale", "bias"):
        np.testing.assert_allclose(dparams8[name][0], dparams[name], atol=1e-5)
    assert np.abs(y_local.reshape(y.shape) - y).max() > 0.1


def test_synchronised_works_without_and_under_vmap_and_shard_map():
    module, variables = batch_norm(sync=True)
    x = random((8, 2, 2, 3))
    apply = lambda x: module.apply(variables, x, train=True, mutable=["batch_stats"])  # noqa: E731
    alone, stats = apply(x)
    mapped, _ = jax.vmap(apply, axis_name="batch")(x.reshape(4, 2, 2, 2, 3))
    np.testing.assert_allclose(mapped.reshape(x.shape), alone, atol=1e-5)
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    batch, everywhere = jax.sharding.PartitionSpec("batch"), jax.sharding.PartitionSpec()
    for check in (False, True):
        sharded = jax.shard_map(apply, mesh=mesh, in_specs=batch, out_specs=(batch, everywhere), check_vma=check)
        y, new = jax.jit(sharded)(x)
        np.testing.assert_allclose(y, alone, atol=1e-5)
        np.testing.assert_allclose(new["batch_stats"]["var"], stats["batch_stats"]["var"], rtol=1e-5)


def test_init_gives_the_same_statistics_inside_and_outside_a_map_and_in_training_mode():
    x = jnp.asarray(random((8, 1, 1, 3)))
    module = layers.BatchNorm(sync=True)
    outside = module.init(KEY, x, train=False)
    training = module.init(KEY, x[:1], train=True)
    inside = jax.pmap(lambda x: module.init(KEY, x, train=True), "batch")(x.reshape(8, 1, 1, 1, 3))
    for variables in (training, jax.tree.map(lambda v: v[5], inside)):
        jax.tree.map(np.testing.assert_array_equal, variables, outside)
    np.testing.assert_array_equal(outside["batch_stats"]["var"], np.ones(3))


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_group_norm_normalises_each_sample_and_group(groups):
    x = 2 * random((3, 4, 2, 6)) + 1
    module = layers.GroupNorm(groups=groups, epsilon=1e-4)
    params = {"scale": jnp.asarray(random((6,), 1)), "bias": jnp.asarray(random((6,), 2))}
    with strict():
        y = module.apply({"params": params}, x, train=True)
    g = x.reshape(3, 8, groups, -1).astype(np.float64)
    want = (g - g.mean((1, 3), keepdims=True)) / np.sqrt(g.var((1, 3), keepdims=True) + 1e-4)
    np.testing.assert_allclose(y, want.reshape(x.shape) * params["scale"] + params["bias"], atol=1e-5)


def test_layer_norm_normalises_the_last_axis():
    x = 2 * random((3, 4, 6)) + 1
    params = {"scale": jnp.asarray(random((6,), 1)), "bias": jnp.asarray(random((6,), 2))}
    with strict():
        y = layers.LayerNorm().apply({"params": params}, x)
    want = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(y, want * params["scale"] + params["bias"], atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_keeps_float32_state_follows_the_input_and_has_finite_gradients_at_constant_input(kind):
    module = layers.Norm(kind, groups=2)(name="bn1")
    x = jnp.asarray(random((4, 3, 3, 4)))
    with strict():

        @jax.jit
        def run(x):
            variables = module.init(KEY, x.astype(jnp.bfloat16), train=True)
            apply = lambda x: module.apply(variables, x, train=True, mutable=["batch_stats"])  # noqa: E731
            dx = jax.grad(lambda x: apply(x)[0].sum())(jnp.full_like(x, 3.0))
            return variables, apply(x.astype(jnp.bfloat16)), apply(x)[0], dx

        variables, (half, updated), full, dx = run(x)
    assert half.dtype == jnp.bfloat16 and full.dtype == jnp.float32
    assert {p.dtype for p in jax.tree.leaves((variables, updated))} == {jnp.dtype("float32")}
    np.testing.assert_allclose(half.astype(jnp.float32), full, atol=3e-2)
    assert np.isfinite(dx).all()


def test_norm_is_hashable_and_makes_the_kind_it_names():
    assert hash(layers.Norm("gn")) == hash(layers.Norm("gn")) and layers.Norm("gn") != layers.Norm("gn", groups=8)
    made = {kind: layers.Norm(kind)(name="n") for kind in KINDS}
    assert (made["bn"].sync, made["sync_bn"].sync, made["frozen_bn"].frozen) == (False, True, True)
    assert isinstance(made["gn"], layers.GroupNorm) and isinstance(made["ln"], layers.LayerNorm)
    assert made["ln"] == layers.Norm("ln")(name="n")


def test_errors_name_what_was_given():
    with pytest.raises(ValueError, match="unknown norm 'synch_bn': did you mean 'sync_bn'"):
        layers.Norm("synch_bn")
    with pytest.raises(ValueError, match="groups=32 for 8 channels"):
        layers.Norm("gn")().init(KEY, jnp.zeros((1, 2, 2, 8)), train=False)
    module, variables = batch_norm()
    with pytest.raises(ValueError, match="one value per channel"):
        module.apply(variables, jnp.zeros((1, 1, 1, 3)), train=True, mutable=["batch_stats"])
