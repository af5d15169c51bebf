"""Losses of the classification tasks against timm's BinaryCrossEntropy and torch: values and gradients."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.classification.distillation import DistillationTask
from jaxvision.classification.task import ClassificationTask
from jaxvision.engine.task import Context
from tests.classification.test_task import Linear, make_batch

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
F = torch.nn.functional
RNG = np.random.default_rng(0)


def timm_file(name):
    """A module of timm that needs torch alone; importing timm itself needs torchvision's operators."""
    folder = Path(importlib.util.find_spec("timm").origin).parent
    spec = importlib.util.spec_from_file_location(f"timm_{name}", folder / "loss" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


BCE = timm_file("binary_cross_entropy").BinaryCrossEntropy


@pytest.mark.parametrize("threshold", [None, 0.0, 0.2, 0.5])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_binary_cross_entropy_of_labels_and_mixtures_is_timms(threshold, smoothing):
    task = ClassificationTask(Linear(), "binary_cross_entropy", label_smoothing=smoothing, target_threshold=threshold)
    logits = RNG.normal(scale=3, size=(10, 6)).astype(np.float32)
    labels = RNG.integers(0, 6, 10)
    shares = RNG.uniform(0, 1, (10, 1))
    rows = (shares * np.eye(6)[labels] + (1 - shares) * np.eye(6)[labels[::-1]]).astype(np.float32)
    # timm smooths mixtures where it makes them (`mixup_target`), labels in the loss
    smoothed = ((1 - smoothing) * rows + smoothing / 6).astype(np.float32)
    for ours, theirs, mixed in ((labels.astype(np.int32), labels, False), (rows, smoothed, True)):
        x = torch.from_numpy(logits).requires_grad_()
        want = BCE(smoothing, target_threshold=threshold)(x, torch.from_numpy(theirs))
        want.backward()

        def mean(logits, ours=ours, mixed=mixed):
            return jnp.mean(task.sample_losses(logits, jnp.asarray(ours), mixed=mixed)[0])

        value, grad = jax.value_and_grad(mean)(jnp.asarray(logits))
        np.testing.assert_allclose(value, want.detach(), rtol=1e-5)
        np.testing.assert_allclose(grad, x.grad, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("form, temperature", [("hard", 1.0), ("soft", 1.0), ("soft", 3.0)])
def test_the_teachers_loss_is_that_of_torch(form, temperature):
    """The forms of DeiT's losses.py, with the mean over images (`batchmean`) of Hinton et al."""
    task = DistillationTask(Linear(), teacher=Linear(), form=form, weight=0.3, temperature=temperature)
    batch = {**make_batch(), "valid": jnp.ones(8, bool)}
    variables = task.init(jax.random.key(0), batch)
    collections = {name: value for name, value in variables.items() if name != "params"}
    loss, aux = task.loss(variables["params"], collections, batch, Context(train=True))

    images = torch.from_numpy(np.array(batch["image"]).reshape(8, -1))
    own, taught = (
        images @ torch.from_numpy(np.array(params["kernel"]))
        for params in (variables["params"], variables["params"]["teacher"])
    )
    labels = torch.from_numpy(np.asarray(batch["label"]).astype(np.int64))
    base = F.cross_entropy(own, labels)
    if form == "hard":
        teachers = F.cross_entropy(own, taught.argmax(dim=1))
    else:
        logs = [F.log_softmax(x / temperature, dim=1) for x in (own, taught)]
        teachers = F.kl_div(*logs, reduction="batchmean", log_target=True) * temperature**2
    np.testing.assert_allclose(loss, 0.7 * base + 0.3 * teachers, rtol=1e-5)
    for name, want in (("label_loss", base), ("teacher_loss", teachers)):
        total, count = aux.metrics[name]
        np.testing.assert_allclose(total / count, want, rtol=1e-5)
