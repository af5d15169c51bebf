"""jaxvision: the whole of computer vision in one pure-JAX library."""

import importlib
from typing import Any

__version__ = "0.1.0"

__all__ = [
    "FeatureExtractor",
    "Inferencer",
    "create_model",
    "inference_model",
    "init_model",
    "list_models",
    "load_pretrained",
    "show_result_pyplot",
    "weight_card",
]

_LAZY = {
    "FeatureExtractor": "jaxvision.features",
    "Inferencer": "jaxvision.inference",
    "inference_model": "jaxvision.inference",
    "init_model": "jaxvision.inference",
    "load_pretrained": "jaxvision.pretrained.load",
    "show_result_pyplot": "jaxvision.inference",
    "weight_card": "jaxvision.pretrained.cards",
}
"""What is imported when it is asked for."""


def list_models(pattern: str = "*") -> tuple[str, ...]:
    """Names of the registered models that match a shell pattern: `list_models("resnet*")`."""
    from jaxvision import registry

    return registry.names("model", pattern)


def create_model(name: str, **arguments: Any) -> Any:
    """The `flax.linen.Module` of a registered model: `create_model("resnet50", num_classes=1000)`.

    A part can be replaced by name, or changed by a dict: `create_model("resnet50", backbone=dict(norm="gn"), ...)`.
    """
    from jaxvision.config import build

    return build("model", {"name": name, **arguments})


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'jaxvision' has no attribute {name!r}")
