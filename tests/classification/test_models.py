"""Classifiers: the head, precision, dropout, and that they can learn. Sizes: tests/test_every_model.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision import losses
from jaxvision.backbones.lenet import LeNet5
from jaxvision.backbones.resnet import ResNet
from jaxvision.classification.classifier import Classifier
from jaxvision.classification.linear import Flatten
from tests.backbones.fill import fill
from tests.conftest import strict

KEY = jax.random.key(0, impl="rbg")  # compiles several times faster than the default


def random(shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32))


def test_batch_statistics_of_a_bfloat16_step_are_float32_and_agree():
    model = Classifier(ResNet(18, stem="cifar"), 10)
    x = random((4, 32, 32, 3))
    variables = fill(model, x)

    @jax.jit
    def run(variables, x):
        return model.apply(variables, x, train=True, mutable=["batch_stats"])

    with strict():
        half, half_stats = run(variables, x.astype(jnp.bfloat16))
        full, full_stats = run(variables, x)
    assert half.dtype == jnp.bfloat16 and full.dtype == jnp.float32
    assert jnp.linalg.norm(half.astype(jnp.float32) - full) <= 3e-2 * jnp.linalg.norm(full)
    assert {s.dtype for s in jax.tree.leaves(half_stats)} <= {jnp.dtype("float32")}
    for a, b in zip(jax.tree.leaves(half_stats), jax.tree.leaves(full_stats), strict=True):
        assert jnp.linalg.norm(a - b) <= 3e-2 * jnp.linalg.norm(b)


def test_a_bare_array_stands_for_an_image_and_features_are_what_the_head_sees():
    model = Classifier(ResNet(18, stem="cifar", width=4), 5)
    x = random((2, 16, 16, 3))
    variables = fill(model, x)

    @jax.jit
    def run(variables):
        of_backbone = {collection: tree["backbone"] for collection, tree in variables.items()}
        logits = model.apply(variables, {"image": x}, targets={"label": None}), model.apply(variables, x)
        levels = model.backbone.apply(of_backbone, x, train=False)
        return *logits, model.apply(variables, x, method="features"), levels

    logits, from_array, features, levels = run(variables)
    np.testing.assert_array_equal(logits, from_array)
    np.testing.assert_allclose(features, levels["c5"].mean(axis=(1, 2)), atol=1e-6)
    head = variables["params"]["head"]
    np.testing.assert_allclose(logits, features @ head["kernel"] + head["bias"], atol=1e-5)


def test_dropout_acts_in_training_only():
    model = Classifier(Flatten(), 3, dropout=0.5)
    x = random((4, 5, 5, 1))
    with strict():
        variables = fill(model, x)
        a, b = (model.apply(variables, x, train=True, rngs={"dropout": jax.random.key(i)}) for i in (1, 2))
        half = model.apply(variables, x.astype(jnp.bfloat16), train=True, rngs={"dropout": KEY})
    assert not np.allclose(a, b) and half.dtype == jnp.bfloat16
    plain = Classifier(Flatten(), 3)
    np.testing.assert_array_equal(model.apply(variables, x), plain.apply(variables, x))


@pytest.mark.parametrize("backbone,rate", [(Flatten(), 0.01), (LeNet5(), 1.0)], ids=["linear", "lenet5"])
def test_a_few_steps_of_gradient_descent_reduce_the_loss(backbone, rate):
    model = Classifier(backbone, 3)
    x, labels = random((6, 32, 32, 1)), jnp.arange(6) % 3

    @jax.jit
    def step(variables):
        loss, grads = jax.value_and_grad(lambda v: losses.cross_entropy(model.apply(v, x), labels).mean())(variables)
        return loss, jax.tree.map(lambda v, g: v - rate * g, variables, grads)

    variables, history = jax.jit(model.init)(KEY, x), []
    for _ in range(10):
        loss, variables = step(variables)
        history.append(float(loss))
    assert np.isfinite(history).all() and history[-1] < 0.8 * history[0]
