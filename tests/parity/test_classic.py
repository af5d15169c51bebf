"""AlexNet, VGG, GoogLeNet, DenseNet and the ShuffleNets in narrow and dilated forms, their published names, OpenMMLab's
golden ShuffleNet, and a training step of one of each family."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxvision as jv
from jaxvision import layers
from jaxvision.backbones import densenet, shufflenet_v2, vgg
from jaxvision.backbones.alexnet import AlexNet
from jaxvision.backbones.densenet import DenseNet
from jaxvision.backbones.googlenet import GoogLeNet
from jaxvision.backbones.shufflenet_v1 import ShuffleNetV1
from jaxvision.backbones.shufflenet_v2 import ShuffleNetV2
from jaxvision.backbones.vgg import VGG
from jaxvision.classification.classifier import Classifier
from jaxvision.pretrained import keymaps
from jaxvision.trees import flatten
from tests.parity import zoo
from tests.parity.references import alexnet as alexnet_reference
from tests.parity.references import googlenet as googlenet_reference
from tests.parity.references import shufflenet_v1 as v1_reference
from tests.parity.references import shufflenet_v2 as v2_reference
from tests.parity.references import vgg as vgg_reference
from tests.parity.torch_weights import load_golden, nchw, nhwc
from tests.parity.training import check_training_step

pytestmark = pytest.mark.parity

models = zoo.torchvision.models
BN = layers.Norm()


def narrow_vgg(normed):
    """torchvision's VGG-11 with an eighth of its channels and 32 hidden units."""

    def make():
        channels = [8, "M", 16, "M", 32, 32, "M", 64, 64, "M", 64, 64, "M"]
        model = models.VGG(models.vgg.make_layers(channels, batch_norm=normed), dropout=0.0)
        model.classifier[0], model.classifier[3] = torch.nn.Linear(64 * 49, 32), torch.nn.Linear(32, 32)
        model.classifier[6] = torch.nn.Linear(32, 1000)
        return model

    return make


def narrow_timm_vgg():
    from timm.models.vgg import VGG as TimmVGG

    return TimmVGG([8, "M", 16, "M", 32, 32, "M", 64, 64, "M", 64, 64, "M"], mlp_ratio=1.0)


def narrow_alexnet():
    """torchvision's with 32 hidden units."""
    model = models.AlexNet(dropout=0.0)
    model.classifier[1], model.classifier[4] = torch.nn.Linear(256 * 36, 32), torch.nn.Linear(32, 32)
    model.classifier[6] = torch.nn.Linear(32, 1000)
    return model


def shallow_densenet(library, **options):
    if library == "torchvision":
        return lambda: models.DenseNet(32, (2, 3, 3, 2), **options)
    from timm.models.densenet import DenseNet as TimmDenseNet

    return lambda: TimmDenseNet(32, (2, 3, 3, 2), **options)


def dilated_v2():
    model = models.get_model("shufflenet_v2_x0_5", weights=None)
    first, *others = model.stage4
    for conv in (first.branch1[0], first.branch2[3]):
        conv.stride = (1, 1)
    for unit in others:
        unit.branch2[3].dilation = unit.branch2[3].padding = (2, 2)
    return model


def dilated_v1():
    model = v1_reference.ShuffleNet(groups=2)
    first, *others = model.backbone.layers[2]
    first.shortcut = torch.nn.AvgPool2d(3, 1, 1)
    first.depthwise_conv3x3_bn.conv.stride = (1, 1)
    for unit in others:
        unit.depthwise_conv3x3_bn.conv.dilation = unit.depthwise_conv3x3_bn.conv.padding = (2, 2)
    return model


VGG_LEVELS = {normed: vgg_reference.levels_of(11, normed) for normed in (False, True)}
POOLS = {f"c{i + 1}": f"features.{index}" for i, index in enumerate((2, 5, 10, 15, 20))}
V1 = v1_reference.LEVELS
DEEP = zoo.references()["densenet264d"].levels
FORMS = {
    "vgg": (VGG(11, width=8, hidden=32), narrow_vgg(False), VGG_LEVELS[False], "torchvision", 64),
    "vgg of large images": (VGG(11, width=8, hidden=32), narrow_vgg(False), VGG_LEVELS[False], "torchvision", 288),
    "vgg bn": (VGG(11, BN, width=8, hidden=32), narrow_vgg(True), VGG_LEVELS[True], "torchvision", 96),
    "vgg pool levels": (
        VGG(11, width=8, hidden=32, pool_levels=True), narrow_vgg(False), POOLS, "torchvision", 64
    ),
    "timm vgg": (VGG(11, width=8), narrow_timm_vgg, VGG_LEVELS[False], "timm", 64),
    "timm vgg of large images": (VGG(11, width=8, sliding=True), narrow_timm_vgg, VGG_LEVELS[False], "timm", 288),
    "alexnet": (AlexNet(hidden=32), narrow_alexnet, alexnet_reference.LEVELS, "torchvision", 96),
    "densenet deep": (
        DenseNet((2, 3, 3, 2), stem="deep"), shallow_densenet("timm", stem_type="deep"), DEEP, "timm", 64
    ),
    "shufflenet v2 at 16": (
        ShuffleNetV2(shufflenet_v2.SIZES["shufflenet_v2_x0_5"]["widths"], output_stride=16),
        dilated_v2, v2_reference.LEVELS, "torchvision", 64,
    ),
    "shufflenet v1 at 16": (ShuffleNetV1(2, output_stride=16), dilated_v1, V1, "openmmlab", 64),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_levels_and_logits_of_other_forms_equal_the_reference(form):
    backbone, make, levels, source, size = FORMS[form]
    reference = zoo.Reference(make, "", levels, source, size=size)
    model, x = zoo.calibrated(reference)
    pooled = ("pooled",) if isinstance(backbone, (VGG, AlexNet, ShuffleNetV2)) else ()
    ours = Classifier(backbone.clone(out_levels=(*levels, *pooled)), 1000)
    errors = zoo.compare(model, reference, ours, x)
    print(form, {output: f"{error:.1e}" for output, error in errors.items()})
    assert max(errors.values()) <= 1e-4, errors


STEPS = {
    "vgg": (VGG(11, BN, width=8, hidden=32, out_levels=("pooled",)), narrow_vgg(True), "torchvision", 64),
    "alexnet": (AlexNet(hidden=32, out_levels=("pooled",)), narrow_alexnet, "torchvision", 64),
    "densenet": (DenseNet((2, 3, 3, 2)), shallow_densenet("torchvision"), "torchvision", 64),
    "shufflenet v1": (ShuffleNetV1(3, 0.5), lambda: v1_reference.ShuffleNet(3, 0.5), "openmmlab", 64),
    "shufflenet v2": (
        ShuffleNetV2(shufflenet_v2.SIZES["shufflenet_v2_x0_5"]["widths"], out_levels=("pooled",)),
        lambda: models.get_model("shufflenet_v2_x0_5", weights=None), "torchvision", 64,
    ),
    "googlenet": (
        GoogLeNet(), lambda: models.GoogLeNet(dropout=0.0, **googlenet_reference.OPTIONS), "torchvision", 64
    ),
}  # fmt: skip


@pytest.mark.parametrize("family", STEPS)
def test_a_training_step_equals_the_reference(family, monkeypatch):
    backbone, make, source, size = STEPS[family]
    # torchvision's DenseNet and GoogLeNet call the function, the others have modules.
    monkeypatch.setattr(torch.nn.functional, "relu", lambda x, inplace=False: torch.nn.functional.softplus(x))
    reference = zoo.Reference(make, "", {}, source)
    print(family, f"{check_training_step(backbone, reference, monkeypatch, size=size, keep=' '):.1e}")


def test_the_golden_shufflenet_v1_of_openmmlab_is_reproduced(tmp_path):
    golden, fixture = load_golden("mmpretrain_shufflenet-v1-1x")
    state_dict = {name: torch.from_numpy(value) for name, value in golden.state_dict(fixture).items()}
    torch.save({"meta": {}, "state_dict": state_dict}, tmp_path / "a.pth")
    variables = jv.load_pretrained("shufflenet-v1-1x", tmp_path / "a.pth", source="openmmlab")
    model = jv.create_model("shufflenet-v1-1x", num_classes=1000)
    forward = lambda m, x: (m(x), m.backbone(x, train=False)["c5"])  # noqa: E731
    logits, last = jax.jit(lambda v, x: model.apply(v, x, method=forward))(variables, nhwc(golden.inputs(fixture)))
    outputs = {"backbone/0": nchw(last), "neck/0": np.asarray(last).mean(axis=(1, 2)), "head": np.asarray(logits)}
    assert set(outputs) == set(fixture.output_shapes)
    for name, output in outputs.items():
        difference = golden.compare(fixture, name, output)
        print(name, f"{difference:.1e}", f"allowed {golden.tolerance(fixture, name):.1e}")
        assert difference <= golden.tolerance(fixture, name)


NAMES = {
    "alexnet": (
        "openmmlab",
        ("backbone.features.10.bias", "backbone.classifier.1.weight", "backbone.classifier.6.bias"),
    ),
    "vgg16": ("openmmlab/vgg16", ("backbone.features.16.conv.weight", "backbone.classifier.0.weight")),
    "vgg11_bn": ("openmmlab/vgg11_bn", ("backbone.features.8.conv.bias", "backbone.features.7.bn.running_var")),
    "densenet121": (
        "openmmlab",
        (
            *("backbone.stem.0.weight", "backbone.stem.1.running_mean", "backbone.stages.3.block.15.conv2.weight"),
            *("backbone.stages.0.block.0.norm1.bias", "backbone.transitions.0.conv.weight"),
            *("backbone.transitions.2.norm.weight", "backbone.transitions.3.0.bias", "head.fc.weight"),
        ),
    ),
    "shufflenet_v2_x1_0": (
        "openmmlab",
        (
            *("backbone.conv1.conv.weight", "backbone.conv1.bn.weight", "backbone.layers.0.0.branch1.0.conv.weight"),
            *("backbone.layers.0.0.branch1.1.bn.bias", "backbone.layers.1.7.branch2.1.bn.running_var"),
            *(
                "backbone.layers.2.3.branch2.2.conv.weight",
                "backbone.layers.3.conv.weight",
                "backbone.layers.3.bn.bias",
            ),
        ),
    ),
    "densenet169": (
        "torchvision/published",
        (
            *("features.conv0.weight", "features.denseblock1.denselayer1.norm.1.weight"),
            *("features.denseblock4.denselayer32.conv.2.weight", "features.norm5.bias", "classifier.weight"),
        ),
    ),
}


@pytest.mark.parametrize("name", NAMES)
def test_variables_get_the_published_names_and_come_back(name):
    """Names from the public source: mmpretrain's backbones, torchvision's published DenseNets."""
    source, some = NAMES[name]
    model = jv.create_model(name, num_classes=10, backbone={"hidden": 16} if "hidden" in fields(name) else {})
    x = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    wanted = flatten(jax.eval_shape(lambda x: model.init(jax.random.key(0), x), x))
    rng = np.random.default_rng(0)
    values = {path: rng.standard_normal(leaf.shape, np.float32) for path, leaf in wanted.items()}
    rules = keymaps.rules_for(keymaps.family_of(model), source)
    state_dict = keymaps.to_state_dict(values, rules)
    assert set(some) <= set(state_dict), set(some) - set(state_dict)
    back = keymaps.fit(state_dict, wanted, rules).check(name)
    assert all(np.array_equal(back[path], value) for path, value in values.items())


def fields(name):
    return type(jv.create_model(name, num_classes=1).backbone).__dataclass_fields__


def test_a_file_with_auxiliary_classifiers_fills_googlenet():
    with torch.device("meta"):
        theirs = models.GoogLeNet(init_weights=False)
    model = jv.create_model("googlenet", num_classes=1000)
    reference = zoo.references()["googlenet"]
    family = keymaps.family_of(model)
    rules = keymaps.rules_for(family, "torchvision")
    state_dict = zoo.abstract(theirs.state_dict())
    assert any(name.startswith("aux1.") for name in state_dict)
    keymaps.fit(state_dict, zoo.shapes(model, reference), rules, ignored=family.ignored).check("googlenet")


@pytest.mark.parametrize("family,name,levels", [
    ("vgg", "vgg11_bn", ("c0", "c1", "c2", "c3", "c4", "c5")),
    ("densenet", "densenet121", ("c1",)),
])  # fmt: skip
def test_an_encoder_of_segmentation_models_fills_a_backbone(family, name, levels, tmp_path):
    smp = pytest.importorskip("segmentation_models_pytorch")
    theirs = smp.Unet(name, encoder_weights=None)
    zoo.calibrate(theirs, torch.randn(2, 3, 64, 64))
    torch.save(theirs.state_dict(), tmp_path / "unet.pth")
    every = levels if family == "vgg" else densenet.LEVELS
    backbone = {"vgg": vgg.VGG, "densenet": densenet.DenseNet}[family](
        **{"vgg": vgg, "densenet": densenet}[family].SIZES[name], out_levels=every
    )
    variables = jv.load_pretrained(backbone, tmp_path / "unet.pth", source="smp")
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        want = theirs.encoder(x)
    got = jax.jit(lambda v, x: backbone.apply(v, x, train=False))(variables, nhwc(x))
    by_stride = {y.shape[-1]: y for y in want}
    for level in levels:
        theirs_at = by_stride[64 // backbone.strides[level]]
        assert np.linalg.norm(nchw(got[level]) - theirs_at.numpy()) <= 1e-4 * np.linalg.norm(theirs_at.numpy()), level
