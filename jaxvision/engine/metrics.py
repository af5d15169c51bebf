"""Metrics as sums: `init -> update / merge -> compute`, always finalised from sums, never a mean of means."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

PyTree = Any


@runtime_checkable
class Metric(Protocol):
    """A metric accumulated on device: `update` is traced into the evaluation step and summed over devices."""

    def update(self, predictions: PyTree, batch: Mapping[str, Any]) -> PyTree:
        """Sums over the samples of this batch where `batch["valid"]` holds: a pytree of arrays that add up."""
        ...

    def compute(self, state: PyTree) -> dict[str, Any]:
        """Numpy sums of the whole data set -> {name: float or array}, on the host."""
        ...


@runtime_checkable
class HostMetric(Protocol):
    """A metric that a host tool or a whole ranking defines (COCO AP, mAP).

    The engine gathers what `select` keeps of every process, drops padding and repeated `index`, and computes once.
    """

    def select(self, predictions: PyTree, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The arrays `[B, ...]` that the metric needs, traced into the evaluation step."""
        ...

    def compute_all(self, rows: Mapping[str, Any]) -> dict[str, Any]:
        """Numpy rows of every sample of the data set, in order of `index` -> {name: float or array}."""
        ...


def merge(a: PyTree, b: PyTree) -> PyTree:
    """Adds two states of one metric."""
    return jax.tree.map(jnp.add, a, b)


def zeros_like_update(update: Any, *args: Any) -> PyTree:
    """The empty state of a metric: zeros in the shapes of its `update`."""
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(update, *args))
