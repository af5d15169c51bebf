"""Models on their way out: exported predictors, the light loader that runs them, and the plan for a TPU pod.

from jaxvision import deploy

deploy.export_model(jaxvision.loading.load_model("runs/lenet5_digits"), "lenet5.stablehlo")
deploy.load("lenet5.stablehlo")("seven.png")
"""

import importlib
from typing import Any

_LAZY = {"Exported": "exported", "export_model": "export", "load": "exported"}
"""What is imported when it is asked for: a loader needs nothing of what an export does."""


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"jaxvision.deploy.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'jaxvision.deploy' has no attribute {name!r}")
