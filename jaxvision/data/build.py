"""From the config's data section to loaders."""

import dataclasses
from typing import Any

from jaxvision.data.loader import Loader
from jaxvision.data.sources.memory import Source


@dataclasses.dataclass(frozen=True)
class Data:
    """Training and evaluation data, and what a model must know about them.

    Attributes:
      train: shuffled batches of the training part.
      evaluation: batches of the validation part.
    """

    train: Loader
    evaluation: Loader

    def __post_init__(self):
        train, evaluation = self.train.source, self.evaluation.source
        for what in ("class_names", "image_shape", "multi_label"):
            given, other = getattr(train, what), getattr(evaluation, what)
            if given != other:
                raise ValueError(f"training and validation data differ in {what}: {given} ({train.name}) and {other}")

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.train.source.class_names

    @property
    def num_classes(self) -> int:
        return self.train.source.num_classes

    @property
    def multi_label(self) -> bool:
        return self.train.source.multi_label

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.train.source.image_shape[:2]

    @property
    def channels(self) -> int:
        return self.train.source.image_shape[2]


def build_data(config: Any, seed: int, process_index: int = 0, process_count: int = 1) -> Data:
    """Builds both parts of `config.source` and checks the batch sizes against them.

    Args:
      config: the config's data section: `source`, `batch_size`, `eval_batch_size` (None: as in training),
        `image_size` (height, width), `channels`.
      seed: of the order of the training samples.
      process_index: which process this is, of
      process_count: all that share each batch.

    Raises:
      ValueError: an unknown source, unreadable data, or a batch size that does not fit the data or the processes.
    """

    def source(split: str) -> Source:
        from jaxvision.config import build

        return build(
            "source", config.source, split=split, image_size=tuple(config.image_size), channels=config.channels
        )

    train = Loader(source("train"), config.batch_size, seed, process_index, process_count)
    _ = train.steps_per_epoch  # raises for a batch larger than the data
    evaluation = Loader(
        source("validation"), config.eval_batch_size or config.batch_size, seed, process_index, process_count
    )
    return Data(train, evaluation)
