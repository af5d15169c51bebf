"""Swin Transformer, both versions: timm's at the published image sizes, torchvision's at small ones (with padding)."""

import re

import torch

from jaxvision.backbones import swin, swin_v2
from tests.parity.references.reference import Reference, from_timm, from_torchvision

TIMM_LEVELS = {f"c{i + 2}": f"layers.{i}" for i in range(4)}
TORCHVISION_LEVELS = {f"c{i + 2}": f"features.{2 * i + 1}" for i in range(4)}

TOLERANCE = {"swin": 1e-4, "swin_v2": 1e-3}
"""Cosines that are multiplied with up to 100 before the softmax magnify rounding: torch's own float32 is off by 2.6e-4
from its float64 on the last level of swin_v2_t."""


@torch.no_grad()
def temper(model: torch.nn.Module) -> None:
    """Draws what initialisation leaves small or equal: kernels, norms, biases, tables of relative positions, scales.

    Fresh attention is uniform: nothing of queries, keys, masks and tables would be seen.
    """
    for module in model.modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
            module.weight *= module.weight[0].numel() ** -0.5 / module.weight.std()
            if module.bias is not None:
                module.bias.normal_(0, 0.1)
        elif isinstance(module, torch.nn.LayerNorm):
            module.weight.uniform_(0.7, 1.3)
            module.bias.normal_(0, 0.2)
    for name, parameter in model.named_parameters():
        if name.endswith("relative_position_bias_table"):
            parameter.normal_(0, 1)
        elif name.endswith(("q_bias", "v_bias", "query.bias", "value.bias")):
            parameter.normal_(0, 0.1)
        elif name.endswith("logit_scale"):
            parameter.uniform_(1, 5)  # the limit is log(100) = 4.6
        elif re.search(r"(cpb|continuous_position_bias)_mlp\.2\.weight", name):
            parameter *= 2


def channels_last(model: torch.nn.Module, x: torch.Tensor, levels: dict[str, str]) -> dict[str, torch.Tensor]:
    """The outputs of submodules, [B, H, W, C], as [B, C, H, W], and the logits."""
    found = {}
    hooks = [
        model.get_submodule(place).register_forward_hook(
            lambda _, args, y, level=level: found.update({level: y.permute(0, 3, 1, 2).clone()})
        )
        for level, place in levels.items()
    ]
    logits = model(x)
    for hook in hooks:
        hook.remove()
    return {**found, "logits": logits}


def from_timm_at(name: str, **options) -> Reference:
    """timm's network at the image size of its name."""
    size = int(re.search(r"(\d+)$", name).group(1))
    family = "swin_v2" if name.startswith("swinv2") else "swin"
    return Reference(
        from_timm(name, num_classes=1000, **options),
        family,
        TIMM_LEVELS,
        size=size,
        temper=temper,
        outputs=lambda model, x: channels_last(model, x, TIMM_LEVELS),
        tolerance=TOLERANCE[family],
    )


def from_torchvision_at(name: str, ours: str, size: int) -> Reference:
    """torchvision's network."""
    return Reference(
        from_torchvision(name),
        "swin_v2" if "v2" in name else "swin",
        TORCHVISION_LEVELS,
        "torchvision",
        ours,
        size=size,
        temper=temper,
        outputs=lambda model, x: channels_last(model, x, TORCHVISION_LEVELS),
        tolerance=TOLERANCE["swin_v2" if "v2" in name else "swin"],
    )


REFERENCES = {
    **{name: from_timm_at(name) for name in (*swin.SIZES, *swin_v2.SIZES)},
    "torchvision:swin_t": from_torchvision_at("swin_t", "swin_tiny_patch4_window7_224", 100),
    "torchvision:swin_v2_t": from_torchvision_at("swin_v2_t", "swinv2_tiny_window8_256", 100),
}

FAMILIES = {"swin_transformer": ("swin",), "swin_transformer_v2": ("swin_v2",)}

EXCLUDED: dict[str, dict[str, str]] = {}

TORCHVISION = r"swin_(v2_)?[tsb]"

SMALLEST = (
    *("swin_tiny_patch4_window7_224", "torchvision:swin_t"),
    *("swinv2_tiny_window8_256", "torchvision:swin_v2_t"),
)
"""The forms with other windows follow in shallow networks, in `test_swin`."""
