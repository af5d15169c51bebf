"""ConvNeXt and ConvNeXt V2: timm's and torchvision's."""

from jaxvision.backbones import convnext
from tests.parity.references.reference import Reference, from_timm, from_torchvision
from tests.parity.references.tempers import enliven

LEVELS = {f"c{i + 2}": f"stages.{i}" for i in range(4)}


def _timm(name):
    small = name.rpartition("convnext_")[2].removeprefix("convnextv2_").split("_")[0] in (
        "atto",
        "femto",
        "pico",
        "nano",
    )
    source = "timm/conv" if small or name.endswith("hnf") else "timm"
    return Reference(from_timm(name), "convnext", LEVELS, source, temper=enliven)


def _torchvision(name):
    levels = {f"c{i + 2}": f"features.{2 * i + 1}" for i in range(4)}
    return Reference(from_torchvision(name), "convnext", levels, "torchvision", ours=name, temper=enliven)


REFERENCES = {
    **{name: _timm(name) for name in convnext.SIZES},
    **{f"torchvision:convnext_{size}": _torchvision(f"convnext_{size}") for size in ("tiny", "small", "base", "large")},
}

FAMILIES = {"convnext": ("convnext",)}

EXCLUDED = {
    "convnext": {
        r"convnext_.*_rms(_ols)?": "its norms have no mean: another structure",
        r"test_convnext\d?": "a model of timm's own tests",
    },
}

TORCHVISION = r"convnext_.*"

SMALLEST = (
    *("convnext_atto", "convnext_atto_ols", "convnext_nano_ols", "convnext_tiny_hnf", "torchvision:convnext_tiny"),
    "convnextv2_atto",
)
"""The form with one more layer behind pooling is too large and follows in a shallow form, in `test_convnext`."""
