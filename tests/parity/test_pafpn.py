"""PAFPN against a small re-implementation in torch of what OpenMMLab's module computes, with its names."""

import jax
import numpy as np
import pytest

from jaxvision.detection.keys import fpn_keys
from jaxvision.necks.pafpn import PAFPN
from jaxvision.pretrained.keymaps import to_state_dict
from tests.conftest import strict
from tests.parity.torch_weights import nchw, nhwc, relative

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
CHANNELS, SIZES = (6, 10, 14, 18), ((33, 41), (17, 21), (9, 11), (5, 6))
nn, functional = torch.nn, torch.nn.functional


class Conv(nn.Module):
    """OpenMMLab's `ConvModule` without a norm: a convolution called `conv`."""

    def __init__(self, ins, outs, kernel, stride=1):
        super().__init__()
        self.conv = nn.Conv2d(ins, outs, kernel, stride, kernel // 2)

    def forward(self, x):
        return self.conv(x)


class Reference(nn.Module):
    def __init__(self, width, extra):
        super().__init__()
        self.lateral_convs = nn.ModuleList(Conv(c, width, 1) for c in CHANNELS)
        fpn = [Conv(width, width, 3) for _ in CHANNELS]
        start = {"pool": [], "input": [CHANNELS[-1], width], "output": [width, width]}[extra]
        self.fpn_convs = nn.ModuleList([*fpn, *(Conv(c, width, 3, 2) for c in start)])
        self.downsample_convs = nn.ModuleList(Conv(width, width, 3, 2) for _ in CHANNELS[1:])
        self.pafpn_convs = nn.ModuleList(Conv(width, width, 3) for _ in CHANNELS[1:])
        self.extra = extra

    def forward(self, inputs):
        laterals = [conv(x) for conv, x in zip(self.lateral_convs, inputs, strict=True)]
        for i in (2, 1, 0):
            laterals[i] = laterals[i] + functional.interpolate(laterals[i + 1], laterals[i].shape[2:], mode="nearest")
        found = [conv(x) for conv, x in zip(self.fpn_convs, laterals, strict=False)]
        for i in range(3):
            found[i + 1] = found[i + 1] + self.downsample_convs[i](found[i])
        found = [found[0], *(conv(x) for conv, x in zip(self.pafpn_convs, found[1:], strict=True))]
        x = inputs[-1] if self.extra == "input" else found[-1]
        for i in range(2):
            x = functional.max_pool2d(x, 1, 2) if self.extra == "pool" else self.fpn_convs[4 + i](x)
            found.append(x)
        return found


@pytest.mark.parametrize("extra", ["pool", "input", "output"])
def test_levels_equal_the_reference_with_its_own_names(extra):
    torch.manual_seed(0)
    reference = Reference(8, extra)
    inputs = [torch.randn(2, c, *size) for c, size in zip(CHANNELS, SIZES, strict=True)]
    with torch.no_grad():
        expected = reference(inputs)
    neck = PAFPN(8, extra_levels=2, extra=extra)
    ours = {f"c{i + 2}": nhwc(x) for i, x in enumerate(inputs)}
    empty = jax.eval_shape(neck.init, jax.random.key(0), ours)["params"]
    theirs = {f"neck.{name}": value.numpy() for name, value in reference.state_dict().items()}
    flat = {
        f"params/neck/{layer}/{leaf}": np.zeros(x.shape, np.float32)
        for layer, v in empty.items()
        for leaf, x in v.items()
    }
    names = {
        name: next(iter(to_state_dict({name: value}, fpn_keys(neck)["openmmlab"]))) for name, value in flat.items()
    }
    assert sorted(names.values()) == sorted(theirs)
    params: dict = {}
    for name, value in flat.items():
        _, _, layer, leaf = name.split("/")
        given = theirs[names[name]]
        given = given.transpose(2, 3, 1, 0) if given.ndim == 4 else given
        assert given.shape == value.shape
        params.setdefault(layer, {})[leaf] = given
    with strict():
        found = neck.apply({"params": params}, ours)
    for x, y in zip(found.values(), expected, strict=True):
        assert relative(nchw(x), y.numpy()) < 1e-5
