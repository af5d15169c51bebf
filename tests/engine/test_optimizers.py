"""Optimizers against their update rules written out in float64, and groups, clips, plateaus, holes, devices."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from jaxvision.engine import optimizers, schedules
from jaxvision.engine.optimizers import OptimizerSettings, make_optimizer
from tests.conftest import strict

STEPS = 8
SHAPES = {"block/kernel": (3, 4), "block/bias": (4,), "head/kernel": (4, 2), "zero": (3,)}


def arrays(seed, scale=1.0):
    """float32 values as {path: array}; "zero" starts at zero, where trust ratios are undefined."""
    rng = np.random.default_rng(seed)
    values = {path: (scale * rng.normal(size=shape)).astype(np.float32) for path, shape in SHAPES.items()}
    return {path: value * (seed > 0 or path != "zero") for path, value in values.items()}


def tree(flat):
    return {
        "block": {"kernel": flat["block/kernel"], "bias": flat["block/bias"]},
        "head": {"kernel": flat["head/kernel"]},
        "zero": flat["zero"],
    }


def flat(nested):
    return {
        path: np.asarray(nested[path] if "/" not in path else nested[path.split("/")[0]][path.split("/")[1]])
        for path in SHAPES
    }


def make(optimizer=None, learning_rate=None, params=None, total_steps=STEPS, batch_size=8, **settings):
    return make_optimizer(
        OptimizerSettings(**settings),
        tree(arrays(0)) if params is None else params,
        optimizer=optimizer or optimizers.sgd(),
        learning_rate=learning_rate or schedules.constant(0.1),
        total_steps=total_steps,
        steps_per_epoch=4,
        batch_size=batch_size,
    )


def run(bundle, grads, params=None, **extra):
    """Parameters after one update per gradient tree, under strict promotion."""
    params = tree(arrays(0)) if params is None else params
    with strict():
        state = jax.jit(bundle.transform.init)(params)
        update = jax.jit(lambda g, s, p: bundle.transform.update(g, s, p, **extra))
        for gradient in grads:
            updates, state = update(gradient, state, params)
            params = jax.tree.map(jnp.add, params, updates)
    return params


def norm(x):
    return np.sqrt(np.sum(x * x))


class Rule:
    """One parameter's update rule in float64; the numbers it needs are keyword arguments of `step`."""

    def __init__(self):
        self.m, self.v, self.t = 0.0, 0.0, 0

    def adam(self, g, b1, b2, eps):
        self.t += 1
        self.m = b1 * self.m + (1 - b1) * g
        self.v = b2 * self.v + (1 - b2) * g * g
        return self.m / (1 - b1**self.t) / (np.sqrt(self.v / (1 - b2**self.t)) + eps)

    def momentum(self, g, decay, nesterov):
        self.m = decay * self.m + g
        return g + decay * self.m if nesterov else self.m


def sgd(rule, p, g, wd):
    return rule.momentum(g + wd * p, 0.0, False)


def nesterov(rule, p, g, wd):
    return rule.momentum(g + wd * p, 0.9, True)


def adam(rule, p, g, wd):
    return rule.adam(g + wd * p, 0.9, 0.999, 1e-8)


def adamw(rule, p, g, wd):
    return rule.adam(g, 0.9, 0.95, 1e-6) + wd * p


def lamb(rule, p, g, wd):
    update = rule.adam(g, 0.9, 0.999, 1e-6) + wd * p
    return update * (norm(p) / norm(update) if wd and norm(p) > 0 else 1.0)


def lars(rule, p, g, wd):
    ratio = 0.02 * norm(p) / (norm(g) + wd * norm(p)) if wd and norm(p) > 0 else 1.0
    return rule.momentum((g + wd * p) * ratio, 0.9, False)


def lion(rule, p, g, wd):
    sign = np.sign(0.9 * rule.m + 0.1 * g)
    rule.m = 0.99 * rule.m + 0.01 * g
    return sign + wd * p


def rmsprop(rule, p, g, wd):
    g = g + wd * p
    rule.v = 0.9 * rule.v + 0.1 * g * g
    return rule.momentum(g / (np.sqrt(rule.v) + 1e-8), 0.8, False)


RULES = {
    "sgd": (optimizers.sgd(weight_decay=0.05), sgd),
    "nesterov": (optimizers.sgd(0.9, nesterov=True, weight_decay=0.05), nesterov),
    "adam": (optimizers.adam(weight_decay=0.05), adam),
    "adamw": (optimizers.adamw(b2=0.95, eps=1e-6, weight_decay=0.05), adamw),
    "lamb": (optimizers.lamb(weight_decay=0.05), lamb),
    "lars": (optimizers.lars(weight_decay=0.05, trust_coefficient=0.02), lars),
    "lion": (optimizers.lion(weight_decay=0.05), lion),
    "rmsprop": (optimizers.rmsprop(0.9, momentum=0.8, weight_decay=0.05), rmsprop),
}


@pytest.mark.parametrize("name", RULES)
def test_every_group_follows_the_closed_form_under_a_schedule(name):
    """With a schedule, a learning-rate multiplier, no weight decay on vectors and one frozen parameter."""
    optimizer, direction = RULES[name]
    bundle = make(
        optimizer,
        schedules.cosine(0.03),
        warmup=2,
        warmup_unit="steps",
        warmup_factor=0.5,
        no_weight_decay_on_norm_and_bias=True,
        rules=({"pattern": "head/.*", "learning_rate": 0.5}, {"pattern": "block/kernel", "weight_decay": 2.0}),
    )
    grads = [arrays(1 + t) for t in range(STEPS)]
    found = flat(run(bundle, map(tree, grads)))
    for path, start in arrays(0).items():
        rule, p = Rule(), start.astype(np.float64)
        decay = 0.05 * {"block/kernel": 2.0, "head/kernel": 1.0}.get(path, 0.0)
        for t in range(STEPS):
            rate = 0.03 * (1 + np.cos(np.pi * t / STEPS)) / 2 * min(0.5 + 0.25 * t, 1.0)
            rate *= 0.5 if path.startswith("head") else 1.0
            p = p - rate * direction(rule, p, grads[t][path].astype(np.float64), decay)
        np.testing.assert_allclose(found[path], p, rtol=0, atol=1e-6 * max(np.abs(p).max(), 0.1), err_msg=path)


def test_clipping_by_value_comes_before_clipping_by_norm():
    grads = arrays(1, scale=3.0)
    clipped = {path: np.clip(g.astype(np.float64), -2, 2) for path, g in grads.items()}
    total = np.sqrt(sum(np.sum(g * g) for g in clipped.values()))
    found = flat(run(make(clip_value=2.0, clip_norm=1.5), [tree(grads)]))
    for path, start in arrays(0).items():
        np.testing.assert_allclose(found[path], start - 0.1 * clipped[path] * 1.5 / total, rtol=1e-6, atol=1e-7)


def test_a_gradient_below_the_limits_is_not_changed():
    limited = run(make(clip_value=50.0, clip_norm=100.0), [tree(arrays(1))])
    jax.tree.map(np.testing.assert_array_equal, limited, run(make(), [tree(arrays(1))]))


def test_frozen_parameters_stay_have_no_state_and_do_not_count_in_the_norm():
    bundle = make(optimizers.adamw(), freeze=("block/.*",), clip_norm=1.0)
    grads = arrays(1)
    grads["block/kernel"] = grads["block/kernel"] * np.float32(np.nan)
    found, start = flat(run(bundle, [tree(grads)])), arrays(0)
    np.testing.assert_array_equal(found["block/kernel"], start["block/kernel"])
    assert np.all(np.isfinite(found["head/kernel"])) and np.any(found["head/kernel"] != start["head/kernel"])
    assert bundle.frozen_mask == {"block": {"kernel": True, "bias": True}, "head": {"kernel": False}, "zero": False}
    state = bundle.transform.init(tree(start))
    sizes = sum(leaf.size for leaf in jax.tree.leaves(state))
    assert sizes == 2 * (8 + 3) + 2  # two moments of the trained parameters, two counters


@pytest.mark.parametrize("name", ["adamw", "lars", "rmsprop", "lion"])
def test_a_tree_with_holes_is_updated_like_the_whole_tree(name):
    optimizer = RULES[name][0]
    whole = run(make(optimizer, freeze=("block/.*",)), [tree(arrays(t)) for t in (1, 2)])

    def part(nested):
        return {**nested, "block": {"kernel": None, "bias": None}}

    holes = run(make(optimizer, freeze=("block/.*",)), [part(tree(arrays(t))) for t in (1, 2)], part(tree(arrays(0))))
    assert jax.tree.structure(holes) == jax.tree.structure(part(whole))
    jax.tree.map(np.testing.assert_array_equal, holes, part(whole))


@pytest.mark.parametrize("name", RULES)
def test_state_made_inside_jit_has_the_structure_that_updates_keep(name):
    bundle = make(RULES[name][0], schedules.reduce_on_plateau(0.1), clip_norm=1.0)
    params = tree(arrays(0))

    def signature(state):
        return jax.tree.structure(state), [(leaf.shape, leaf.dtype, leaf.weak_type) for leaf in jax.tree.leaves(state)]

    state = jax.eval_shape(bundle.transform.init, params)
    updates, after = jax.eval_shape(lambda g, s, p: bundle.transform.update(g, s, p, value=1.0), params, state, params)
    assert signature(state) == signature(after)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), updates) == jax.tree.map(lambda x: (x.shape, x.dtype), params)
    assert make(params=state_free_shapes(params)).table == bundle.table


def state_free_shapes(params):
    return jax.eval_shape(lambda: params)


def test_the_updates_of_a_bfloat16_parameter_are_bfloat16():
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), tree(arrays(0)))
    bundle = make(optimizers.adamw(), params=params)
    updates, _ = bundle.transform.update(params, bundle.transform.init(params), params)
    assert {x.dtype for x in jax.tree.leaves(updates)} == {jnp.dtype(jnp.bfloat16)}


def test_the_step_may_be_told_for_an_objective_that_is_trained_seldom():
    bundle = make(learning_rate=schedules.linear(1.0))
    grads = tree(arrays(1))
    found = flat(run(bundle, [grads], step=jnp.int32(6)))
    for path, start in arrays(0).items():
        np.testing.assert_allclose(found[path], start - 0.25 * flat(grads)[path], rtol=1e-6, atol=1e-7)


def test_the_learning_rate_is_scaled_to_the_batch():
    bundle = make(batch_size=64, base_batch_size=16, scaling="linear")
    assert bundle.learning_rate(0) == pytest.approx(0.4)
    assert make(batch_size=64, base_batch_size=16, scaling="sqrt").learning_rate(0) == pytest.approx(0.2)
    assert make(batch_size=64).learning_rate(0) == pytest.approx(0.1)


def test_the_learning_rate_ignores_the_state_of_a_foreign_optimizer():
    bundle = make(learning_rate=schedules.reduce_on_plateau(0.1))
    assert bundle.learning_rate(3, optax.adam(0.5).init(tree(arrays(0)))) == pytest.approx(0.1)


LOSSES = [9, 9, 5, 5, 5.1, 4.9, 4.9995, 5, 6, 6, 6, 6, 6, 6, 6, 6, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2]


@pytest.mark.parametrize(("patience", "cooldown", "every"), [(0, 0, 1), (1, 2, 1), (2, 0, 2), (0, 1, 3)])
def test_the_rate_falls_when_the_loss_stops_falling(patience, cooldown, every):
    learning_rate = schedules.reduce_on_plateau(1.0, 0.5, patience, cooldown, 1e-3, 0.1, every, "steps")
    bundle = make(learning_rate=learning_rate, total_steps=len(LOSSES))
    params = tree(arrays(0))
    state = bundle.transform.init(params)
    update = jax.jit(lambda s, loss: bundle.transform.update(tree(arrays(1)), s, params, value=loss))

    rate, best, bad, cooling = 1.0, np.inf, 0, 0
    for t, loss in enumerate(LOSSES):
        assert float(bundle.learning_rate(t, state)) == pytest.approx(rate)
        updates, state = update(state, jnp.float32(loss))
        np.testing.assert_allclose(updates["zero"], -rate * arrays(1)["zero"], rtol=1e-6)
        if (t + 1) % every == 0:
            mean = np.mean(LOSSES[t + 1 - every : t + 1])
            better = mean < best * (1 - 1e-3)
            best, bad = (mean, 0) if better else (best, bad + 1)
            if cooling:
                cooling, bad = cooling - 1, 0
            if bad > patience:
                rate, cooling, bad = max(rate * 0.5, 0.1), cooldown, 0
    assert rate < 0.6


def test_rate_on_plateau_needs_the_loss():
    with pytest.raises(ValueError, match="value=loss"):
        run(make(learning_rate=schedules.reduce_on_plateau(0.1)), [tree(arrays(1))])


def rosenbrock(params):
    x, y = params["x"], params["y"]
    return (1.0 - x) ** 2 + 100.0 * (y - x**2) ** 2


def minimise(function, params, updates, optimizer=None, **settings):
    bundle = make(optimizer or optimizers.lbfgs(), schedules.constant(1.0), params, updates, **settings)

    @jax.jit
    def fit(params):
        def one(_, carry):
            params, state = carry
            value, grad = jax.value_and_grad(function)(params)
            moves, state = bundle.transform.update(grad, state, params, value=value, grad=grad, value_fn=function)
            return jax.tree.map(jnp.add, params, moves), state

        return jax.lax.fori_loop(0, updates, one, (params, bundle.transform.init(params)))[0]

    return fit(params)


def test_lbfgs_finds_the_minimum_of_the_rosenbrock_function():
    found = minimise(rosenbrock, {"x": jnp.float32(-1.2), "y": jnp.float32(1.0)}, 60)
    np.testing.assert_allclose([found["x"], found["y"]], [1.0, 1.0], atol=1e-4)


def test_lbfgs_solves_a_quadratic_in_few_updates():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(6, 6)).astype(np.float32)
    matrix, target = root @ root.T + np.eye(6, dtype=np.float32), rng.normal(size=6).astype(np.float32)
    found = minimise(lambda p: 0.5 * p @ matrix @ p - target @ p, jnp.zeros(6), 20)
    np.testing.assert_allclose(found, np.linalg.solve(matrix, target), atol=1e-4)


def test_lbfgs_leaves_frozen_parameters_alone():
    found = minimise(rosenbrock, {"x": jnp.float32(-1.2), "y": jnp.float32(4.0)}, 20, freeze=("x",))
    assert found["x"] == jnp.float32(-1.2)
    np.testing.assert_allclose(found["y"], 1.44, rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"clip_norm": 1.0}, "cannot be used with \\['clip_norm'\\]"),
        ({"rules": ({"pattern": ".*", "learning_rate": 2.0},)}, "rules with learning_rate"),
    ],
)
def test_lbfgs_refuses_what_bends_its_direction(settings, text):
    with pytest.raises(ValueError, match=text):
        make(optimizers.lbfgs(), **settings)


def test_lbfgs_says_which_arguments_it_needs():
    with pytest.raises(ValueError, match="value=, grad=, value_fn="):
        run(make(optimizers.lbfgs()), [tree(arrays(1))])


@pytest.mark.parametrize("name", ["nesterov", "adamw", "lamb"])
def test_the_update_on_eight_devices_equals_the_update_on_one(name):
    bundle = make(RULES[name][0], schedules.reduce_on_plateau(0.1, every=2, unit="steps"), clip_norm=1.0)
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()), ("batch",))
    batch = np.stack([arrays(1 + i)["block/kernel"] for i in range(8)])

    def train(params, batch, mean):
        state = bundle.transform.init(params)
        for _ in range(3):
            value = mean(jnp.sum(batch**2))
            grads = jax.tree.map(lambda p: p + mean(jnp.mean(batch)), params)
            updates, state = bundle.transform.update(grads, state, params, value=value)
            params = jax.tree.map(jnp.add, params, updates)
        return params, state

    def on_device(params, batch):
        return train(params, batch, lambda x: jax.lax.pmean(x, "batch"))

    mapped = jax.jit(jax.shard_map(on_device, mesh=mesh, in_specs=(P(), P("batch")), out_specs=P(), check_vma=True))
    many = mapped(tree(arrays(0)), batch)
    one = jax.jit(lambda p, b: train(p, b, lambda x: x))(tree(arrays(0)), batch)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), many[0], one[0])


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: make(clip_norm=0.0), "schedule.clip_norm is 0.0"),
        (lambda: make(clip_value=-1.0), "schedule.clip_value is -1.0"),
        (lambda: make(optimizers.sgd(weight_decay=-1.0)), "weight_decay is -1.0"),
        (lambda: optimizers.sgd(momentum=1.0), "momentum is 1.0"),
        (lambda: optimizers.sgd(nesterov=True), "nesterov needs a momentum"),
        (lambda: optimizers.adam(b2=1.0), "b2 is 1.0"),
        (lambda: optimizers.lbfgs(memory_size=0), "memory_size=0"),
        (lambda: make(warmup=3), "longer than the run"),
        (lambda: make(freeze=("hed/.*",)), "head/kernel"),
    ],
)
def test_wrong_arguments_are_named(build, text):
    with pytest.raises(ValueError, match=text):
        build()


def test_a_transformation_composes_with_optax():
    chain = optax.chain(make().transform, optax.scale(2.0))
    params, grads = tree(arrays(0)), tree(arrays(1))
    updates, _ = chain.update(grads, chain.init(params), params)
    np.testing.assert_allclose(updates["zero"], -0.2 * grads["zero"], rtol=1e-6)


def test_settings_are_whatever_has_the_attributes():
    fields = {field.name: getattr(OptimizerSettings(), field.name) for field in dataclasses.fields(OptimizerSettings)}
    other = dataclasses.make_dataclass("Schedule", [*fields, "epochs"])(**fields, epochs=3)
    bundle = make_optimizer(
        other,
        tree(arrays(0)),
        optimizer=optimizers.sgd(),
        learning_rate=schedules.constant(0.1),
        total_steps=3,
        steps_per_epoch=1,
        batch_size=1,
    )
    assert len(bundle.table.rows) == 4
