"""One training step of a family against torch: the loss, the moved statistics and the gradient of every parameter."""

import copy

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import torch

from jaxvision import losses
from jaxvision.classification.classifier import Classifier
from jaxvision.layers.activations import ACTIVATIONS
from tests.conftest import strict
from tests.parity import zoo
from tests.parity.torch_weights import nhwc, relative

LABELS = (1, 5, 5, 999, 0, 42)


SMOOTH = {
    torch.nn.ReLU: torch.nn.Softplus,
    torch.nn.ReLU6: torch.nn.Softplus,
    torch.nn.LeakyReLU: torch.nn.Softplus,
    torch.nn.Hardswish: torch.nn.SiLU,
    torch.nn.Hardsigmoid: torch.nn.Sigmoid,
}
OURS = {
    "relu": jax.nn.softplus,
    "relu6": jax.nn.softplus,
    "hard_swish": jax.nn.silu,
    "hard_sigmoid": jax.nn.sigmoid,
}
"""What stands for an activation with kinks, there and in `layers.activations`."""


def smooth(model: torch.nn.Module, keep: str) -> None:
    """Replaces every activation with kinks but those whose name ends in `keep`.

    Rounding flips a few of a million units, and one flip moves a gradient by a thousandth: with ReLU, gradients cannot
    be compared more finely than that.
    """
    for name, module in list(model.named_modules()):
        if type(module) in SMOOTH and not name.endswith(keep):
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, SMOOTH[type(module)]())


def torch_step(model, ours, reference, x):
    """Loss, gradients and moved statistics, the last two in our tree."""
    model.train()
    loss = torch.nn.functional.cross_entropy(model(x), torch.tensor(LABELS))
    loss.backward()
    grads = {name: p.grad for name, p in model.named_parameters()}
    grads = zoo.variables_of(ours, reference, grads, collections=("params",))["params"]
    return loss.item(), grads, zoo.variables_of(ours, reference, model.state_dict()).get("batch_stats", {})


def check_training_step(backbone, reference, monkeypatch, *, size: int = 64, keep: str = ".se.act") -> float:
    """Asserts that a step from the same weights agrees to 1e-4 (or three times torch's own rounding); the worst error.

    A gradient's error is relative to its norm, or to a thousandth of the whole gradient's where that is more: a bias in
    front of batch norm has the gradient 0.
    """
    model, _ = zoo.calibrated(reference, size)
    smooth(model, keep)
    monkeypatch.setattr(nn, "relu", jax.nn.softplus)
    monkeypatch.setattr(nn, "leaky_relu", lambda x, slope: jax.nn.softplus(x))
    for name, function in OURS.items():
        monkeypatch.setitem(ACTIVATIONS, name, function)
    x = torch.randn(len(LABELS), 3, size, size)
    ours = Classifier(backbone, 1000)
    variables = zoo.variables_of(ours, reference, model.state_dict())
    with jax.enable_x64(True):
        exact_loss, exact, exact_stats = torch_step(copy.deepcopy(model).double(), ours, reference, x.double())
    _, theirs, _ = torch_step(model, ours, reference, x)

    @jax.jit
    def step(variables, x):
        def loss(params):
            given = {**variables, "params": params}
            logits, updated = ours.apply(given, x, train=True, mutable=["batch_stats"])
            return losses.cross_entropy(logits, jnp.array(LABELS, jnp.int32)).mean(), updated.get("batch_stats", {})

        return jax.value_and_grad(loss, has_aux=True)(variables["params"])

    with strict():
        (value, stats), grads = step(variables, nhwc(x))
    np.testing.assert_allclose(value, exact_loss, rtol=1e-4)
    moved = jax.tree.leaves(jax.tree.map(relative, variables.get("batch_stats", {}), exact_stats))
    assert min(moved, default=1) > 1e-3, "the statistics have not moved"
    errors = jax.tree.leaves(jax.tree.map(relative, stats, exact_stats))
    assert max(errors, default=0) <= 1e-4, errors

    floor = 1e-3 * np.sqrt(sum(np.sum(np.square(np.asarray(g))) for g in jax.tree.leaves(exact)))

    def error(a, b):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        return np.linalg.norm(a - b) / max(np.linalg.norm(b), floor)

    errors = jax.tree.map(error, grads, exact)
    allowed = jax.tree.map(lambda a, b: max(1e-4, 3 * error(a, b)), theirs, exact)
    wrong = jax.tree.map(lambda e, most: e > most, errors, allowed)
    assert not any(jax.tree.leaves(wrong)), (errors, allowed)
    return max(jax.tree.leaves(errors))
