"""OCRNet against a small re-implementation in torch of what OpenMMLab's two heads compute, with its names."""

import jax
import numpy as np
import pytest

from jaxvision.config import build
from jaxvision.pretrained import keymaps
from jaxvision.trees import flatten
from tests.conftest import quickly_compiled, strict
from tests.parity.segmenters import ConvModule, resize
from tests.parity.torch_weights import error, load, load_tool, nchw, nhwc

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
nn = torch.nn
calibrate = load_tool("calibrate").calibrate

CLASSES, WIDTH, KEYS = 7, 24, 12
CHANNELS, SIZES = (4, 8, 16, 32), ((16, 24), (8, 12), (4, 6), (2, 3))


class Coarse(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv_seg = nn.Conv2d(channels, CLASSES, 1)
        self.convs = nn.Sequential(ConvModule(channels, channels))

    def forward(self, x):
        return self.conv_seg(self.convs(x))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.key_project = nn.Sequential(ConvModule(WIDTH, KEYS), ConvModule(KEYS, KEYS))
        self.query_project = nn.Sequential(ConvModule(WIDTH, KEYS), ConvModule(KEYS, KEYS))
        self.value_project = ConvModule(WIDTH, KEYS)
        self.out_project = ConvModule(KEYS, WIDTH)
        self.bottleneck = ConvModule(2 * WIDTH, WIDTH)

    def forward(self, x, regions):
        query = self.query_project(x).flatten(2).transpose(1, 2)
        key, value = self.key_project(regions).flatten(2), self.value_project(regions).flatten(2)
        alike = torch.softmax(query @ key / KEYS**0.5, dim=-1)
        context = (alike @ value.transpose(1, 2)).transpose(1, 2).reshape(len(x), KEYS, *x.shape[2:])
        return self.bottleneck(torch.cat([self.out_project(context), x], dim=1))


class Head(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv_seg = nn.Conv2d(WIDTH, CLASSES, 1)
        self.object_context_block = Attention()
        self.bottleneck = ConvModule(channels, WIDTH, 3)

    def forward(self, x, coarse):
        x = self.bottleneck(x)
        share = torch.softmax(coarse.flatten(2), dim=2)
        regions = torch.einsum("bkn,bcn->bck", share, x.flatten(2))[..., None]
        return self.conv_seg(self.object_context_block(x, regions))


class Reference(nn.Module):
    def __init__(self):
        super().__init__()
        self.decode_head = nn.ModuleList([Coarse(sum(CHANNELS)), Head(sum(CHANNELS))])

    def forward(self, *levels):
        x = torch.cat([resize(level, levels[0]) for level in levels], dim=1)
        coarse = self.decode_head[0](x)
        return coarse, self.decode_head[1](x, coarse)


def test_both_heads_equal_those_of_openmmlab_with_its_names(tmp_path):
    torch.manual_seed(0)
    backbone = {"width": 4, "first_width": 4, "blocks": (1, 1, 1, 1), "modules": (1, 1, 1), "stem_width": 8}
    fields = {"width": WIDTH, "key_width": KEYS, "backbone": backbone}
    model = build("model", {"name": "ocrnet", "num_classes": CLASSES, **fields})
    levels = [torch.randn(2, c, *size) for c, size in zip(CHANNELS, SIZES, strict=True)]
    theirs = calibrate(Reference(), *levels)
    rules = keymaps.family_of(model).keys["openmmlab"]
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), np.zeros((1, 64, 64, 3), np.float32)))
    rng = np.random.default_rng(0)
    drawn = {name: rng.uniform(0.5, 1, x.shape).astype(np.float32) for name, x in flatten(shapes).items()}
    state = keymaps.to_state_dict(drawn, rules)
    own = {name: x.numpy() for name, x in theirs.state_dict().items() if "num_batches" not in name}
    assert {name for name in state if not name.startswith("backbone.")} == set(own)
    variables = load(model, state | own, tmp_path / "weights.pth", source="openmmlab")
    given = dict(zip(("c2", "c3", "c4", "c5"), map(nhwc, levels), strict=True))
    with strict(), quickly_compiled():
        stages = jax.jit(lambda v, x: model.apply(v, x, train=False, method="stages"))
        ours = stages(variables, given)
    with torch.no_grad():
        expected = theirs(*levels)
    for own, wanted in zip(ours, expected, strict=True):
        difference = error(nchw(own), wanted.numpy())
        print(f"{difference:.1e}")
        assert difference <= 1e-5
