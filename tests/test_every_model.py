"""Every registered model and backbone: exact size, strict types, and what a JAX user does with a pure function."""

import functools
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision import config, registry
from tests.backbones.fill import fill
from tests.conftest import strict

KEY = jax.random.key(0)

FOLDER = Path(__file__).parent / "backbones"
COUNTS = json.loads((FOLDER / "parameters.json").read_text())
"""Size -> number of parameters with 1000 classes, as the reference libraries count them (see `tests/parity`)."""

FAMILIES = json.loads((FOLDER / "families.json").read_text())
"""Family -> number of parameters of its default form, without a classifier."""

MODELS = {
    "linear": ({"num_classes": 10}, (28, 28, 1), 7_850),
    "lenet5": ({"num_classes": 10}, (32, 32, 1), 61_706),
    **{name: ({"num_classes": 1000}, (224, 224, 3), count) for name, count in COUNTS.items()},
}
"""Name -> arguments, an image and the number of parameters, for every registered model."""

BACKBONES = {
    "flatten": ({}, (28, 28, 1), 0),
    "lenet5": ({}, (32, 32, 1), 60_856),
    **{name: ({}, (224, 224, 3), count) for name, count in FAMILIES.items()},
}
"""The same for every registered backbone that is not a size of a family."""

REGISTERED = {kind: set(registry.names(kind)) for kind in ("model", "backbone")}
"""Before any other test of this process registers one of its own."""

TWO_STAGES = {"depth": 14, "width": 8, "out_levels": ("c2", "c3")}


def smallest_sizes():
    """The smallest model of each family, in the tiny form of its row."""
    seen = {}
    for name in sorted(COUNTS, key=COUNTS.__getitem__):
        preset = registry.lookup("model", name).preset["backbone"]
        entry = registry.lookup("backbone", preset["name"])
        seen.setdefault(entry.address, (name, {"backbone": dict(entry.smoke)}))
    return dict(seen.values())


SMALL = {
    "linear": ({}, (8, 8, 1)),
    "lenet5": ({}, (32, 32, 1)),
    **{name: (arguments, (64, 64, 3)) for name, arguments in smallest_sizes().items()},
    "resnet18": ({"backbone": {"width": 8, "stem": "cifar"}}, (16, 16, 3)),
    "resnext50d_32x4d": ({"backbone": {**TWO_STAGES, "width": 16, "groups": 4, "width_per_group": 16}}, (32, 32, 3)),
}
"""What is really computed: each family, and each kind of block of ResNet, in a small form."""


def test_no_model_or_backbone_is_left_out():
    several_heads = {"multi_head"}  # tests/classification/test_multi_task.py
    # Of tests/detection/test_every_detector.py and tests/segmentation/test_every_segmentor.py.
    counted_apart = ("jaxvision.detection.", "jaxvision.segmentation.")
    apart = {name for name in REGISTERED["model"] if registry.lookup("model", name).address.startswith(counted_apart)}
    assert {*MODELS, *several_heads, *apart} == REGISTERED["model"]
    bases = ("deeplab_vgg", "fcn_vgg", "ssd_vgg", "unet")  # detectors and segmenters alone take them
    own = ("jaxvision.detection.", *(f"jaxvision.backbones.{name}:" for name in bases))
    of_detectors = {
        name for name in REGISTERED["backbone"] if registry.lookup("backbone", name).address.startswith(own)
    }
    assert {*BACKBONES, *COUNTS, *of_detectors} == REGISTERED["backbone"]
    backbones = (registry.lookup("model", name).preset["backbone"]["name"] for name in SMALL)
    used = {registry.lookup("backbone", name).address for name in backbones}
    every = {registry.lookup("backbone", name).address for name in BACKBONES}
    assert used == every, "a backbone without a small form is computed nowhere"


def build(kind, name, arguments):
    return config.build(kind, {"name": name, **arguments})


COUNTED_UP_TO = 40_000_000
"""Parameters up to which models are counted here; `tests/parity/test_zoo` compares names and shapes of all of them."""


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *(("model", name) for name, (_, _, count) in MODELS.items() if count <= COUNTED_UP_TO),
        *(("backbone", name) for name in BACKBONES),
    ],
)
def test_number_of_parameters(kind, name):
    arguments, shape, parameters = {"model": MODELS, "backbone": BACKBONES}[kind][name]
    model, again = (build(kind, name, arguments) for _ in range(2))
    assert model == again and hash(model) == hash(again)
    images = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    trained = jax.eval_shape(lambda x: model.init(KEY, x, train=False), images).get("params", {})
    assert sum(p.size for p in jax.tree.leaves(trained)) == parameters
    if kind == "model":
        heads = {part for part in trained if re.fullmatch(r"head(_\w+)?", part)}
        assert set(trained) <= {"backbone", *heads} and "head" in heads
        assert all(set(trained[head]) == {"kernel", "bias"} for head in heads)


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


QUICK = ("linear", "lenet5", "resnet18", "shufflenet_v2_x0_5", "deit_tiny_patch16_224", "mixer_s16_224")


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in SMALL])
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


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_per_example_gradients_and_hessian_products(name, unoptimized):
    model, variables, images = small(name)
    one_size = "mixer" in name or name == "alexnet"  # AlexNet's unpadded poolings leave nothing of less
    images = images[:2] if one_size else images[:2, :32, :32]
    rest = {name: value for name, value in variables.items() if name != "params"}
    rng = np.random.default_rng(1)
    directions = jax.tree.map(
        lambda p: jnp.asarray(rng.standard_normal((2, *p.shape), np.float32)) * jnp.std(p), variables["params"]
    )

    @jax.jit
    def everything(params):
        def loss(params, images):
            return jnp.mean(jnp.square(model.apply({"params": params, **rest}, images)))

        def product(direction):
            return jax.jvp(jax.grad(lambda p: loss(p, images)), (params,), (direction,))

        each = jax.vmap(lambda image: jax.grad(loss)(params, image[None]))(images)
        return each, *jax.vmap(product)(directions)

    with strict():
        each, mean, products = everything(variables["params"])
    for a, b in zip(jax.tree.leaves(each), jax.tree.leaves(mean), strict=True):
        np.testing.assert_allclose(a.mean(0), b[0], rtol=1e-3, atol=1e-4 * float(jnp.abs(b).max()) + 1e-6)
    first, second = (
        sum(jnp.vdot(a[i], b[1 - i]) for a, b in zip(*map(jax.tree.leaves, (products, directions)), strict=True))
        for i in range(2)
    )
    assert jnp.isfinite(first) and abs(first - second) <= 1e-2 * max(abs(first), abs(second), 1e-3), (first, second)
