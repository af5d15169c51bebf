"""MobileNet v2 and v3 and EfficientNet: timm's, torchvision's with numbers of their own, Google's MobileNet v2."""

import torch

from jaxvision.backbones import efficientnet, mobilenet_v2, mobilenet_v3
from tests.parity.references.reference import Reference, from_timm, from_torchvision

SEVEN = {"c1": "blocks.0", "c2": "blocks.1", "c3": "blocks.2", "c4": "blocks.4", "c5": "blocks.6"}
SMALL = {"c1": "bn1", "c2": "blocks.0", "c3": "blocks.1", "c4": "blocks.3", "c5": "blocks.5"}
"""Of timm's networks, as its `features_only` has them."""


@torch.no_grad()
def damp(model):
    """Scales the last norm of every block that has a shortcut by 0.3, as `reference.damp` does and for its reason."""
    for module in model.modules():
        if getattr(module, "has_skip", False) or getattr(module, "use_res_connect", False):
            norms = [m for m in module.modules() if isinstance(m, torch.nn.BatchNorm2d)]
            norms[-1].weight *= 0.3


def _timm(name, family, levels=SEVEN):
    return Reference(from_timm(name), family, levels, temper=damp)


def _torchvision(name, family, levels, ours=None):
    places = {level: f"features.{place}" for level, place in zip(SEVEN, levels, strict=True)}
    return Reference(from_torchvision(name), family, places, "torchvision", ours, temper=damp)


def google_mobilenet_v2(width):
    """transformers' MobileNet v2."""

    def make():
        from transformers import MobileNetV2Config, MobileNetV2ForImageClassification

        class Logits(MobileNetV2ForImageClassification):
            def forward(self, x):
                return super().forward(x).logits

        return Logits(MobileNetV2Config(depth_multiplier=width, num_labels=1000))

    layers = {level: f"mobilenet_v2.layer.{i}" for level, i in (("c2", 1), ("c3", 4), ("c4", 11), ("c5", 15))}
    levels = {"c1": "mobilenet_v2.conv_stem", **layers}
    return Reference(make, "mobilenet_v2", levels, "huggingface", temper=lambda model: None)


def _ours(sizes, other):
    return [name for name in sizes if not name.startswith(other)]


REFERENCES = {
    **{name: _timm(name, "mobilenet_v2") for name in _ours(mobilenet_v2.SIZES, "huggingface/")},
    **{
        name: google_mobilenet_v2(fields["width"])
        for name, fields in mobilenet_v2.SIZES.items()
        if name.startswith("huggingface/")
    },
    "torchvision:mobilenet_v2": _torchvision("mobilenet_v2", "mobilenet_v2", (1, 3, 6, 13, 17), "mobilenetv2_100"),
    **{
        name: _timm(name, "mobilenet_v3", SMALL if "small" in name else SEVEN)
        for name in _ours(mobilenet_v3.SIZES, "mobilenet_v3_")
    },
    "mobilenet_v3_large": _torchvision("mobilenet_v3_large", "mobilenet_v3", (1, 3, 6, 12, 16)),
    "mobilenet_v3_small": _torchvision("mobilenet_v3_small", "mobilenet_v3", (0, 1, 3, 8, 12)),
    **{name: _timm(name, "efficientnet") for name in _ours(efficientnet.SIZES, "torchvision/")},
    "torchvision:efficientnet_b0": _torchvision(
        "efficientnet_b0", "efficientnet", (1, 2, 3, 5, 7), ours="efficientnet_b0"
    ),
    **{
        f"torchvision/efficientnet_{size}": _torchvision(f"efficientnet_{size}", "efficientnet", (1, 2, 3, 5, 7))
        for size in ("b5", "b6", "b7")
    },
}

FAMILIES = {"efficientnet": ("efficientnet", "mobilenet_v2"), "mobilenetv3": ("mobilenet_v3",)}

EXCLUDED = {
    "efficientnet": {
        r"efficientnet_b\d(_g\d+)?_(gn|evos)": "group norms in groups of so many channels, grouped convolutions",
        r"efficientnet_b\d_pruned": "channels of no rule",
        r"efficientnet_blur_b0": "anti-aliased strides are another structure",
        r"(tf_)?efficientnet_l2": "480 million parameters, beyond the sizes B0 to B8",
        r"(tf_)?efficientnet_(cc_b\d_\de|e[sml](_pruned)?|lite\d)": "conditional, EdgeTPU and lite forms: other blocks",
        r"efficientnet_[hx]_b\d": "timm's experiments with space to depth and other activations",
        r"(tf_|gc_)?efficientnetv2_.*": "EfficientNet v2 is another family",
        r"mobilenetv1_.*": "MobileNet v1 is another family",
        r"mobilenet_edgetpu_.*": "fused blocks for the EdgeTPU",
        r"(tf_)?mixnet_.*": "mixed kernel sizes are another structure",
        r"(sem|sp)?nasnet_.*|mnasnet_.*|fbnetc_100|tinynet_.": "networks found by other searches: other families",
        r"test_efficientnet.*": "models of timm's own tests",
    },
    "mobilenetv3": {
        r"fbnetv3_.": "FBNet v3 is another family",
        r"lcnet_.*": "LCNet is another family",
        r"mobilenetv4_.*": "MobileNet v4 is another family",
    },
    "torchvision": {r"efficientnet_v2_.": "EfficientNet v2 is another family"},
}

TORCHVISION = r"mobilenet_v\d.*|efficientnet_.*"

SMALLEST = (
    *("mobilenetv2_035", "mobilenetv2_110d", "huggingface/mobilenetv2_035", "torchvision:mobilenet_v2"),
    *("mobilenetv3_small_050", "mobilenetv3_rw", "mobilenetv3_large_075"),
    *("tf_mobilenetv3_small_075", "tf_mobilenetv3_small_minimal_100", "mobilenet_v3_small", "mobilenet_v3_large"),
    *("efficientnet_b0", "tf_efficientnet_b0", "torchvision:efficientnet_b0"),
)
