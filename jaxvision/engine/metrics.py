"""Metrics as sums: `init -> update / merge -> compute`, always finalised from sums, never a mean of means."""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

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
    A metric whose rows are too large to wait for the end also has `condense(rows) -> rows`, which the host calls for
    the gathered rows of each batch; its arrays may hold objects.
    """

    def select(self, predictions: PyTree, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The arrays `[B, ...]` that the metric needs, traced into the evaluation step."""
        ...

    def compute_all(self, rows: Mapping[str, Any]) -> dict[str, Any]:
        """Numpy rows of every sample of the data set, in order of `index` -> {name: float or array}."""
        ...


@flax.struct.dataclass
class StepMetrics:
    """The (sum, count) pairs of a train step in one array: fetching thirty scalars one by one takes as long as a step.

    Attributes:
      sums: a row per name.
      names: in the order in which the step made them.
    """

    sums: Float[Array, "n 2"]
    names: tuple[str, ...] = flax.struct.field(pytree_node=False)

    @classmethod
    def pack(cls, metrics: Mapping[str, tuple[Any, Any]]) -> "StepMetrics":
        """From scalars by name."""
        rows = [jnp.stack([jnp.asarray(x, jnp.float32) for x in pair]) for pair in metrics.values()]
        return cls(jnp.stack(rows), tuple(metrics))

    def items(self) -> Iterator[tuple[str, Any]]:
        """(name, array of sum and count)."""
        return zip(self.names, self.sums, strict=True)

    def __getitem__(self, name: str) -> Any:
        return self.sums[self.names.index(name)]


def merge(a: PyTree, b: PyTree) -> PyTree:
    """Adds two states of one metric."""
    return jax.tree.map(jnp.add, a, b)


def zeros_like_update(update: Any, *args: Any) -> PyTree:
    """The empty state of a metric: zeros in the shapes of its `update`."""
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(update, *args))
