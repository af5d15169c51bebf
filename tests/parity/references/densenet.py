"""DenseNet: timm's and torchvision's."""

from jaxvision.backbones import densenet
from tests.parity.references.reference import Reference, from_timm, from_torchvision


def levels_of(last_of_stem: int = 0) -> dict[str, str]:
    """Our levels in timm, where norms hold their activations."""
    blocks = {f"c{i + 2}": f"features.denseblock{i + 1}" for i in range(3)}
    return {"c1": f"features.norm{last_of_stem}", **blocks, "c5": "features.norm5"}


_TORCHVISION_LEVELS = {**levels_of(), "c1": "features.relu0"}
del _TORCHVISION_LEVELS["c5"]  # its last activation is not a module

REFERENCES = {
    **{
        name: Reference(from_timm(name), "densenet", levels_of(2 if fields.get("stem") == "deep" else 0))
        for name, fields in densenet.SIZES.items()
    },
    "torchvision:densenet121": Reference(
        from_torchvision("densenet121"), "densenet", _TORCHVISION_LEVELS, "torchvision", ours="densenet121"
    ),
}

FAMILIES = {"densenet": ("densenet",)}

EXCLUDED = {"densenet": {"densenetblur121d": "anti-aliased strides are another structure"}}

TORCHVISION = r"densenet\d+"

SMALLEST = ("densenet121", "torchvision:densenet121")
