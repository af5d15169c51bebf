"""FCN-32s to -8s and DeepLab v1 and v2 against small torch forms, written from the published Caffe nets' layers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.backbones.deeplab_vgg import DeepLabVGG
from jaxvision.backbones.fcn_vgg import FCNVGG
from jaxvision.backbones.resnet import ResNet
from jaxvision.segmentation.deeplab_v1 import DeepLabV1
from jaxvision.segmentation.deeplab_v2 import DeepLabV2
from jaxvision.segmentation.fcn_skips import FCNSkips
from jaxvision.trees import flatten
from tests.conftest import strict
from tests.parity.torch_weights import error, load_tool

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
nn, F = torch.nn, torch.nn.functional
CLASSES, WIDTH, HIDDEN = 5, 8, 24
STAGES = (2, 2, 3, 3, 3)


def convolutions(dilations=(1, 1, 1, 1, 1)):
    """VGG-16's, by torchvision's index; poolings are between the stages."""
    layers, index, channels = {}, 0, 3
    for i, (count, dilation) in enumerate(zip(STAGES, dilations, strict=True)):
        for _ in range(count):
            width = WIDTH * 2 ** min(i, 3)
            layers[str(index)] = nn.Conv2d(channels, width, 3, padding=dilation, dilation=dilation)
            channels, index = width, index + 2
        index += 1
    return nn.ModuleDict(layers)


class Skips(nn.Module):
    """voc-fcn32s, -16s and -8s (at once): pad 100, and the offsets that their Crop layers name."""

    def __init__(self, stride, scales=(0.01, 0.0001)):
        super().__init__()
        self.stride, self.scales = stride, scales
        self.backbone, self.decode_head = nn.Module(), nn.Module()
        self.backbone.features = convolutions()
        self.backbone.features["0"].padding = (100, 100)
        self.backbone.pre_logits_fc1 = nn.Conv2d(8 * WIDTH, HIDDEN, 7)
        self.backbone.pre_logits_fc2 = nn.Conv2d(HIDDEN, HIDDEN, 1)
        head = self.decode_head

        def up(factor):
            return nn.ConvTranspose2d(CLASSES, CLASSES, 2 * factor, factor, bias=False)

        head.score_fr = nn.Conv2d(HIDDEN, CLASSES, 1)
        if stride == 32:
            head.upscore = up(32)
        if stride < 32:
            head.score_pool4, head.upscore2 = nn.Conv2d(8 * WIDTH, CLASSES, 1), up(2)
        if stride == 16:
            head.upscore16 = up(16)
        if stride == 8:
            head.score_pool3, head.upscore_pool4, head.upscore8 = nn.Conv2d(4 * WIDTH, CLASSES, 1), up(2), up(8)

    def forward(self, x):
        h, w = x.shape[2:]
        features, pools, y = iter(self.backbone.features.values()), [], x
        for count in STAGES:
            for _ in range(count):
                y = F.relu(next(features)(y))
            y = F.max_pool2d(y, 2, 2, ceil_mode=True)
            pools.append(y)
        y = F.relu(self.backbone.pre_logits_fc1(y))
        y = F.relu(self.backbone.pre_logits_fc2(y))
        head = self.decode_head
        y = head.score_fr(y)
        if self.stride == 32:
            return head.upscore(y)[:, :, 19 : 19 + h, 19 : 19 + w]
        y = head.upscore2(y)
        skip = head.score_pool4(self.scales[0] * pools[3])
        y = y + skip[:, :, 5 : 5 + y.shape[2], 5 : 5 + y.shape[3]]
        if self.stride == 16:
            return head.upscore16(y)[:, :, 27 : 27 + h, 27 : 27 + w]
        y = head.upscore_pool4(y)
        skip = head.score_pool3(self.scales[1] * pools[2])
        y = y + skip[:, :, 9 : 9 + y.shape[2], 9 : 9 + y.shape[3]]
        return head.upscore8(y)[:, :, 31 : 31 + h, 31 : 31 + w]


class Hidden(nn.Module):
    def __init__(self, dilation):
        super().__init__()
        self.fc6 = nn.Conv2d(8 * WIDTH, HIDDEN, 3, padding=dilation, dilation=dilation)
        self.fc7, self.fc8 = nn.Conv2d(HIDDEN, HIDDEN, 1), nn.Conv2d(HIDDEN, CLASSES, 1)

    def forward(self, x):
        return self.fc8(F.relu(self.fc7(F.relu(self.fc6(x)))))


class Holes(nn.Module):
    """VGG-16 with holes and LargeFOV's or ASPP's classifier."""

    def __init__(self, dilations):
        super().__init__()
        self.backbone = nn.Module()
        self.backbone.features = convolutions((1, 1, 1, 1, 2))
        self.large_fov = len(dilations) == 1
        branches = [Hidden(dilation) for dilation in dilations]
        self.decode_head = (
            branches[0] if self.large_fov else nn.ModuleDict({f"c{i}": b for i, b in enumerate(branches)})
        )

    def forward(self, x):
        features = iter(self.backbone.features.values())
        for i, count in enumerate(STAGES):
            for _ in range(count):
                x = F.relu(next(features)(x))
            x = F.max_pool2d(x, 3, 2 if i < 3 else 1, 1)
        if self.large_fov:
            return self.decode_head(F.avg_pool2d(x, 3, 1, 1))
        return sum(branch(x) for branch in self.decode_head.values())


class Bottleneck(nn.Module):
    """Caffe's: the stride lies in the first convolution."""

    def __init__(self, channels, width, stride, dilation, project):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1, stride, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation, bias=False)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn1, self.bn2, self.bn3 = (nn.BatchNorm2d(n) for n in (width, width, 4 * width))
        if project:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width)
            )
        self.project = project

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + (self.downsample(x) if self.project else x))


class Pyramid(nn.Module):
    """DeepLab v2 on a ResNet: dilations 2 and 4 in every block of the last stages, four branches, three scales."""

    def __init__(self, scales=(1.0, 0.75, 0.5)):
        super().__init__()
        self.scales = scales
        base = self.backbone = nn.Module()
        base.conv1, base.bn1 = nn.Conv2d(3, WIDTH, 7, 2, 3, bias=False), nn.BatchNorm2d(WIDTH)
        channels = WIDTH
        for i, (count, stride, dilation) in enumerate(((2, 1, 1), (2, 2, 1), (2, 1, 2), (2, 1, 4))):
            blocks = []
            for j in range(count):
                blocks.append(Bottleneck(channels, WIDTH * 2**i, 1 if j else stride, dilation, not j))
                channels = 4 * WIDTH * 2**i
            setattr(base, f"layer{i + 1}", nn.Sequential(*blocks))
        self.decode_head = nn.ModuleDict(
            {f"c{i}": nn.Conv2d(channels, CLASSES, 3, padding=d, dilation=d) for i, d in enumerate((6, 12, 18, 24))}
        )

    def one(self, x):
        base = self.backbone
        x = F.max_pool2d(F.relu(base.bn1(base.conv1(x))), 3, 2, 1)
        x = base.layer4(base.layer3(base.layer2(base.layer1(x))))
        return sum(branch(x) for branch in self.decode_head.values())

    def forward(self, x):
        logits = []
        for scale in self.scales:
            size = [int((side - 1) * scale) + 1 for side in x.shape[2:]]
            logits.append(self.one(F.interpolate(x, size, mode="bilinear", align_corners=True)))
        size = logits[0].shape[2:]
        every = [F.interpolate(y, size, mode="bilinear", align_corners=True) for y in logits]
        return torch.stack(every).amax(0)


def variables_of(model, network, images):
    """Our variables, filled from the torch modules of the same names."""
    state = {name: value.numpy() for name, value in network.state_dict().items()}
    shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x), images)
    values, used = {}, set()
    for path, leaf in flatten(shapes).items():
        *names, last = path.split("/")[1:]
        name = ".".join(part if part in state_parts(network) else dotted(part) for part in names)
        kind = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}.get(last, last)
        value = state[f"{name}.{kind}"]
        used.add(f"{name}.{kind}")
        if last == "kernel":
            value = value.transpose(2, 3, 1, 0)
            value = value[0, 0] if len(leaf.shape) == 2 else value
        assert value.shape == leaf.shape, path
        values[path] = jnp.asarray(value)
    assert used == {name for name in state if not name.endswith("num_batches_tracked")}
    tree: dict = {}
    for path, value in values.items():
        node = tree
        *names, last = path.split("/")
        for part in names:
            node = node.setdefault(part, {})
        node[last] = value
    return tree


def state_parts(network):
    return {part for name, _ in network.named_modules() for part in name.split(".")}


def dotted(part):
    """ "layer1_0" -> "layer1.0"."""
    head, _, number = part.rpartition("_")
    return f"{head}.{number}"


FCN_BACKBONE = FCNVGG(width=WIDTH, hidden=HIDDEN)
VGG = DeepLabVGG(width=WIDTH)
RESNET = ResNet(depth=26, width=WIDTH, style="caffe", output_stride=8, contract_dilation=False)
CASES = {
    **{f"fcn{s}s": (FCNSkips(FCN_BACKBONE, CLASSES, stride=s), lambda s=s: Skips(s), (45, 70)) for s in (32, 16, 8)},
    "deeplab_v1": (DeepLabV1(VGG.clone(averaged=True), CLASSES, width=HIDDEN), lambda: Holes((12,)), (65, 81)),
    "deeplab_v2_vgg16": (
        DeepLabV2(VGG, CLASSES, width=HIDDEN, scales=(1.0,)),
        lambda: Holes((6, 12, 18, 24)),
        (65, 81),
    ),
    "deeplab_v2": (DeepLabV2(RESNET, CLASSES), Pyramid, (65, 81)),
}


@pytest.mark.parametrize("name", CASES)
def test_logits_equal_the_torch_form(name, unoptimized):
    model, make, size = CASES[name]
    torch.manual_seed(0)
    network = make()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):  # torch's own start lets the input fade away in layers without a norm
            nn.init.kaiming_normal_(module.weight)
    images = torch.randn(2, 3, *size)
    load_tool("calibrate").calibrate(network, torch.randn(4, 3, *size))
    with torch.no_grad():
        theirs = network(images).numpy().transpose(0, 2, 3, 1)
    ours = jnp.asarray(images.numpy().transpose(0, 2, 3, 1))
    variables = variables_of(model, network, ours)
    with strict():
        found = jax.jit(model.apply)(variables, ours)["logits"]
    difference = error(found, theirs)
    print(name, f"{difference:.1e}", "of the part that depends on the image")
    assert difference < 1e-4


def test_a_classifiers_file_fills_the_convolutions_and_the_hidden_layers(tmp_path):
    from tests.parity.torch_weights import load

    width, hidden = 4, 6
    state, index, channels = {}, 0, 3
    rng = np.random.default_rng(0)

    def draw(*shape):
        return rng.normal(size=shape).astype(np.float32) * 0.2

    for i, count in enumerate(STAGES):
        for _ in range(count):
            state[f"features.{index}.weight"] = draw(width * 2 ** min(i, 3), channels, 3, 3)
            channels = width * 2 ** min(i, 3)
            state[f"features.{index}.bias"] = draw(channels)
            index += 2
        index += 1
    for i, (rows, columns) in {0: (hidden, 49 * channels), 3: (hidden, hidden), 6: (7, hidden)}.items():
        state[f"classifier.{i}.weight"], state[f"classifier.{i}.bias"] = draw(rows, columns), draw(rows)
    backbone = FCNVGG(width=width, hidden=hidden, pad=99)
    variables = load(backbone, state, tmp_path / "vgg.pth", source="torchvision")
    # On 7 x 7 maps the classifier's hidden layers are one place of ours: that is what "convolutions" means.
    images = rng.normal(size=(1, 26, 26, 3)).astype(np.float32)
    found = jax.jit(lambda v, x: backbone.apply(v, x, train=False))(variables, jnp.asarray(images))["c5"]
    y = torch.from_numpy(images.transpose(0, 3, 1, 2))
    y, index = F.pad(y, (99,) * 4), 0
    for count in STAGES:
        for _ in range(count):
            weight, bias = (torch.from_numpy(state[f"features.{index}.{leaf}"]) for leaf in ("weight", "bias"))
            y, index = F.relu(F.conv2d(y, weight, bias, padding=1)), index + 2
        y, index = F.max_pool2d(y, 2), index + 1
    assert y.shape[2:] == (7, 7)
    y = y.flatten(1)
    for i in (0, 3):
        weight, bias = (torch.from_numpy(state[f"classifier.{i}.{leaf}"]) for leaf in ("weight", "bias"))
        y = F.relu(F.linear(y, weight, bias))
    assert found.shape == (1, 1, 1, hidden)
    np.testing.assert_allclose(np.asarray(found)[0, 0], y.numpy(), rtol=1e-4, atol=1e-5 * float(y.abs().max()))
