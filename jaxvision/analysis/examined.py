"""One pass of a trained model over its evaluation data, for all views: samples, predictions, results of the metrics.

Data and metrics are those of `experiments.run --mode eval`: the config's validation part, its transforms and canvases,
its test-time augmentation. A view may take a part of the samples, and look at their images through a `change`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8

from jaxvision import config as configs
from jaxvision import errors, experiment, registry
from jaxvision.checking import read_sample
from jaxvision.data.build import build_data
from jaxvision.data.loader import Loader
from jaxvision.data.prefetch import prefetch
from jaxvision.data.samples import Sample
from jaxvision.data.table import Table
from jaxvision.engine.analysis import Analysis
from jaxvision.engine.evaluation import Evaluator
from jaxvision.engine.parallel import Parallel, check_batch_size
from jaxvision.engine.progress import Progress
from jaxvision.errors import SetupError
from jaxvision.loading import Model, load_model

PyTree = Any
Change = Callable[[UInt8[np.ndarray, "h w c"], int], UInt8[np.ndarray, "h w c"]]
"""(image, row of the source) -> an image of the same size."""


@dataclasses.dataclass(frozen=True)
class Examined:
    """A trained model with its evaluation data.

    Attributes:
      model: the task and its variables.
      loader: of the evaluation.
      devices: what it runs on.
      metric: the config's `checkpoint.best_metric`, None where it has none.
      evaluators: those that were compiled, so that twenty passes compile once.
    """

    model: Model
    loader: Loader
    devices: Parallel
    metric: str | None
    evaluators: dict[bool, Evaluator] = dataclasses.field(default_factory=dict, compare=False)

    def run(
        self,
        on_example: Callable[[int, PyTree], None] | None = None,
        *,
        change: Change | None = None,
        on_batch: Callable[[int], None] | None = None,
    ) -> dict[str, Any]:
        """One pass, with a progress bar of its own unless `on_batch` is given.

        Args:
          on_example: gets the row of each sample in the source, and its prediction.
          change: of images.
          on_batch: called with the number of finished batches.

        Returns:
          The results of the task's metrics.
        """
        loader = self.loader if change is None else dataclasses.replace(self.loader, source=Seen(self.source, change))
        evaluator = self._evaluator(on_example is not None)
        variables = self.devices.create(lambda tree: tree, self.model.variables)
        progress = Progress(loader.evaluation_steps, batch_size=loader.batch_size, enabled=on_batch is None)
        with progress, prefetch(loader.evaluate(), self.devices.place, 2) as batches:
            return evaluator(variables, batches, on_batch or (lambda count: progress.update(count)), on_example)

    def analysed(self, analysis: Analysis) -> tuple[dict[str, Any], list[Any]]:
        """Results of the metrics, and what `analysis.look` kept of each sample, in the order of the data."""
        kept: dict[int, Any] = {}
        look = analysis.look

        def on_example(row: int, prediction: PyTree) -> None:
            assert look is not None
            kept[row] = look(self.sample(row), prediction)

        results = self.run(None if look is None else on_example)
        return results, [kept[row] for row in sorted(kept)]

    def sample(self, row: int) -> Sample:
        """A sample with its truth, in pixels of its image."""
        return read_sample(self.source, row)

    @property
    def source(self) -> Any:
        """Of the evaluation data."""
        return self.loader.source

    def _evaluator(self, examples: bool) -> Evaluator:
        if examples not in self.evaluators:
            self.evaluators[examples] = Evaluator(
                self.model.task,
                self.devices,
                preprocess=self.model.preprocess,
                dtype=self.model.dtype,
                examples=self.loader.batch_size if examples else 0,
            )
        return self.evaluators[examples]


@dataclasses.dataclass(frozen=True)
class Seen:
    """A source whose images are changed, row by row; its annotations stay as they are.

    Attributes:
      source: any kind of source.
      change: the row says which images are the same.
    """

    source: Any
    change: Change

    def __len__(self) -> int:
        return len(self.source)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "source":
            raise AttributeError(name)
        value = getattr(self.source, name)
        return self._gather(value) if name == "gather" else value

    def sample(self, row: int) -> Sample:
        sample = read_sample(self.source, row)
        return {**sample, "image": self.change(sample["image"], row)}

    def _gather(self, gather: Callable[..., Mapping[str, np.ndarray]]) -> Callable[..., dict[str, np.ndarray]]:
        def changed(rows: Int[np.ndarray, " n"]) -> dict[str, np.ndarray]:
            found = gather(rows)
            images = [self.change(image, int(row)) for image, row in zip(found["image"], rows, strict=True)]
            return {**found, "image": np.stack(images)}

        return changed


@dataclasses.dataclass(frozen=True)
class Part:
    """Some rows of a source that is no `Table`."""

    source: Any
    rows: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in ("source", "rows"):
            raise AttributeError(name)
        value = getattr(self.source, name)
        return (lambda rows: value(np.asarray(self.rows)[rows])) if name == "gather" else value

    def sample(self, row: int) -> Sample:
        return read_sample(self.source, self.rows[row])


def examine(source: str, checkpoint: str | None = None, count: int | None = None) -> Examined:
    """Loads a model and its evaluation data.

    Args:
      source: the workdir of a run, or a config (with a checkpoint).
      checkpoint: as for `load_model`.
      count: a random part (seed 0) of so many samples; None: all.

    Raises:
      SetupError: a model's name, which has no data, or a model of other classes than the data have.
    """
    if source in registry.names("model"):
        raise SetupError(f"{source!r} is a model and has no data: give the workdir of a run, or a config")
    config = configs.load(source)
    devices = experiment.prepare(config)
    model = load_model(source, checkpoint)
    with errors.setup():
        data = build_data(config.data, config.seed)
        loader = data.evaluation
        check_batch_size(loader.batch_size, devices.shares, name=experiment.EVAL_BATCH_SIZE)
    classes = getattr(model.task, "num_classes", data.num_classes)
    if classes != data.num_classes:
        raise SetupError(f"{Path(source).name}: the model has {classes} classes, and the data {data.num_classes}")
    if count is not None and count < len(loader.source):
        loader = dataclasses.replace(loader, source=part(loader.source, count))
    return Examined(model, loader, devices, config.checkpoint.best_metric)


def part(source: Any, count: int) -> Any:
    """A random part of a source, always the same one.

    Raises:
      SetupError: less than one sample.
    """
    if count < 1:
        raise SetupError(f"--count {count}: expected at least 1 sample")
    rows = np.sort(np.random.default_rng(0).permutation(len(source))[:count])
    return source.take(rows) if isinstance(source, Table) else Part(source, tuple(int(row) for row in rows))
