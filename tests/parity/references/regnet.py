"""RegNet X and Y: timm's, and torchvision's of some sizes."""

from unittest import mock

import torch

from jaxvision.backbones import regnet
from tests.parity.references.reference import Reference, from_timm, from_torchvision, torchvision

LEVELS = {"c1": "stem", **{f"c{i + 1}": f"s{i}" for i in range(1, 5)}}
TORCHVISION_LEVELS = {"c1": "stem", **{f"c{i + 1}": f"trunk_output.block{i}" for i in range(1, 5)}}


@torch.no_grad()
def damp_last_norms(model):
    """Scales the last norm of every residual branch by 0.3, see `reference.damp`."""
    for name, parameter in model.named_parameters():
        if name.endswith(("conv3.bn.weight", ".f.c.1.weight")):
            parameter *= 0.3


def in_torchvision(name, ours):
    """A row of torchvision's; its widths come from tensors, which must have values also where its layers have none."""
    params = torchvision.models.regnet.BlockParams
    compute = params.from_init_params

    def on_cpu(**options):
        with torch.device("cpu"):
            return compute(**options)

    def make():
        with mock.patch.object(params, "from_init_params", on_cpu):
            return from_torchvision(name)()

    return Reference(make, "regnet", TORCHVISION_LEVELS, "torchvision", ours, temper=damp_last_norms)


REFERENCES = {
    **{name: Reference(from_timm(name), "regnet", LEVELS, temper=damp_last_norms) for name in regnet.SIZES},
    "torchvision:regnet_x_400mf": in_torchvision("regnet_x_400mf", "regnetx_004_tv"),
    "torchvision:regnet_y_400mf": in_torchvision("regnet_y_400mf", "regnety_004"),
    "torchvision:regnet_y_800mf": in_torchvision("regnet_y_800mf", "regnety_008_tv"),
}

FAMILIES = {"regnet": ("regnet",)}

EXCLUDED = {
    "regnet": {
        r"regnetv_.*": "normalised before the convolutions: timm's own experiment, another structure",
        r"regnetz_.*": "RegNetZ (Dollar et al. 2021) is a network of inverted bottlenecks, another structure",
        r"regnety_040_sgn": "timm's own experiment with SiLU and group norm of fixed group size",
    },
}

TORCHVISION = r"regnet_[xy]_.*"

SMALLEST = ("regnetx_002", "regnetx_004_tv", "regnety_002", "regnety_008_tv", "torchvision:regnet_y_400mf")
