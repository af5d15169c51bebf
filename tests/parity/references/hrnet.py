"""HRNet: timm's."""

from jaxvision.backbones import hrnet
from tests.parity.references.reference import Reference, from_timm

LEVELS = ("c1", "c2", "c3", "c4", "c5")


def outputs(model, x):
    """timm's own layers, whose branches come as lists."""
    first = model.act1(model.bn1(model.conv1(x)))
    branches = model.stages(model.act2(model.bn2(model.conv2(first))))
    return {"logits": model(x), "c1": first, **{f"c{i + 2}": y for i, y in enumerate(branches)}}


REFERENCES = {
    name: Reference(from_timm(name), "hrnet", dict.fromkeys(LEVELS, ""), outputs=outputs) for name in hrnet.SIZES
}

FAMILIES = {"hrnet": ("hrnet",)}

SMALLEST = ("hrnet_w18_small", "hrnet_w18_ssld")
