"""Toy constructors and configs for the tests of this folder."""

import dataclasses
from typing import Any, Literal

import pytest

from jaxvision.config import Config, ConfigError, apply_overrides, blank, complete


@dataclasses.dataclass(frozen=True)
class Part:
    size: int = 3
    scale: float = 1.0


@dataclasses.dataclass(frozen=True)
class Net:
    """A model with every type of parameter."""

    width: int
    backbone: Any = None
    norm: Any = None
    part: Part = Part()
    rate: float = 0.5
    sizes: tuple[int, ...] = (1, 2)
    pair: tuple[int, float] = (1, 2.0)
    act: Literal["relu", "gelu"] = "relu"
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)
    limit: float | None = None
    flag: bool = False
    note: str | None = None


def block(depth: int, *, norm: Any = "bn", keep: float = 1.0):
    return "block", depth, norm, keep


def open_block(**anything):
    return dict(anything)


@dataclasses.dataclass(frozen=True)
class Job:
    model: Any
    weight: float = 1.0


def written(**changes) -> Config:
    config = blank()
    config.task = "job"
    config.model = "net"
    config.data.source = "digits"
    config.schedule = {"epochs": 3, "learning_rate": {"value": 0.1}}
    for path, value in changes.items():
        *parents, key = path.split("__")
        owner = config
        for parent in parents:
            owner = owner[parent]
        owner[key] = value
    return config


def completed(**changes) -> Config:
    return complete(written(**changes))


def overridden(*pairs, **changes) -> Config:
    return apply_overrides(completed(**changes), [tuple(pair.split("=", 1)) for pair in pairs])


def fails(match, call, *args, **kwargs):
    """Asserts one line that matches."""
    with pytest.raises(ConfigError, match=match) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)
