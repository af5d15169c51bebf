"""LeNet-5 against OpenMMLab's recorded outputs, and its gradients against the same network in torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision import losses
from jaxvision.backbones.lenet import LeNet5
from jaxvision.classification.classifier import Classifier
from tests.conftest import strict
from tests.parity.torch_weights import load_golden, nhwc, relative, to_variables

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")

MODEL = Classifier(LeNet5(), 10)
HEAD = "backbone.classifier.2"


def test_the_golden_lenet5_of_openmmlab_is_reproduced():
    golden, fixture = load_golden("mmpretrain_lenet5")
    variables = to_variables(golden.state_dict(fixture), head=HEAD)
    with strict():
        logits = MODEL.apply(variables, nhwc(golden.inputs(fixture)))
    for name in fixture.output_shapes:  # backbone, neck and head all pass the logits on
        difference = golden.compare(fixture, name, logits)
        print(name, f"{difference:.1e}", f"allowed {golden.tolerance(fixture, name):.1e}")
        assert difference <= golden.tolerance(fixture, name)
    loss = losses.cross_entropy(logits, jnp.asarray(fixture.gt["labels"], jnp.int32)).mean()
    np.testing.assert_allclose(loss, fixture.losses["loss"], rtol=1e-5)
    np.testing.assert_allclose(jax.nn.softmax(logits), fixture.preds["scores"], atol=1e-5)


class TorchLeNet5(torch.nn.Module):
    """The reference's layers under its names, for gradients and initial weights."""

    def __init__(self):
        super().__init__()
        nn = torch.nn
        self.backbone = nn.Module()
        self.backbone.features = nn.Sequential(
            *(nn.Conv2d(1, 6, 5), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2)),
            *(nn.Conv2d(16, 120, 5), nn.Tanh()),
        )
        self.backbone.classifier = nn.Sequential(nn.Linear(120, 84), nn.Tanh(), nn.Linear(84, 10))

    def forward(self, x):
        return self.backbone.classifier(self.backbone.features(x).flatten(1))


def test_gradients_of_the_cross_entropy_equal_torch():
    torch.manual_seed(0)
    model, x, labels = TorchLeNet5(), torch.randn(8, 1, 32, 32), torch.arange(8)
    want = torch.nn.functional.cross_entropy(model(x), labels)
    want.backward()

    def loss(params):
        logits = MODEL.apply({"params": params}, nhwc(x), train=True)
        return losses.cross_entropy(logits, jnp.asarray(labels.numpy(), jnp.int32)).mean()

    with strict():
        value, grads = jax.jit(jax.value_and_grad(loss))(to_variables(model.state_dict(), head=HEAD)["params"])
    np.testing.assert_allclose(value, want.item(), rtol=1e-6)
    want_grads = to_variables({name: p.grad for name, p in model.named_parameters()}, head=HEAD)["params"]
    errors = jax.tree.map(relative, grads, want_grads)
    assert max(jax.tree.leaves(errors)) <= 1e-4, errors


def test_initial_weights_have_the_spread_of_torch():
    torch.manual_seed(0)
    theirs = to_variables(TorchLeNet5().state_dict(), head=HEAD)["params"]
    ours = MODEL.init(jax.random.key(0), jnp.zeros((1, 32, 32, 1)))["params"]
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(ours), jax.tree.leaves(theirs), strict=True):
        assert a.shape == b.shape
        if a.size > 1000:
            np.testing.assert_allclose(a.std(), b.std(), rtol=0.05, err_msg=str(path))
            np.testing.assert_allclose(jnp.abs(a).max(), jnp.abs(b).max(), rtol=0.02, err_msg=str(path))
