"""RepVGG: timm's, and those with two groups built from its parts."""

import torch

from jaxvision.backbones import repvgg
from tests.parity.references.reference import Reference, from_timm

LEVELS = {"c1": "stem", **{f"c{i + 2}": f"stages.{i}" for i in range(4)}}


def _two_groups(name):
    """The authors' grouped networks, of which timm has those with four groups only."""

    def make():
        from timm.models.byobnet import ByobNet, ByoModelCfg, _rep_vgg_bcfg

        factors = [width / 64 / 2**i for i, width in enumerate(repvgg.SIZES[name]["widths"])]
        return ByobNet(ByoModelCfg(_rep_vgg_bcfg(wf=tuple(factors), groups=2), stem_type="rep", stem_chs=64))

    return make


def _gated():
    """With milder gates: 24 blocks of sharp ones on maps of 4x4 pixels let rounding grow to the size of the signal."""
    model = from_timm("repvgg_d2se")()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("attn.fc2.weight"):
                parameter *= 0.1
    return model


def _reference(name):
    make, size = _two_groups(name) if name.endswith("g2") else from_timm(name), 64
    if name == "repvgg_d2se":
        make, size = _gated, 128
    return Reference(make, "repvgg", LEVELS, size=size, temper=lambda model: None)


REFERENCES = {name: _reference(name) for name in repvgg.SIZES}

FAMILIES = {"byobnet": ("repvgg",)}

EXCLUDED = {
    "byobnet": {
        r"mobileone_.*": "MobileOne is another family",
        r"gernet_.*": "GPU-efficient networks are another family",
        r"regnetz_.*": "timm's own networks of inverted bottlenecks, no RegNet of the paper",
        r"resnet\d+(x\d+)?_clip(_gap)?": "the image encoders of CLIP belong to that model",
        r"resnet50_mlp": "the image encoder of another vision-language model",
        r"(se|gc|eca_)?resnet\d+(ts|t|q)|(se|gc|eca_|bat_)?resnext\d+ts": "timm's experiments with stems and attention",
        r"test_byobnet": "a model of timm's own tests",
    },
}

SMALLEST = ("repvgg_a0", "repvgg_b0")
"""The grouped and squeezed ones are too large and follow in shallow forms, in `test_repvgg`."""
