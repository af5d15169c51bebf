"""What the parity tests of segmenters without a fixture share: torchvision's logits, parts of OpenMMLab's in torch."""

import pytest

from jaxvision.config import build
from tests.conftest import strict
from tests.parity.semantic import run
from tests.parity.torch_weights import error, load, nchw, nhwc

torch = pytest.importorskip("torch")
nn, functional = torch.nn, torch.nn.functional


def compare_with_torchvision(theirs, images, name, folder, num_classes, atol=1e-4, **fields):
    """Logits of each pixel of both heads of a sharp network of torchvision's and of ours with its weights."""
    model = build("model", {"name": name, "num_classes": num_classes, **fields})
    state = {key: value.numpy() for key, value in theirs.state_dict().items()}
    variables = load(model, state, folder / "weights.pth", source="torchvision")
    with torch.no_grad():
        expected = [value.numpy() for value in theirs(images).values()]
    _, outputs = run(model, variables, nhwc(images))
    with strict():
        ours = [model.enlarge(x, images.shape[2:]) for x in (outputs["logits"], *outputs["auxiliary"])]
    for own, wanted in zip(ours, expected, strict=True):
        difference = error(nchw(own), wanted)
        print(f"{difference:.1e}")
        assert difference <= atol


class ConvModule(nn.Module):
    """OpenMMLab's: a convolution `conv`, and a norm `bn` and ReLU."""

    def __init__(self, ins, outs, kernel=1, *, norm=True, eps=1e-5):
        super().__init__()
        self.conv = nn.Conv2d(ins, outs, kernel, padding=kernel // 2, bias=False)
        if norm:
            self.bn = nn.BatchNorm2d(outs, eps=eps)

    def forward(self, x):
        x = self.conv(x)
        return functional.relu(self.bn(x)) if hasattr(self, "bn") else x


def resize(x, like, align_corners=False):
    return functional.interpolate(x, like.shape[2:], mode="bilinear", align_corners=align_corners)
