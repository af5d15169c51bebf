"""Dilated, OpenMMLab's and shallow forms of ResNet, SENet and ResNeSt, and a training step of one of each family."""

import jax
import numpy as np
import pytest

from jaxvision.backbones.resnest import ResNeSt
from jaxvision.backbones.resnet import LEVELS, ResNet
from jaxvision.backbones.senet import SIZES, SENet
from jaxvision.classification.classifier import Classifier
from tests.conftest import strict
from tests.parity import zoo
from tests.parity.torch_weights import load_golden, nchw, nhwc
from tests.parity.training import check_training_step

pytestmark = pytest.mark.parity

TvResNet, TvBottleneck = zoo.torchvision.models.ResNet, zoo.torchvision.models.resnet.Bottleneck


def tv_dilated(dilate, contract=True):
    """torchvision's dilated network of two bottlenecks per stage; the first ones as dilated as the second ones if not
    `contract`, which is what OpenMMLab's detectors do."""

    def make():
        model = TvResNet(TvBottleneck, [2, 2, 2, 2], replace_stride_with_dilation=dilate)
        for stage in (model.layer3, model.layer4) if not contract else ():
            first, second = stage[0].conv2, stage[1].conv2
            first.dilation, first.padding = second.dilation, second.padding
        return model

    return make


def senet(blocks, legacy):
    """timm's SENet-154 with one block per stage: (our network, its reference)."""
    name = "legacy_senet154" if legacy else "senet154"
    full = zoo.references()[name]
    if legacy:
        from timm.models.senet import SEBottleneck
        from timm.models.senet import SENet as TimmSENet

        make = lambda: TimmSENet(  # noqa: E731
            SEBottleneck, blocks, 64, 16, downsample_kernel_size=3, downsample_padding=1, inplanes=128, input_3x3=True
        )
    else:
        make = lambda: zoo.timm.create_model(name, layers=blocks)  # noqa: E731
    fields = {**SIZES[name], "depth": 14, "out_levels": LEVELS}
    return SENet(**fields), zoo.Reference(make, "senet", full.levels, full.source)


def timm_dilated(name, output_stride):
    return lambda: zoo.timm.create_model(name, output_stride=output_stride)


FORMS = {
    "26 at 16": (ResNet(26, output_stride=16, out_levels=LEVELS), tv_dilated([False, False, True])),
    "26 at 8": (ResNet(26, output_stride=8, out_levels=LEVELS), tv_dilated([False, True, True])),
    "26 at 8, not contracted": (
        ResNet(26, output_stride=8, contract_dilation=False, out_levels=LEVELS),
        tv_dilated([False, True, True], contract=False),
    ),
    "18 at 8": (ResNet(18, output_stride=8, out_levels=LEVELS), timm_dilated("resnet18", 8)),
    "seresnet18 at 16": (SENet(18, output_stride=16, out_levels=LEVELS), timm_dilated("seresnet18", 16)),
}


@pytest.mark.parametrize("form", FORMS)
def test_dilated_forms_equal_torchvision_and_timm(form):
    ours, make = FORMS[form]
    reference = zoo.Reference(make, "resnet")
    model, x = zoo.calibrated(reference, 64)
    errors = zoo.compare(model, reference, Classifier(ours, 1000), x)
    assert max(errors.values()) <= reference.tolerance, errors


@pytest.mark.parametrize("legacy", [False, True])
def test_shallow_senet154_equals_timm(legacy):
    ours, reference = senet((1, 1, 1, 1), legacy)
    model, x = zoo.calibrated(reference, 64)
    errors = zoo.compare(model, reference, Classifier(ours, 1000), x)
    assert max(errors.values()) <= reference.tolerance, errors


GOLDEN = {
    "mmpretrain_resnetv1d50": (ResNet(50, stem="deep", shortcut="avg"), "openmmlab/v1d"),
    "mmpretrain_seresnet50": (SENet(50), "openmmlab"),
    "mmpretrain_resnest50": (ResNeSt(50), "openmmlab/v1d"),
    "mmdet_fcos_r50-caffe_fpn_gn-head": (ResNet(50, style="caffe"), "openmmlab"),
    "mmseg_pspnet_r50-d8": (ResNet(50, stem="deep", output_stride=8), "openmmlab/v1c sequential"),
    "mmseg_upernet_r50": (ResNet(50, stem="deep"), "openmmlab/v1c sequential"),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_the_golden_networks_of_openmmlab_are_reproduced(name):
    golden, fixture = load_golden(name)
    backbone, source = GOLDEN[name]
    classifier = "head" in fixture.output_shapes and name.startswith("mmpretrain")
    model, images = Classifier(backbone, 1000), nhwc(golden.inputs(fixture))
    weights = golden.state_dict(fixture)
    kept = ("backbone.", "head.fc.") if classifier else ("backbone.",)
    weights = {key: value for key, value in weights.items() if key.startswith(kept)}
    if not classifier:
        weights |= {"head.fc.weight": np.zeros((1000, 2048)), "head.fc.bias": np.zeros(1000)}
    variables = zoo.variables_of(model, zoo.Reference(lambda: None, "", source=source), weights)
    with strict():
        if classifier:
            outputs = zoo.run_ours(model, variables, images)
            outputs = {
                "backbone/0": outputs["c5"],
                "neck/0": outputs["c5"].mean(axis=(2, 3)),
                "head": outputs["logits"],
            }
        else:
            variables = {collection: tree["backbone"] for collection, tree in variables.items()}
            levels = jax.jit(lambda v, x: backbone.apply(v, x, train=False))(variables, images)
            outputs = {f"backbone/{i}": nchw(y) for i, y in enumerate(levels.values())}
    assert {key for key in fixture.output_shapes if key.startswith("backbone")} <= set(outputs)
    for key, output in outputs.items():
        difference = golden.compare(fixture, key, output)
        print(name, key, f"{difference:.1e}", f"allowed {golden.tolerance(fixture, key):.1e}")
        assert difference <= golden.tolerance(fixture, key)


TRAINED = {
    "resnext14": (
        ResNet(14, groups=32, width_per_group=4),
        zoo.Reference(lambda: TvResNet(TvBottleneck, [1, 1, 1, 1], groups=32, width_per_group=4), "resnet"),
    ),
    "seresnet18": (SENet(18), zoo.references()["seresnet18"]),
    "resnest14d": (ResNeSt(14), zoo.references()["resnest14d"]),
}


@pytest.mark.parametrize("name", TRAINED)
def test_a_training_step_equals_torch(name, monkeypatch):
    print(name, f"worst gradient {check_training_step(*TRAINED[name], monkeypatch):.1e}")
