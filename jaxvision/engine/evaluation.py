"""Evaluation: one mapped step per batch, sums added exactly on the host, every sample counted once."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxvision.engine.metrics import HostMetric, Metric
from jaxvision.engine.parallel import SHARED, SPLIT, Parallel
from jaxvision.engine.state import Preprocess
from jaxvision.engine.task import Batch, Context, Task

PyTree = Any
FLUSH_EVERY = 32
"""Batches whose sums may wait on the device before the host adds them (in float64 and int64)."""


class Evaluator:
    """Compiles the evaluation step of a task once for each shape of batches and runs it over data sets.

    Args:
      task: gives `predict` and `metrics`.
      parallel: devices and map.
      preprocess: device transforms of evaluation.
      dtype: compute dtype of the precision policy.
      total_steps: length of the run, for `ctx`.
      examples: number of samples whose predictions are kept, for pictures; of each batch, where `on_example` gets them.

    Attributes:
      examples: (index, prediction without the batch's axis) of the first samples of the last call, as numpy arrays.
    """

    def __init__(
        self,
        task: Task,
        parallel: Parallel,
        *,
        preprocess: Preprocess | None = None,
        dtype: Any = jnp.float32,
        total_steps: int = 1,
        examples: int = 0,
    ) -> None:
        metrics = task.metrics()
        self.examples: list[tuple[int, PyTree]] = []
        self._wanted = examples
        self.parallel = parallel
        self.device_metrics = {name: metric for name, metric in metrics.items() if isinstance(metric, Metric)}
        self.host_metrics = {name: metric for name, metric in metrics.items() if isinstance(metric, HostMetric)}
        unknown = set(metrics) - set(self.device_metrics) - set(self.host_metrics)
        if unknown:
            raise TypeError(f"metrics {sorted(unknown)} have neither update/compute nor select/compute_all")
        settings = {"preprocess": preprocess, "dtype": dtype, "total_steps": total_steps}
        self._init_carry = parallel.map(
            lambda batch, key: (task.init_carry(_prepared(batch, key, preprocess)),),
            inputs=(SPLIT, SHARED),
            outputs=(SPLIT,),
        )
        self._step = parallel.map(
            self._make_step(task, **settings),
            inputs=(SHARED, SPLIT, SPLIT, SHARED),
            outputs=(SHARED, SPLIT, SPLIT, SPLIT),
        )

    def _make_step(
        self, task: Task, *, preprocess: Preprocess | None, dtype: Any, total_steps: int
    ) -> Callable[..., tuple[PyTree, PyTree, PyTree, PyTree]]:
        axis_name = self.parallel.axis_name

        def step(variables: PyTree, batch: Batch, carry: PyTree, key: jax.Array) -> tuple[PyTree, ...]:
            batch = _prepared(batch, key, preprocess)
            ctx = Context(total_steps=total_steps, axis_name=axis_name, dtype=dtype)
            predictions, carry = task.predict(variables, batch, ctx, carry)
            sums = ctx.sum({name: metric.update(predictions, batch) for name, metric in self.device_metrics.items()})
            rows = {name: metric.select(predictions, batch) for name, metric in self.host_metrics.items()}
            if rows:
                rows = {"index": batch["index"], "valid": batch["valid"], "metrics": rows}
            shown = {}
            if self._wanted:
                everything = {"index": batch["index"], "valid": batch["valid"], "predictions": predictions}
                # Under plain jit these are rows of the global batch, which must split evenly over the devices.
                rows_kept = math.ceil(self._wanted / self.parallel.shares) * self.parallel.shares
                shown = jax.tree.map(lambda x: x[:rows_kept], everything)
            return sums, rows, carry, shown

        return step

    def __call__(
        self,
        variables: Mapping[str, PyTree],
        batches: Iterable[Mapping[str, jax.Array]],
        on_batch: Callable[[int], None] = lambda count: None,
        on_example: Callable[[int, PyTree], None] | None = None,
    ) -> dict[str, Any]:
        """Runs over placed batches; every process must bring the same number of them.

        Args:
          variables: what `task.predict` takes, replicated.
          batches: device batches of `Parallel.place`.
          on_batch: called with the number of finished batches.
          on_example: gets (index, prediction) of each sample once, as `examples` has them, which then stay empty.

        Returns:
          {name: float or array} of all metrics; names must differ between metrics.
        """
        key = self.parallel.create(jax.random.key, 0)
        waiting: list[PyTree] = []
        totals: PyTree = None
        rows: list[PyTree] = []
        carry: PyTree = None
        self.examples = []
        handed: set[int] = set()
        for count, batch in enumerate(batches, 1):
            if count == 1:
                (carry,) = self._init_carry(batch, key)
            sums, selected, carry, shown = self._step(variables, batch, carry, key)
            if on_example is not None:
                _hand_out(self.parallel.gather(shown), handed, on_example)
            elif len(self.examples) < self._wanted:
                self._keep(self.parallel.gather(shown))
            waiting.append(sums)
            if selected:
                rows.append(self._condensed(self.parallel.gather(selected)))
            if len(waiting) == FLUSH_EVERY:
                totals, waiting = _add(totals, waiting), []
            on_batch(count)
        totals = _add(totals, waiting)
        if totals is None:
            raise ValueError("evaluation got no batch: the evaluation split is empty")
        results: dict[str, Any] = {}
        for name, metric in self.device_metrics.items():
            _extend(results, metric.compute(totals[name]), name)
        if self.host_metrics:
            table = _unique_rows(rows)
            for name, host_metric in self.host_metrics.items():
                _extend(results, host_metric.compute_all(table[name]), name)
        return results

    def _condensed(self, rows: PyTree) -> PyTree:
        """Gathered rows of a batch, made small by the metrics that can."""
        metrics = dict(rows["metrics"])
        for name, metric in self.host_metrics.items():
            if hasattr(metric, "condense"):
                metrics[name] = metric.condense(metrics[name])
        return {**rows, "metrics": metrics}

    def _keep(self, shown: PyTree) -> None:
        """Adds predictions of a batch, gathered from all devices, to the examples."""
        known = {index for index, _ in self.examples}
        for row in np.flatnonzero(shown["valid"]):
            index = int(shown["index"][row])
            if index not in known and len(self.examples) < self._wanted:
                self.examples.append((index, jax.tree.map(lambda x, row=row: x[row], shown["predictions"])))


def _hand_out(shown: PyTree, handed: set[int], on_example: Callable[[int, PyTree], None]) -> None:
    for row in np.flatnonzero(shown["valid"]):
        index = int(shown["index"][row])
        if index not in handed:
            handed.add(index)
            on_example(index, jax.tree.map(lambda x, row=row: x[row], shown["predictions"]))


def _prepared(batch: Batch, key: jax.Array, preprocess: Preprocess | None) -> Batch:
    return batch if preprocess is None else preprocess(batch, key)


def _add(totals: PyTree, waiting: list[PyTree]) -> PyTree:
    """Adds fetched sums to totals in 64 bit, where no realistic count rounds or overflows."""
    for sums in jax.device_get(waiting):
        wide = jax.tree.map(lambda x: x.astype(np.float64 if np.issubdtype(x.dtype, np.floating) else np.int64), sums)
        totals = wide if totals is None else jax.tree.map(np.add, totals, wide)
    return totals


def _unique_rows(rows: list[PyTree]) -> dict[str, PyTree]:
    """Concatenates rows of all batches, drops padding and repeated samples, orders by index."""
    table = jax.tree.map(lambda *parts: np.concatenate(parts), *rows)
    keep = np.flatnonzero(table["valid"])
    _, first = np.unique(table["index"][keep], return_index=True)
    return jax.tree.map(lambda x: x[keep[first]], table["metrics"])


def _extend(results: dict[str, Any], values: Mapping[str, Any], metric: str) -> None:
    repeated = set(results) & set(values)
    if repeated:
        raise ValueError(f"metric {metric!r} returns {sorted(repeated)}, which another metric returned before")
    results.update(values)
