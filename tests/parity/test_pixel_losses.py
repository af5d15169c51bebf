"""Losses of label maps against segmentation-models: values and slopes, with ignored pixels and absent classes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.losses import pixels
from tests.conftest import strict
from tests.parity.torch_weights import load_tool

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
load_tool("torchvision_cpu")
smp = pytest.importorskip("segmentation_models_pytorch").losses

SHAPE, CLASSES = (2, 9, 11), 5
WITH = {"mode": "multiclass", "ignore_index": 255}
CASES = {
    "dice": (pixels.Dice(), lambda: smp.DiceLoss(**WITH)),
    "dice of some": (
        pixels.Dice(smooth=2.0, log=True, classes=(0, 2)),
        lambda: smp.DiceLoss(smooth=1.0, log_loss=True, classes=[0, 2], **WITH),
    ),
    "jaccard": (pixels.Jaccard(), lambda: smp.JaccardLoss(**WITH)),
    "tversky": (
        pixels.Tversky(alpha=0.3, beta=0.7, gamma=0.75),
        lambda: smp.TverskyLoss(alpha=0.3, beta=0.7, gamma=0.75, **WITH),
    ),
    "lovasz": (pixels.Lovasz(), lambda: smp.LovaszLoss(**WITH)),
    "lovasz per image": (pixels.Lovasz(per_image=True), lambda: smp.LovaszLoss(per_image=True, **WITH)),
    "focal": (pixels.Focal(), lambda: smp.FocalLoss(**WITH)),
    "focal with alpha": (pixels.Focal(alpha=0.25, gamma=1.5), lambda: smp.FocalLoss(alpha=0.25, gamma=1.5, **WITH)),
    "cross-entropy": (pixels.CrossEntropy(), lambda: torch.nn.CrossEntropyLoss(ignore_index=255)),
    "cross-entropy of all": (
        pixels.CrossEntropy(count_ignored=True),
        lambda: lambda x, y: torch.nn.functional.cross_entropy(x, y, ignore_index=255, reduction="none").mean(),
    ),
}


@functools.partial(jax.jit, static_argnums=0)
def ours_and_slopes(loss, logits, labels):
    def quotient(x):
        total, count = loss(x, labels, jnp.ones(SHAPE[0], bool))
        return total / count

    return jax.value_and_grad(quotient)(logits)


@pytest.mark.parametrize("kind", ["mixed", "one class"])
@pytest.mark.parametrize("name", sorted(CASES))
def test_values_and_slopes(name, kind):
    ours, make = CASES[name]
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 2, (*SHAPE, CLASSES)).astype(np.float32)
    labels = rng.integers(0, CLASSES - 1, SHAPE) if kind == "mixed" else np.ones(SHAPE, np.int64)
    labels[rng.random(SHAPE) < 0.2] = 255
    x = torch.from_numpy(logits.transpose(0, 3, 1, 2).copy()).requires_grad_()
    want = make()(x, torch.from_numpy(labels))
    want.backward()
    expected, theirs = want.detach().item(), x.grad.numpy().transpose(0, 2, 3, 1)
    with strict():
        found, slopes = ours_and_slopes(ours, jnp.asarray(logits), jnp.asarray(labels, jnp.int32))
    print(name, kind, float(found), expected, "slopes", np.abs(slopes - theirs).max(), np.abs(theirs).max())
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(slopes, theirs, rtol=1e-4, atol=2e-7)
