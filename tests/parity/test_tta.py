"""Test-time augmentation against ttach, around the same weights: torchvision's ResNet-18, and a small segmenter."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision import layers
from jaxvision.backbones.resnet import ResNet
from jaxvision.classification.classifier import Classifier
from jaxvision.classification.task import ClassificationTask
from jaxvision.engine.task import Context, Task
from jaxvision.engine.tta import TTA, TTATask, five_crop, ten_crop
from tests.conftest import strict
from tests.parity.torch_weights import load_tool, nchw, nhwc, relative, to_variables

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
ttach = pytest.importorskip("ttach")
calibrate = load_tool("calibrate").calibrate
torchvision = load_tool("torchvision_cpu").torchvision

D4 = [ttach.HorizontalFlip(), ttach.Rotate90([0, 90, 180, 270])]
CASES = {
    "hflip": (TTA(flips=("horizontal",)), [ttach.HorizontalFlip()]),
    "flip": (TTA(flips=("horizontal", "vertical")), [ttach.HorizontalFlip(), ttach.VerticalFlip()]),
    "d4": (TTA(flips=("horizontal",), rotations=(90, 180, 270)), D4),
    "nearest scales": (TTA(scales=(0.5, 1.5), method="nearest"), [ttach.Scale([0.5, 1.5])]),
    "scales": (TTA(scales=(0.5, 1.5)), [ttach.Scale([0.5, 1.5], "bilinear", False)]),
    "aligned scales": (TTA(scales=(2.0,), align_corners=True), [ttach.Scale([2.0], "bilinear", True)]),
    "pixels": (TTA(factors=(0.9, 1.1), offsets=(-0.2, 0.1)), [ttach.Multiply([0.9, 1.1]), ttach.Add([-0.2, 0.1])]),
    "all": (
        TTA(flips=("horizontal",), rotations=(90,), scales=(1.5,), factors=(1.2,)),
        [ttach.HorizontalFlip(), ttach.Rotate90([90]), ttach.Scale([1.5], "bilinear", False), ttach.Multiply([1.2])],
    ),
}
CROPS = {
    "five_crop": (five_crop((47, 50)), [ttach.FiveCrops(47, 50)]),
    "ten_crop": (ten_crop((48, 33)), [ttach.HorizontalFlip(), ttach.FiveCrops(48, 33)]),
}
SIZE = (64, 64)


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(0)
    model = torchvision.models.resnet18(weights=None, num_classes=10)
    calibrate(model, torch.randn(4, 3, *SIZE), seed=1)
    return model, to_variables(model.state_dict())


def ours(task, tta, variables, x):
    batch = {"image": nhwc(x)}
    with strict():
        return jax.jit(lambda v: TTATask(task, tta).predict(v, batch, Context())[0])(variables)


class Softmax(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x).softmax(1)


@pytest.mark.parametrize("name", [*CASES, *CROPS])
def test_classification_equals_ttach(classifier, name):
    model, variables = classifier
    tta, transforms = (CASES | CROPS)[name]
    x = torch.randn(2, 3, *SIZE)
    task = ClassificationTask(Classifier(ResNet(18), 10))
    with torch.no_grad():
        expected = ttach.ClassificationTTAWrapper(model, ttach.Compose(transforms), merge_mode="mean")(x)
        plain = model(x)
    found = ours(task, dataclasses.replace(tta, on="logits"), variables, x)["logits"]
    assert relative(found, expected) <= 1e-4
    assert relative(plain, expected) > 1e-2  # the views differ from the image


@pytest.mark.parametrize("merge", ["mean", "gmean", "max", "min", "tsharpen"])
def test_every_merge_of_scores_equals_ttach(classifier, merge):
    model, variables = classifier
    tta, transforms = CASES["d4"]
    x = torch.randn(2, 3, *SIZE)
    with torch.no_grad():
        expected = ttach.ClassificationTTAWrapper(Softmax(model), ttach.Compose(transforms), merge_mode=merge)(x)
    task = ClassificationTask(Classifier(ResNet(18), 10))
    found = ours(task, dataclasses.replace(tta, merge=merge), variables, x)
    assert relative(found["scores"], expected) <= 1e-4
    np.testing.assert_array_equal(found["label"], expected.argmax(1))


class Segmenter(nn.Module):
    """Two convolutions with asymmetric weights, the first with a stride of `stride`."""

    stride: int = 1

    @nn.compact
    def __call__(self, x):
        x = nn.relu(layers.Conv(8, 3, self.stride, name="a")(x))
        return layers.Conv(4, 3, name="b")(x)


@dataclasses.dataclass(frozen=True)
class Segmentation(Task):
    """Dense logits: what a direction has to say for test-time augmentation."""

    model: nn.Module

    def predict(self, variables, batch, ctx, carry=None):
        return {"logits": self.model.apply(variables, batch["image"])}, carry

    def invert(self, predictions, view):
        return {"logits": view.invert_maps(predictions["logits"])}

    def merged(self, entries):
        return dict(entries)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", list(CASES))
def test_dense_logits_equal_ttach(name, stride):
    tta, transforms = CASES[name]
    torch.manual_seed(0)
    reference = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, stride, 1), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3, 1, 1)
    ).eval()
    names = {"a": reference[0], "b": reference[2]}
    params = {
        key: {
            "kernel": jnp.asarray(conv.weight.detach().permute(2, 3, 1, 0).numpy()),
            "bias": conv.bias.detach().numpy(),
        }
        for key, conv in names.items()
    }
    x = torch.randn(2, 3, 24, 24)
    with torch.no_grad():
        wrapped = ttach.SegmentationTTAWrapper(reference, ttach.Compose(transforms), merge_mode="mean")
        expected, plain = wrapped(x), reference(x)
    found = ours(Segmentation(Segmenter(stride)), tta, {"params": params}, x)["logits"]
    assert relative(nchw(found), expected) <= 1e-5
    assert relative(plain, expected) > 1e-2
