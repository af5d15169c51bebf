"""ShuffleNet v1: the paper's table 1 written in torch with OpenMMLab's names, since no library here has it.

The golden fixture of OpenMMLab's network (`test_shufflenet`) holds the form with three groups.
"""

import torch
from torch import nn

from jaxvision.backbones import shufflenet_v1
from tests.parity.references.reference import Reference

LEVELS = {"c1": "<maxpool", "c2": "maxpool", **{f"c{i + 3}": f"backbone.layers.{i}" for i in range(3)}}
WIDTHS = {1: 144, 2: 200, 3: 240, 4: 272, 8: 384}


class ConvNorm(nn.Module):
    def __init__(self, inputs, outputs, kernel=1, stride=1, groups=1):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x):
        return self.bn(self.conv(x))


class Unit(nn.Module):
    def __init__(self, inputs, outputs, groups, first_groups, joins):
        super().__init__()
        middle = outputs // 4
        self.groups, self.shortcut = groups, nn.AvgPool2d(3, 2, 1) if joins else None
        self.g_conv_1x1_compress = ConvNorm(inputs, middle, groups=first_groups)
        self.depthwise_conv3x3_bn = ConvNorm(middle, middle, 3, 2 if joins else 1, middle)
        self.g_conv_1x1_expand = ConvNorm(middle, outputs - inputs if joins else outputs, groups=groups)
        self.relu, self.last_relu = nn.ReLU(), nn.ReLU()
        self.shuffle = nn.ChannelShuffle(groups)

    def forward(self, x):
        y = self.depthwise_conv3x3_bn(self.relu(self.g_conv_1x1_compress(x)))
        y = self.g_conv_1x1_expand(self.shuffle(y))
        return torch.cat((self.shortcut(x), self.last_relu(y)), 1) if self.shortcut else self.last_relu(x + y)


class ShuffleNet(nn.Module):
    def __init__(self, groups=3, width=1.0):
        super().__init__()
        inputs, first = int(24 * width), WIDTHS[groups] * width
        stages = []
        stem = ConvNorm(3, inputs, 3, 2)
        for i, depth in enumerate((4, 8, 4)):
            units, outputs = [], int(first * 2**i)
            for j in range(depth):
                units.append(Unit(inputs, outputs, groups, 1 if i == j == 0 else groups, j == 0))
                inputs = outputs
            stages.append(nn.Sequential(*units))
        self.backbone = nn.ModuleDict({"conv1": stem, "layers": nn.ModuleList(stages)})
        self.relu, self.maxpool = nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        self.head = nn.ModuleDict({"fc": nn.Linear(inputs, 1000)})

    def forward(self, x):
        x = self.maxpool(self.relu(self.backbone.conv1(x)))
        for stage in self.backbone.layers:
            x = stage(x)
        return self.head.fc(x.mean((2, 3)))


def _reference(fields):
    return Reference(lambda: ShuffleNet(**fields), "shufflenet_v1", LEVELS, "openmmlab")


REFERENCES = {name: _reference(fields) for name, fields in shufflenet_v1.SIZES.items()}

SMALLEST = ("shufflenet_v1_x0_25", "shufflenet_v1_x1_0_g1", "shufflenet_v1_x1_0_g8")
