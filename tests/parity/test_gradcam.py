"""Class activation maps against hooks on torchvision's ResNet-18 with the same weights."""

import numpy as np
import pytest

from jaxvision.analysis.gradcam import gradcam
from jaxvision.augment import Normalize, pipeline
from jaxvision.backbones.resnet import ResNet
from jaxvision.classification.classifier import Classifier
from jaxvision.classification.task import ClassificationTask
from jaxvision.loading import Model
from tests.parity.torch_weights import load_tool, relative, to_variables

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
calibrate = load_tool("calibrate").calibrate
torchvision = load_tool("torchvision_cpu").torchvision

SIZE = (96, 96)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    model = torchvision.models.resnet18(weights=None, num_classes=10)
    calibrate(model, torch.randn(4, 3, *SIZE), seed=1)
    for module in model.modules():
        if isinstance(module, torch.nn.ReLU):
            module.inplace = False  # else what the hooks keep is overwritten
    task = ClassificationTask(Classifier(ResNet(18), 10))
    ours = Model(task, to_variables(model.state_dict()), SIZE, 3, pipeline([Normalize(MEAN, STD)]))
    return model, ours


def reference_map(model, x, module, method, target):
    """The definitions of the papers, on what hooks catch; "<name" is the input of a module."""
    kept = {}

    def keep(output):
        kept["a"] = output
        output.register_hook(lambda gradient: kept.update(g=gradient))

    layer = model.get_submodule(module.removeprefix("<"))
    if module.startswith("<"):
        handle = layer.register_forward_pre_hook(lambda m, inputs: keep(inputs[0]))
    else:
        handle = layer.register_forward_hook(lambda m, inputs, output: keep(output))
    logits = model(x)
    label = logits.argmax(1) if target is None else torch.full((len(x),), target)
    logits.gather(1, label[:, None]).sum().backward()
    handle.remove()
    a, g = kept["a"].detach(), kept["g"]
    if method == "gradcam":
        weights = g.mean((2, 3))
    elif method == "gradcam++":
        alpha = g**2 / (2 * g**2 + a.sum((2, 3), keepdim=True) * g**3)
        weights = (torch.nan_to_num(alpha) * g.relu()).sum((2, 3))
    else:
        _, _, v = torch.linalg.svd(a.flatten(2).transpose(1, 2), full_matrices=False)
        maps = torch.einsum("bchw,bc->bhw", a, v[:, 0])
        return (maps * maps.sum((1, 2), keepdim=True).sign()).relu().numpy(), label.numpy()
    return (a * weights[:, :, None, None]).sum(1).relu().numpy(), label.numpy()


@pytest.mark.parametrize(
    ("layer", "module", "method"),
    [
        ("c5", "layer4", "gradcam"),
        ("c1", "<maxpool", "gradcam"),
        ("backbone/layer2_0", "layer2.0", "gradcam"),
        ("c4", "layer3", "gradcam++"),
        ("c5", "layer4", "eigencam"),
    ],
)
def test_maps_equal_hooks(network, layer, module, method):
    model, ours = network
    images = np.random.default_rng(0).integers(0, 256, (2, *SIZE, 3), dtype=np.uint8)
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    x = (torch.tensor(images).permute(0, 3, 1, 2) / 255 - mean) / std
    target = 3 if layer == "c4" else None
    expected, label = reference_map(model, x, module, method, target)
    results = gradcam(ours, layer=layer, method=method, target=target, batch_size=2)(list(images))
    found = np.stack([result.prediction["map"] for result in results])
    assert [result.prediction["label"] for result in results] == label.tolist()
    assert relative(found, expected) <= (1e-4 if method != "eigencam" else 1e-3)
    assert np.std(expected) > 0.1 * np.mean(expected)  # a map, not a constant
    heat = np.stack([result.prediction["heat"] for result in results])
    resized = torch.nn.functional.interpolate(torch.tensor(expected)[:, None], SIZE, mode="bilinear")[:, 0]
    resized = resized / resized.amax((1, 2), keepdim=True)
    assert relative(heat, resized) <= 1e-3
