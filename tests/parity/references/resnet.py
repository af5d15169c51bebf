"""ResNet, SE-ResNet and ResNeSt: timm's, torchvision's with moved strides or OpenMMLab's CIFAR stem."""

import torch

from jaxvision.backbones import resnest, resnet, senet
from tests.parity.references.reference import RESNET_LEVELS, Reference, from_timm, from_torchvision, torchvision


def _caffe(depth):
    """torchvision's ResNet with the strides moved to the first 1x1 convolutions, which is what "caffe" means."""

    def make():
        model = getattr(torchvision.models, f"resnet{depth}")(weights=None)
        for block in (model.layer2[0], model.layer3[0], model.layer4[0]):
            block.conv1.stride, block.conv2.stride = (2, 2), (1, 1)
        return model

    return make


def _cifar(depth):
    """torchvision's ResNet with OpenMMLab's CIFAR stem."""

    def make():
        model = getattr(torchvision.models, f"resnet{depth}")(weights=None)
        model.conv1 = torch.nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        model.maxpool = torch.nn.Identity()
        return model

    return make


def _resnext152():
    block = torchvision.models.resnet.Bottleneck
    return torchvision.models.ResNet(block, [3, 8, 36, 3], groups=32, width_per_group=4)


def _senet(name):
    if not name.startswith("legacy_"):
        return Reference(from_timm(name), "senet")
    source = "timm/legacy_senet154" if name == "legacy_senet154" else "timm/legacy"
    return Reference(from_timm(name), "senet", {**RESNET_LEVELS, "c1": "<pool0"}, source)


REFERENCES = {
    **{name: Reference(from_timm(name), "resnet") for name in resnet.SIZES},
    **{f"resnet{depth}_caffe": Reference(_caffe(depth), "resnet") for depth in (50, 101)},
    **{f"resnet{depth}_cifar": Reference(_cifar(depth), "resnet") for depth in (18, 34, 50, 101, 152)},
    "resnext152_32x4d": Reference(_resnext152, "resnet"),
    "torchvision:resnet18": Reference(from_torchvision("resnet18"), "resnet", source="torchvision", ours="resnet18"),
    **{name: _senet(name) for name in senet.SIZES},
    **{name: Reference(from_timm(name), "resnest") for name in resnest.SIZES},
}

FAMILIES = {"resnet": ("resnet", "senet"), "senet": ("senet",), "resnest": ("resnest",)}

EXCLUDED = {
    "resnet": {
        r"ecaresnet.*|ecaresnext.*": "efficient channel attention is another structure",
        r"resnetaa.*|seresnetaa.*|seresnextaa.*|resnetblur.*": "anti-aliased strides are another structure",
        r"resnetrs.*": "ResNet-RS is another family",
        r"test_resnet": "a model of timm's own tests",
    },
}

TORCHVISION = r"(resnet|resnext|wide_resnet)\d+(_\d+x\d+d|_2)?"

SMALLEST = (
    *("resnet10t", "resnet14t", "resnet18d", "resnet26", "resnet18_cifar", "resnet50c", "resnet50s", "resnet50_caffe"),
    *("resnet50_gn", "wide_resnet50_2", "resnext50_32x4d", "resnext50d_32x4d", "torchvision:resnet18"),
    *("seresnet18", "seresnet50t", "seresnext26d_32x4d", "legacy_seresnet18", "legacy_seresnet50"),
    *("legacy_seresnext26_32x4d", "resnest14d", "resnest50d_4s2x40d", "resnest50d_1s4x24d"),
)
"""The SENets are too large and follow in shallow forms, in `test_resnet_forms`."""
