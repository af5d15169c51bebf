"""Configs: plain data that selects task, model, data and schedule. See `configs/` for examples.

    config = load("configs/classification/lenet5_digits.py:smoke", [("schedule.epochs", "3")])
    model = build("model", config.model)

`blank` and `complete` are what a config file begins and ends with, `load` runs one, `build` makes the objects.
"""

from jaxvision.config.build import build, section
from jaxvision.config.complete import blank, complete, complete_saved, import_extensions
from jaxvision.config.files import (
    config_name,
    config_names,
    config_roots,
    load,
    make_configs_importable,
    shipped_configs,
)
from jaxvision.config.node import Config, ConfigError, to_plain
from jaxvision.config.overrides import apply_overrides, split_overrides
from jaxvision.config.sections import (
    Checkpoint,
    Data,
    EarlyStopping,
    Evaluation,
    Experiment,
    Log,
    Parallel,
    Rule,
    Schedule,
)
from jaxvision.config.text import config_hash, describe, facts, from_json, origins, to_json
from jaxvision.config.types import literal

__all__ = [
    "Checkpoint",
    "Config",
    "ConfigError",
    "Data",
    "EarlyStopping",
    "Evaluation",
    "Experiment",
    "Log",
    "Parallel",
    "Rule",
    "Schedule",
    "apply_overrides",
    "blank",
    "build",
    "complete",
    "complete_saved",
    "config_hash",
    "config_name",
    "config_names",
    "config_roots",
    "describe",
    "facts",
    "from_json",
    "import_extensions",
    "literal",
    "load",
    "make_configs_importable",
    "notes",
    "origins",
    "section",
    "shipped_configs",
    "split_overrides",
    "to_json",
    "to_plain",
]


def notes(config: Config) -> tuple[str, ...]:
    """What completing the config dropped, one line each."""
    return config._notes
