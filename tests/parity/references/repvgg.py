"""RepVGG: timm's, and those with two groups built from its parts."""

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


def _make(name):
    return _two_groups(name) if name.endswith("g2") else from_timm(name)


REFERENCES = {name: Reference(_make(name), "repvgg", LEVELS, temper=lambda model: None) for name in repvgg.SIZES}

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
