"""ResNets against torchvision and OpenMMLab: every level, logits, statistics and gradients from the same weights.

`test_zoo` holds the other forms, `zoo_errors` the other depths."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision import layers, losses
from jaxvision.backbones.resnet import LEVELS, ResNet
from jaxvision.classification.classifier import Classifier
from tests.conftest import strict
from tests.parity.torch_weights import error, load_golden, load_tool, nchw, nhwc, relative, to_variables

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
calibrate = load_tool("calibrate").calibrate
torchvision = load_tool("torchvision_cpu").torchvision


def reference(depth, size, images=4):
    """A calibrated torchvision network with its input."""
    torch.manual_seed(0)
    model = getattr(torchvision.models, f"resnet{depth}")(weights=None)
    calibrate(model, torch.randn(images, 3, size, size), seed=depth)
    return model, torch.randn(2, 3, size, size)


@torch.no_grad()
def reference_outputs(model, x):
    """Every level and the logits."""
    outputs, y = {}, model.maxpool(model.relu(model.bn1(model.conv1(x))))
    for level, stage in zip(LEVELS[1:], (model.layer1, model.layer2, model.layer3, model.layer4), strict=True):
        outputs[level] = y = stage(y)
    return {name: value.numpy() for name, value in {**outputs, "logits": model(x)}.items()}


def run(model, variables, x):
    """(logits, levels) in evaluation mode."""
    apply = lambda v, x: model.apply(v, x, method=lambda m, x: (m(x), m.backbone(x, train=False)))  # noqa: E731
    with strict():
        return jax.jit(apply)(variables, x)


@pytest.mark.parametrize("depth,size", [(18, 96), (50, 96)])
def test_levels_and_logits_equal_torchvision(depth, size):
    model, x = reference(depth, size)
    theirs, exact = reference_outputs(model, x), reference_outputs(copy.deepcopy(model).double(), x.double())
    logits, levels = run(Classifier(ResNet(depth), 1000), to_variables(model.state_dict()), nhwc(x))
    ours = {"logits": np.asarray(logits), **{level: nchw(y) for level, y in levels.items()}}
    errors = {name: error(ours[name], exact[name]) for name in exact}
    # Over 100 random layers float32 itself is off by more than 1e-4: there, torch's own error is the measure.
    allowed = {name: max(1e-4, 3 * error(theirs[name], exact[name])) for name in exact}
    print(depth, {name: f"{errors[name]:.1e} of {allowed[name]:.1e}" for name in errors})
    assert all(errors[name] <= allowed[name] for name in errors), errors
    if depth <= 50:
        assert max(error(ours[name], theirs[name]) for name in theirs) <= 1e-4


def test_the_golden_resnet50_of_openmmlab_is_reproduced():
    golden, fixture = load_golden("mmpretrain_resnet50")
    variables = to_variables(golden.state_dict(fixture), head="head.fc")
    logits, levels = run(Classifier(ResNet(50), 1000), variables, nhwc(golden.inputs(fixture)))
    outputs = {
        "backbone/0": nchw(levels["c5"]),
        "neck/0": np.asarray(levels["c5"]).mean(axis=(1, 2)),
        "head": np.asarray(logits),
    }
    assert set(outputs) == set(fixture.output_shapes)
    for name, output in outputs.items():
        difference = golden.compare(fixture, name, output)
        print(name, f"{difference:.1e}", f"allowed {golden.tolerance(fixture, name):.1e}")
        assert difference <= golden.tolerance(fixture, name)
    loss = losses.cross_entropy(logits, jnp.asarray(fixture.gt["labels"], jnp.int32)).mean()
    np.testing.assert_allclose(loss, fixture.losses["loss"], rtol=1e-3)
    np.testing.assert_allclose(jax.nn.softmax(logits), fixture.preds["scores"], atol=1e-4)


@pytest.mark.parametrize("norm", ["bn", "frozen_bn"])
def test_a_training_step_of_resnet18_equals_torch(norm):
    model, _ = reference(18, 64)
    x, labels = torch.randn(6, 3, 64, 64), torch.tensor([1, 5, 5, 999, 0, 42])
    variables = to_variables(model.state_dict())  # before the forward pass moves the statistics
    ours = Classifier(ResNet(18, norm=layers.Norm(norm)), 1000)
    model.train(norm == "bn")
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.1  # calibration leaves 1
    want = torch.nn.functional.cross_entropy(model(x), labels, label_smoothing=0.1)
    want.backward()

    @jax.jit
    def step(variables, x):
        def loss(params):
            logits, updated = ours.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
            labels_ = jnp.asarray(labels.numpy(), jnp.int32)
            return losses.cross_entropy(logits, labels_, label_smoothing=0.1).mean(), updated

        return jax.value_and_grad(loss, has_aux=True)(variables["params"])

    with strict():
        (value, updated), grads = step(variables, nhwc(x))
    np.testing.assert_allclose(value, want.item(), rtol=1e-5)

    want_stats = to_variables(model.state_dict())["batch_stats"]
    stats = jax.tree.map(relative, updated["batch_stats"], want_stats)
    assert max(jax.tree.leaves(stats)) <= 1e-5, stats
    moved = jax.tree.leaves(jax.tree.map(relative, variables["batch_stats"], want_stats))
    assert min(moved) > 1e-3 if norm == "bn" else max(moved) == 0

    want_grads = to_variables({name: p.grad.numpy() for name, p in model.named_parameters()})["params"]
    if norm == "frozen_bn":
        constant = {"scale", "bias"}
        norms = [(p, g) for p, g in jax.tree_util.tree_leaves_with_path(grads["backbone"]) if p[-1].key in constant]
        assert len(norms) == 40 and not any(np.any(g) for _, g in norms)
        keep = lambda tree: {  # noqa: E731
            jax.tree_util.keystr(p): g
            for p, g in jax.tree_util.tree_leaves_with_path(tree)
            if p[-1].key == "kernel" or p[0].key == "head"
        }
        grads, want_grads = keep(grads), keep(want_grads)
    errors = jax.tree.map(relative, grads, want_grads)
    print(f"{norm}: worst gradient {max(jax.tree.leaves(errors)):.1e}, statistics {max(jax.tree.leaves(stats)):.1e}")
    assert max(jax.tree.leaves(errors)) <= 1e-3, errors
