"""Darknet and CSPDarknet: timm's, and YOLOX's written down from its public description (the golden fixture of OpenMMLab
checks this one, too, in `test_darknet`)."""

import torch
from torch import nn

from jaxvision.backbones import csp_darknet, darknet
from tests.parity.references.reference import Reference, from_timm

DARKNET_LEVELS = {"c0": "stem", **{f"c{i + 1}": f"stages.{i}" for i in range(5)}}
YOLOX_LEVELS = {"c1": "backbone.stem", **{f"c{i + 1}": f"backbone.stage{i}" for i in range(1, 5)}}


@torch.no_grad()
def damp_last_norms(model):
    """Scales the last norm of every residual branch by 0.3, see `reference.damp`."""
    for name, parameter in model.named_parameters():
        if ".blocks." in name and name.endswith(("conv2.bn.weight", "conv2.pointwise_conv.bn.weight")):
            parameter *= 0.3


def _yolov3():
    """timm's Darknet-53 with the slope of the original."""
    model = from_timm("darknet53")()
    for module in model.modules():
        if isinstance(module, nn.LeakyReLU):
            module.negative_slope = 0.1
    return model


class _ConvNorm(nn.Module):
    def __init__(self, ins, outs, size=1, stride=1, groups=1):
        super().__init__()
        self.conv = nn.Conv2d(ins, outs, size, stride, size // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outs, eps=1e-3, momentum=0.03)

    def forward(self, x):
        return nn.functional.silu(self.bn(self.conv(x)))


class _Separable(nn.Module):
    def __init__(self, ins, outs, size=3, stride=1):
        super().__init__()
        self.depthwise_conv = _ConvNorm(ins, ins, size, stride, ins)
        self.pointwise_conv = _ConvNorm(ins, outs)

    def forward(self, x):
        return self.pointwise_conv(self.depthwise_conv(x))


class _Block(nn.Module):
    def __init__(self, width, residual, kind):
        super().__init__()
        self.conv1, self.conv2, self.residual = _ConvNorm(width, width), kind(width, width, 3), residual

    def forward(self, x):
        y = self.conv2(self.conv1(x))
        return x + y if self.residual else y


class _Csp(nn.Module):
    def __init__(self, width, depth, residual, kind):
        super().__init__()
        self.main_conv, self.short_conv = (_ConvNorm(width, width // 2) for _ in range(2))
        self.final_conv = _ConvNorm(width, width)
        self.blocks = nn.Sequential(*(_Block(width // 2, residual, kind) for _ in range(depth)))

    def forward(self, x):
        return self.final_conv(torch.cat((self.blocks(self.main_conv(x)), self.short_conv(x)), 1))


class _Pyramid(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv1, self.conv2 = _ConvNorm(width, width // 2), _ConvNorm(width * 2, width)

    def forward(self, x):
        x = self.conv1(x)
        return self.conv2(torch.cat([x, *(nn.functional.max_pool2d(x, k, 1, k // 2) for k in (5, 9, 13))], 1))


class _Focus(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = _ConvNorm(12, width, 3)

    def forward(self, x):
        return self.conv(torch.cat([x[..., i::2, j::2] for j in (0, 1) for i in (0, 1)], 1))


class _Backbone(nn.Module):
    def __init__(self, deepen, widen, depthwise=False):
        super().__init__()
        kind = _Separable if depthwise else _ConvNorm
        widths = [int(64 * 2**i * widen) for i in range(5)]
        self.stem = _Focus(widths[0])
        for i, depth in enumerate((3, 9, 9, 3)):
            width, last = widths[i + 1], i == 3
            pyramid = [_Pyramid(width)] if last else []
            layer = _Csp(width, max(round(depth * deepen), 1), not last, kind)
            self.add_module(f"stage{i + 1}", nn.Sequential(kind(widths[i], width, 3, 2), *pyramid, layer))

    def forward(self, x):
        return self.stage4(self.stage3(self.stage2(self.stage1(self.stem(x)))))


class _Classifier(nn.Module):
    def __init__(self, fields):
        super().__init__()
        self.backbone = _Backbone(**fields)
        self.head = nn.ModuleDict({"fc": nn.Linear(int(1024 * fields["widen"]), 1000)})

    def forward(self, x):
        return self.head["fc"](self.backbone(x).mean((2, 3)))


def _yolox(name):
    return Reference(
        lambda: _Classifier(csp_darknet.SIZES[name]), "csp_darknet", YOLOX_LEVELS, "openmmlab", temper=damp_last_norms
    )


def _timm(name):
    return Reference(from_timm(name), "darknet", DARKNET_LEVELS, temper=damp_last_norms)


REFERENCES = {
    **{name: _timm(name) for name in darknet.SIZES if name != "darknet53_yolov3"},
    "darknet53_yolov3": Reference(_yolov3, "darknet", DARKNET_LEVELS, temper=damp_last_norms),
    **{name: _yolox(name) for name in csp_darknet.SIZES},
}

FAMILIES = {"cspnet": ("darknet",)}

EXCLUDED = {
    "cspnet": {
        r"cspresne.*": "cross-stage ResNets are another structure",
        r"cs3.*": "timm's own cross-stage networks of three convolutions (YOLOv5's); YOLOX's are in `csp_darknet`",
    },
}

SMALLEST = ("darknet17", "sedarknet21", "darknetaa53", "cspdarknet53", "cspdarknet_nano", "cspdarknet_tiny")
