"""The engine: state, step, devices and loop. It knows the `Task` protocol and no direction."""

from jaxvision.engine.metrics import HostMetric, Metric
from jaxvision.engine.task import Aux, Context, Objective, Task

__all__ = ["Aux", "Context", "HostMetric", "Metric", "Objective", "Task"]
