"""ResNets with deformable 3x3 convolutions against torchvision's networks with its compiled operator: levels, gradients
of every parameter, OpenMMLab's names."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxvision as jv
from jaxvision.backbones.resnet import ResNet
from jaxvision.config import build
from jaxvision.pretrained import keymaps
from jaxvision.trees import flatten
from tests.conftest import strict
from tests.parity import torchvision_kernels
from tests.parity.torch_weights import error, load_tool, nchw, nhwc, relative

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
torchvision = torchvision_kernels.load()
calibrate = load_tool("calibrate").calibrate
nn = torch.nn


class DeformConv(nn.Module):
    """Under mmcv's names, in place of a convolution."""

    def __init__(self, conv, groups, modulated):
        super().__init__()
        self.weight, self.options = conv.weight, (conv.stride, conv.padding, conv.dilation)
        self.shifts = 2 * groups * 9
        channels = (3 if modulated else 2) * groups * 9
        self.conv_offset = nn.Conv2d(conv.in_channels, channels, 3, *self.options)

    def forward(self, x):
        said = self.conv_offset(x)
        offsets, mask = said[:, : self.shifts], said[:, self.shifts :].sigmoid()
        mask = mask if mask.shape[1] else None
        return torchvision.ops.deform_conv2d(x, offsets, self.weight, None, *self.options, mask)


FORMS = {
    "v1": {"deformable": ("c3", "c4", "c5")},
    "v2": {"deformable": ("c3", "c4", "c5"), "modulated": True, "style": "caffe", "output_stride": 16},
    "v2 in groups": {
        "deformable": ("c5",),
        "modulated": True,
        "deform_groups": 4,
        "groups": 32,
        "width_per_group": 4,
    },
}


def reference(deformable, modulated=False, deform_groups=1, style="pytorch", output_stride=32, **fields):
    make = torchvision.models.ResNet
    kind, dilated = torchvision.models.resnet.Bottleneck, output_stride == 16
    net = make(kind, [1, 1, 1, 1], replace_stride_with_dilation=[False, False, dilated], **fields)
    del net.fc
    for level in ("c3", "c4", "c5"):
        block = getattr(net, f"layer{int(level[1]) - 1}")[0]
        if style == "caffe":
            block.conv1.stride, block.conv2.stride = block.conv2.stride, (1, 1)
        if level in deformable:
            block.conv2 = DeformConv(block.conv2, deform_groups, modulated)
    return net


def levels_of(net, x):
    x, levels = net.maxpool(net.relu(net.bn1(net.conv1(x)))), []
    for stage in (net.layer1, net.layer2, net.layer3, net.layer4):
        x = stage(x)
        levels.append(x)
    return levels


@pytest.mark.parametrize("form", FORMS)
def test_levels_and_gradients_equal_torch(form, tmp_path):
    """Gradients of one block: among the units of a whole network some may lie on the other side of a ReLU's corner."""
    torch.manual_seed(0)
    net = reference(**FORMS[form])
    net.forward = lambda x: levels_of(net, x)
    calibrate(net, torch.rand(4, 3, 64, 96))
    x = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        theirs = net(x)
    last = theirs[2].clone().requires_grad_()
    g = torch.randn_like(theirs[3])
    net.layer4[0](last).backward(g)
    backbone = ResNet(14, **FORMS[form])

    def read(values, path):
        torch.save({f"backbone.{name}": value for name, value in values.items()}, path)
        return jv.load_pretrained(backbone, path, source="openmmlab")

    variables = read(net.state_dict(), tmp_path / "weights.pth")
    rest = backbone.clone(out_levels=("c4",)).rest()
    own = {name: {"layer4_0": tree["layer4_0"]} for name, tree in variables.items()}

    def of_block(params, x):
        return jnp.vdot(rest.apply({**own, "params": params}, x, train=False)["c5"], nhwc(g))

    with strict():
        levels = jax.jit(lambda v, x: backbone.apply(v, x, train=False))(variables, nhwc(x))
        slopes, slope = jax.jit(jax.grad(of_block, (0, 1)))(own["params"], nhwc(last))
    for (name, level), expected in zip(levels.items(), theirs, strict=True):
        measured = error(nchw(level), expected)
        print(name, f"{measured:.1e}")
        assert measured <= 1e-4
    gradients = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
    expected = flatten(read({**net.state_dict(), **gradients}, tmp_path / "gradients.pth")["params"])
    worst = {name: relative(value, expected[name]) for name, value in flatten(slopes).items()}
    worst["input"] = relative(nchw(slope), last.grad)
    print({name: f"{value:.1e}" for name, value in worst.items()})
    assert max(worst.values()) <= 1e-4, max(worst, key=worst.get)


@pytest.mark.parametrize("modulated", [False, True])
def test_names_of_openmmlabs_detectors_come_back(modulated):
    fields = {"deformable": FORMS["v1"]["deformable"], "modulated": modulated}
    model = build("model", {"name": "faster_rcnn", "num_classes": 3, "backbone": {"depth": 14, **fields}})
    shapes = jax.eval_shape(lambda key: model.init(key, jnp.zeros((1, 64, 64, 3))), jax.random.key(0))
    flat = {name: np.broadcast_to(np.float32(0), leaf.shape) for name, leaf in flatten(shapes).items()}
    written = keymaps.to_state_dict(flat, keymaps.family_of(model).keys["openmmlab"])
    net = reference(**fields).state_dict()
    wanted = {f"backbone.{k}": tuple(v.shape) for k, v in net.items() if not k.endswith("num_batches_tracked")}
    assert {k: v.shape for k, v in written.items() if k.startswith("backbone.")} == wanted
