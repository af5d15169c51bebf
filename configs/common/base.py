"""What every config begins and ends with.

config = base.get_config(arg)     # empty sections: task, model, data, schedule, ...
...                               # assign what differs from the defaults of `jaxvision.config`
return base.complete(config)      # writes every default, checks names and types, applies `smoke`, locks
"""

from collections.abc import Sequence

from jaxvision import registry
from jaxvision.config import Config, ConfigError, blank, complete

__all__ = ["complete", "get_config"]


def get_config(arg: str = "", args: Sequence[str] = ()) -> Config:
    """An empty config.

    Args:
      arg: what follows the colon of `--config=file.py:arg`; several are separated by commas. `smoke` is the tiny form.
      args: further ones that this config knows and looks for itself.
    """
    known = ("smoke", *args)
    for part in filter(None, arg.split(",")):
        if part not in known:
            raise ConfigError(f"unknown config arg {part!r}: {registry.hint(part, known)}")
    return blank(arg)
