"""LR-ASPP against torchvision, and OpenMMLab's head against a small re-implementation in torch, with its names."""

import jax
import numpy as np
import pytest

from jaxvision.config import build
from jaxvision.pretrained import keymaps
from jaxvision.trees import flatten
from tests.conftest import strict
from tests.parity.segmenters import ConvModule, compare_with_torchvision, resize
from tests.parity.torch_weights import error, load, load_tool, nchw, nhwc

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
nn = torch.nn
segmentation = load_tool("torchvision_cpu").torchvision.models.segmentation
calibrate = load_tool("calibrate").calibrate

CLASSES = 7
SIZE = (65, 97)


def test_logits_equal_torchvision(tmp_path):
    torch.manual_seed(0)
    theirs = segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=CLASSES)
    calibrate(theirs, torch.randn(4, 3, *SIZE))
    compare_with_torchvision(theirs, torch.randn(2, 3, *SIZE), "torchvision/lraspp", tmp_path, CLASSES)


class Head(nn.Module):
    """What OpenMMLab's head computes."""

    def __init__(self, channels, width, branches, pool):
        super().__init__()
        *early, last = channels
        self.conv_seg = nn.Conv2d(width, CLASSES, 1)
        self.convs, self.conv_ups = nn.Sequential(), nn.Sequential()
        for i, (ins, outs) in enumerate(zip(early, branches, strict=True)):
            self.convs.add_module(f"conv{i}", nn.Conv2d(ins, outs, 1, bias=False))
            self.conv_ups.add_module(f"conv_up{i}", ConvModule(width + outs, width, eps=1e-3))
        self.conv_up_input = nn.Conv2d(width, width, 1)
        self.aspp_conv = ConvModule(last, width, eps=1e-3)
        self.image_pool = nn.Sequential(nn.AvgPool2d(pool[0], pool[1:]), ConvModule(last, width, norm=False))

    def forward(self, *levels):
        *early, x = levels
        gate = torch.sigmoid(self.image_pool[1].conv(self.image_pool[0](x)))
        x = self.conv_up_input(self.aspp_conv(x) * resize(gate, x, align_corners=True))
        for i in (1, 0):
            x = torch.cat([resize(x, early[i]), self.convs[i](early[i])], 1)
            x = self.conv_ups[i](x)
        return self.conv_seg(x)


def test_the_head_equals_that_of_openmmlab_with_its_names(tmp_path):
    torch.manual_seed(0)
    fields = {"width": 16, "branches": (8, 12), "pooling": (7, 3, 4)}
    model = build("model", {"name": "lraspp", "num_classes": CLASSES, **fields})
    theirs = Head((16, 24, 960), *fields.values())
    levels = [torch.randn(2, c, h, w) for c, h, w in ((16, 64, 96), (24, 32, 48), (960, 16, 24))]
    calibrate(theirs, *levels)
    rules = keymaps.family_of(model).keys["openmmlab"]
    drawn = jax.eval_shape(lambda: model.init(jax.random.key(0), np.zeros((1, 64, 64, 3), np.float32)))
    rng = np.random.default_rng(0)
    drawn = {name: rng.uniform(0.5, 1, x.shape).astype(np.float32) for name, x in flatten(drawn).items()}
    state = keymaps.to_state_dict(drawn, rules)
    own = {f"decode_head.{name}": x.numpy() for name, x in theirs.state_dict().items() if "num_batches" not in name}
    assert {name for name in state if not name.startswith("backbone.")} == set(own)
    assert {"backbone.layer0.conv.weight", "backbone.layer16.bn.bias"} < set(state)
    assert "backbone.layer4.se.conv1.conv.weight" in state
    variables = load(model, state | own, tmp_path / "weights.pth", source="openmmlab")
    given = dict(zip(("c1", "c2", "c5"), map(nhwc, levels), strict=True))
    with strict():
        decode = jax.jit(lambda v, x: model.apply(v, x, train=False, method="decode"))
        ours = decode(variables, given)
    with torch.no_grad():
        difference = error(nchw(ours), theirs(*levels).numpy())
    print(f"{difference:.1e}")
    assert difference <= 1e-5
