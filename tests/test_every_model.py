"""Every registered model and backbone: exact size, strict types, and what a JAX user does with a pure function."""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision import config, registry
from tests.backbones.fill import fill
from tests.conftest import strict

KEY = jax.random.key(0)

COUNTS = json.loads((Path(__file__).parent / "backbones" / "parameters.json").read_text())
"""Size -> number of parameters with 1000 classes, as the reference libraries count them (see `tests/parity`)."""

MODELS = {
    "linear": ({"num_classes": 10}, (28, 28, 1), 7_850),
    "lenet5": ({"num_classes": 10}, (32, 32, 1), 61_706),
    **{name: ({"num_classes": 1000}, (64, 64, 3), count) for name, count in COUNTS.items()},
}
"""Name -> arguments, an image and the number of parameters, for every registered model."""

BACKBONES = {
    "flatten": ({}, (28, 28, 1), 0),
    "lenet5": ({}, (32, 32, 1), 60_856),
    "resnet": ({}, (224, 224, 3), 23_508_032),
    "senet": ({}, (224, 224, 3), 26_039_024),
    "resnest": ({}, (224, 224, 3), 25_434_240),
}
"""The same for every registered backbone that is not a size of a family."""

REGISTERED = {kind: set(registry.names(kind)) for kind in ("model", "backbone")}
"""Before any other test of this process registers one of its own."""

TWO_STAGES = {"depth": 14, "width": 8, "out_levels": ("c2", "c3")}

SMALL = {
    "linear": ({}, (8, 8, 1)),
    "lenet5": ({}, (32, 32, 1)),
    "resnet18": ({"backbone": {"width": 8, "stem": "cifar"}}, (16, 16, 3)),
    "resnet50": ({"backbone": {"width": 8}}, (64, 64, 3)),
    "resnext50d_32x4d": ({"backbone": {**TWO_STAGES, "width": 16, "groups": 4, "width_per_group": 16}}, (32, 32, 3)),
    "seresnet18": ({"backbone": {**TWO_STAGES, "depth": 10, "stem": "cifar"}}, (16, 16, 3)),
    "resnest14d": ({"backbone": {**TWO_STAGES, "stem": "cifar"}}, (16, 16, 3)),
}
"""What is really computed: each backbone, and each kind of block of ResNet, in a small form."""


def test_no_model_or_backbone_is_left_out():
    assert set(MODELS) == REGISTERED["model"]
    assert {*BACKBONES, *COUNTS} == REGISTERED["backbone"]
    backbones = (registry.lookup("model", name).preset["backbone"]["name"] for name in SMALL)
    used = {registry.lookup("backbone", name).address for name in backbones}
    every = {registry.lookup("backbone", name).address for name in BACKBONES}
    assert used == every, "a backbone without a small form is computed nowhere"


def build(kind, name, arguments):
    return config.build(kind, {"name": name, **arguments})


@pytest.mark.parametrize(
    ("kind", "name"), [*(("model", name) for name in MODELS), *(("backbone", name) for name in BACKBONES)]
)
def test_number_of_parameters(kind, name):
    arguments, shape, parameters = {"model": MODELS, "backbone": BACKBONES}[kind][name]
    model, again = (build(kind, name, arguments) for _ in range(2))
    assert model == again and hash(model) == hash(again)
    images = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    trained = jax.eval_shape(lambda x: model.init(KEY, x, train=False), images).get("params", {})
    assert sum(p.size for p in jax.tree.leaves(trained)) == parameters
    if kind == "model":
        assert set(trained) <= {"backbone", "head"} and set(trained["head"]) == {"kernel", "bias"}


@pytest.mark.parametrize(
    ("kind", "name"), [*(("model", name) for name in SMALL), *(("backbone", n) for n in BACKBONES)]
)
def test_types_at_full_size(kind, name):
    arguments, shape, _ = {"model": MODELS, "backbone": BACKBONES}[kind][name]
    model, again = (build(kind, name, arguments) for _ in range(2))
    images = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    with strict():
        outputs, variables = jax.eval_shape(lambda x: model.init_with_output(KEY, x, train=False), images)
    assert {v.dtype for v in jax.tree.leaves(variables)} <= {jnp.dtype("float32")}
    if kind == "model":
        assert outputs.shape == (2, arguments["num_classes"])

    traces = []

    @functools.partial(jax.jit, static_argnums=0)
    def forward(model, variables, images):
        traces.append(model)
        return model.apply(variables, images, train=True, mutable=["batch_stats"])

    half = jax.ShapeDtypeStruct(images.shape, jnp.bfloat16)
    with strict():
        for own in (model, again):
            trained_outputs, stats = forward.eval_shape(own, variables, half)
    assert len(traces) == 1, "equal modules are one static argument"
    assert jax.tree.map(lambda x: x.shape, trained_outputs) == jax.tree.map(lambda x: x.shape, outputs)
    assert {x.dtype for x in jax.tree.leaves(trained_outputs)} == {jnp.dtype("bfloat16")}
    assert {s.dtype for s in jax.tree.leaves(stats)} <= {jnp.dtype("float32")}


def small(name):
    """Model, numpy-drawn variables and images of a small form."""
    arguments, shape = SMALL[name]
    model = build("model", name, {"num_classes": 5, **arguments})
    images = jnp.asarray(np.random.default_rng(0).standard_normal((4, *shape), np.float32))
    return model, fill(model, images), images


@pytest.mark.parametrize("name", SMALL)
def test_bfloat16_agrees_with_float32(name, unoptimized):
    model, variables, images = small(name)

    @jax.jit
    def run(variables, images):
        return model.apply(variables, images), model.apply(variables, images.astype(jnp.bfloat16))

    with strict():
        full, half = run(variables, images)
    assert full.shape == (4, 5) and full.dtype == jnp.float32 and half.dtype == jnp.bfloat16
    assert jnp.linalg.norm(half.astype(jnp.float32) - full) <= 3e-2 * jnp.linalg.norm(full)


@pytest.mark.parametrize("name", ["linear", "lenet5", "resnet18", "seresnet18", "resnest14d"])
def test_grad_jvp_checkpoint_and_vmap_over_parameters_agree(name, unoptimized):
    model, variables, images = small(name)
    params = variables["params"]
    rest = {name: value for name, value in variables.items() if name != "params"}
    two = jax.tree.map(lambda p: jnp.stack([p, 0.9 * p]), params)

    @jax.jit
    def everything(params, two):
        def forward(params):
            return model.apply({"params": params, **rest}, images, train=True, mutable=["batch_stats"])[0]

        def loss(params):
            return jnp.mean(jnp.square(forward(params)))

        slope = jax.jvp(loss, (params,), (params,))[1]
        return jax.grad(loss)(params), jax.grad(jax.checkpoint(loss))(params), slope, jax.vmap(loss)(two), loss(params)

    with strict():
        grads, again, slope, losses, value = everything(params, two)
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(again), strict=True):
        assert jnp.isfinite(a).all() and jnp.any(a != 0)
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
    by_grad = sum(jnp.vdot(g, p) for g, p in zip(jax.tree.leaves(grads), jax.tree.leaves(params), strict=True))
    np.testing.assert_allclose(slope, by_grad, rtol=1e-3)
    np.testing.assert_allclose(losses[0], value, rtol=1e-4)
    assert abs(losses[1] - losses[0]) > 1e-3 * losses[0]
