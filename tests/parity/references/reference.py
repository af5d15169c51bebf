"""How another library builds a network, and where its levels are."""

import dataclasses
import importlib
from collections.abc import Callable, Mapping

import torch

from tests.parity.torch_weights import load_tool

torchvision = load_tool("torchvision_cpu").torchvision
timm = importlib.import_module("timm")  # needs the former

RESNET_LEVELS = {"c1": "<maxpool", **{f"c{i + 1}": f"layer{i}" for i in range(1, 5)}}


@torch.no_grad()
def damp(model: torch.nn.Module) -> None:
    """Scales the last norm of every residual branch by 0.3 and the logits of split attention by 0.2.

    Random branches as strong as their shortcuts double a rounding error every other block, so that over fifty of them
    float32 is off by more than 1e-3 in the reference, too; those of trained networks do not.
    """
    for module in model.modules():
        last = getattr(module, "bn3", getattr(module, "bn2", None))
        if hasattr(module, "conv2") and last is not None:
            last.weight *= 0.3
    for name, parameter in model.named_parameters():
        if name.endswith("conv2.fc2.weight"):
            parameter *= 0.2


@dataclasses.dataclass(frozen=True)
class Reference:
    """A network of another library.

    Attributes:
      make: builds it, with 1000 classes.
      family: module of `jaxvision.backbones`.
      levels: our level -> the submodule whose output [B, C, H, W] it is; with "<" in front, whose input.
      source: whose names its parameters have: a table of the family's `KEYS`.
      ours: our registered name; None: the key of the row.
      size: side of the images.
      temper: called on the calibrated network.
      outputs: gives every level [B, C, H, W] (or [B, C]) and "logits" in place of `levels`: `outputs(model, x)`.
      tolerance: of levels and logits in float32; three times the own rounding of the reference where that is more.
    """

    make: Callable[[], torch.nn.Module]
    family: str
    levels: Mapping[str, str] = dataclasses.field(default_factory=lambda: RESNET_LEVELS)
    source: str = "timm"
    ours: str | None = None
    size: int = 64
    temper: Callable[[torch.nn.Module], None] = damp
    outputs: Callable[[torch.nn.Module, torch.Tensor], Mapping[str, torch.Tensor]] | None = None
    tolerance: float = 1e-4


def from_timm(name: str, **options) -> Callable[[], torch.nn.Module]:
    """Builds timm's model of this name."""
    return lambda: timm.create_model(name, **options)


def from_torchvision(name: str, **options) -> Callable[[], torch.nn.Module]:
    """Builds torchvision's model of this name."""
    return lambda: torchvision.models.get_model(name, weights=None, **options)
