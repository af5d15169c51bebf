"""VGG: timm's and torchvision's."""

from jaxvision.backbones import vgg
from tests.parity.references.reference import Reference, from_timm, from_torchvision


def levels_of(depth: int, normed: bool) -> dict[str, str]:
    """Our levels, as inputs of the poolings."""
    levels, index = {}, 0
    for i, count in enumerate(vgg.STAGES[depth]):
        index += count * (3 if normed else 2)
        levels[f"c{i}"] = f"<features.{index}"
        index += 1
    return {**levels, "c5": f"features.{index - 1}"}


def _reference(name, make, **options):
    fields = vgg.SIZES[name]
    return Reference(make(name), "vgg", levels_of(fields["depth"], "norm" in fields), **options)


REFERENCES = {
    **{name: _reference(name, from_timm) for name in vgg.SIZES},
    **{
        f"torchvision:{name}": _reference(name, from_torchvision, source="torchvision", ours=name)
        for name in ("vgg11", "vgg16_bn")
    },
}

FAMILIES = {"vgg": ("vgg",)}

TORCHVISION = r"vgg\d+(_bn)?"
