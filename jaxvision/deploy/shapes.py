"""The data of a config as shapes alone: enough to compile its train step, without the data set.

One sample is made, from a seed, by a source that stands in for the data set and has the same kinds of annotation; the
config's own host transforms, canvases and padding give it the shapes of the real ones. The classes are the model's.
"""

import dataclasses
from typing import Any

import jax
import numpy as np

from jaxvision import config as configs
from jaxvision.config.smoke import SCENES
from jaxvision.data.build import Data, build_data
from jaxvision.data.loader import Batch, Loader
from jaxvision.data.sources.memory import numbered

EMBEDDED = ("digits", "digit_attributes", "digit_scenes", "digit_clips")
"""Sources that need no files: they stand for themselves."""
LABELLED = ("classification", "distillation")
"""Tasks whose samples are an image and a label."""
STEPS = 50
"""Of an epoch, whose true length only the data set knows. It changes constants of the schedule, no shape."""


@dataclasses.dataclass(frozen=True)
class NoSource:
    """What is known of a data set that is not there."""

    name: str
    class_names: tuple[str, ...]
    size: int

    def __len__(self) -> int:
        return self.size


@dataclasses.dataclass(frozen=True)
class ShapeLoader(Loader):
    """A loader whose example batches are shapes and which has no others.

    Attributes:
      rows: for each canvas of training a batch of one sample.
    """

    rows: tuple[Batch, ...] = ()

    def example_batch(self) -> Batch:
        return self.example_batches()[0]

    def example_batches(self) -> list[Batch]:
        def stacked(row: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((self.local_batch_size, *row.shape[1:]), row.dtype)

        return [jax.tree.map(stacked, row) for row in self.rows]


def shape_data(config: Any) -> Data:
    """Loaders of shapes for a completed config, in one process.

    Raises:
      SetupError: a task for which nothing stands in, and whose own data cannot be read.
    """
    stand_in = configs.apply_overrides(config, [("data.batch_size", "1"), ("data.repeats", "1"), *_source(config)])
    data = build_data(stand_in.data, config.seed)
    rows = data.train.example_batches()
    classes = config.model.get("num_classes") or data.num_classes
    if data.multi_label:
        rows = [{**row, "label": np.zeros((1, classes), np.float32)} for row in rows]
    names = data.class_names if classes == data.num_classes else numbered(np.zeros((0, classes)))
    source: Any = NoSource(config.data.source.name, names, STEPS * config.data.batch_size)
    loader = ShapeLoader(source, config.data.batch_size, config.seed, rows=tuple(rows))
    return Data(loader, loader, tuple(config.data.image_size), config.data.channels)


def _source(config: Any) -> list[tuple[str, str]]:
    """Overrides that put a stand-in in the place of the data set, where there is one."""
    name, task = config.data.source.name, config.task.name
    if name in EMBEDDED:
        return []
    if task in SCENES:
        scenes = f"dict(name='digit_scenes', num_examples=1, annotations={SCENES[task]})"
        if "proposals" in name:
            count = config.data.source.count
            scenes = f"dict(name='random_proposals', count={count}, source={scenes})"
        return [("data.source", scenes)]
    if task in LABELLED:
        multi_label = config.task.get("multi_label", False)
        return [("data.source", f"dict(name='synthetic', num_examples=1, num_classes=2, multi_label={multi_label})")]
    return []
