"""Losses against torch.nn.functional and torchvision.ops.sigmoid_focal_loss: values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision import losses
from tests.conftest import strict
from tests.parity.torch_weights import load_tool

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
F = torch.nn.functional

RNG = np.random.default_rng(0)


def check(ours, theirs, logits, rtol=1e-5):
    """Equal values per sample, and equal gradients of their sum."""
    x = torch.from_numpy(logits).requires_grad_()
    want = theirs(x)
    want.sum().backward()
    with strict():
        values = ours(jnp.asarray(logits))
        grad = jax.grad(lambda x: ours(x).sum())(jnp.asarray(logits))
    np.testing.assert_allclose(values, want.detach(), rtol=rtol, atol=1e-6)
    np.testing.assert_allclose(grad, x.grad, rtol=rtol, atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("spread", [1.0, 1e4])
def test_cross_entropy_of_labels_with_ignored_ones_and_of_probabilities(smoothing, weighted, spread):
    logits = (spread * RNG.standard_normal((12, 5))).astype(np.float32)
    weights = RNG.uniform(0.2, 2, 5).astype(np.float32) if weighted else None
    ours = {"label_smoothing": smoothing, "class_weights": None if weights is None else jnp.asarray(weights)}
    theirs = {"label_smoothing": smoothing, "weight": None if weights is None else torch.from_numpy(weights)}
    for ignore in (-100, 255):
        labels = RNG.integers(0, 5, 12)
        labels[::4] = ignore
        check(
            lambda x, y=labels, i=ignore: losses.cross_entropy(x, jnp.asarray(y, jnp.int32), ignore_index=i, **ours),
            lambda x, y=labels, i=ignore: F.cross_entropy(
                x, torch.from_numpy(y), reduction="none", ignore_index=i, **theirs
            ),
            logits,
        )
    soft = RNG.dirichlet(np.ones(5), 12).astype(np.float32)
    check(
        lambda x: losses.cross_entropy(x, jnp.asarray(soft), **ours),
        lambda x: F.cross_entropy(x, torch.from_numpy(soft), reduction="none", **theirs),
        logits,
    )


def test_the_mean_over_labels_that_are_not_ignored_is_torchs_mean():
    logits, labels = RNG.standard_normal((2, 4, 6, 5), np.float32), RNG.integers(0, 5, (2, 4, 6))
    labels[:, 0] = 255
    values = losses.cross_entropy(jnp.asarray(logits), jnp.asarray(labels), ignore_index=255)
    total, count = losses.weighted_sum(values, jnp.asarray(labels != 255))
    want = F.cross_entropy(torch.from_numpy(logits).movedim(-1, 1), torch.from_numpy(labels), ignore_index=255)
    np.testing.assert_allclose(total / count, want.item(), rtol=1e-6)


@pytest.mark.parametrize("spread", [1.0, 1e4])
def test_binary_cross_entropy(spread):
    logits = (spread * RNG.standard_normal((8, 5))).astype(np.float32)
    targets = RNG.uniform(size=(8, 5)).round(1).astype(np.float32)
    check(
        lambda x: losses.binary_cross_entropy(x, jnp.asarray(targets)),
        lambda x: F.binary_cross_entropy_with_logits(x, torch.from_numpy(targets), reduction="none"),
        logits,
    )


@pytest.mark.parametrize("alpha,gamma", [(0.25, 2.0), (0.5, 1.5), (None, 2.0), (0.25, 0.0)])
def test_focal(alpha, gamma):
    focal = load_tool("torchvision_cpu").torchvision.ops.sigmoid_focal_loss
    logits, targets = 3 * RNG.standard_normal((8, 5), np.float32), RNG.integers(0, 2, (8, 5)).astype(np.float32)
    check(
        lambda x: losses.focal(x, jnp.asarray(targets), alpha=alpha, gamma=gamma),
        lambda x: focal(x, torch.from_numpy(targets), alpha=-1 if alpha is None else alpha, gamma=gamma),
        logits,
        rtol=1e-4,
    )
