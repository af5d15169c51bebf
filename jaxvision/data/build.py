"""From the config's data section to loaders."""

import dataclasses
from typing import Any

from jaxvision import registry
from jaxvision.data.loader import Loader
from jaxvision.data.samples import SampleSource
from jaxvision.errors import SetupError


@dataclasses.dataclass(frozen=True)
class Data:
    """Training and evaluation data, and what a model must know about them.

    Attributes:
      train: shuffled batches of the training part.
      evaluation: batches of the validation part.
      image_size: height and width of the canvas of prediction, in pixels, and of evaluation without `eval_buckets`.
      channels: 1 or 3.
    """

    train: Loader
    evaluation: Loader
    image_size: tuple[int, int]
    channels: int

    def __post_init__(self):
        train, evaluation = self.train.source, self.evaluation.source
        for what in ("class_names", "image_shape", "multi_label", "annotations", "keypoint_names"):
            given, other = getattr(train, what, None), getattr(evaluation, what, None)
            if given != other:
                raise ValueError(f"training and validation data differ in {what}: {given} ({train.name}) and {other}")

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.train.source.class_names

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def multi_label(self) -> bool:
        return getattr(self.train.source, "multi_label", False)


def build_source(config: Any, split: str) -> Any:
    """The source of one part, "train" or "validation", of the config's data section."""
    from jaxvision.config import build

    entry = registry.lookup("source", config.source["name"])
    supplied = {
        "split": split,
        "image_size": tuple(config.image_size),
        "channels": config.channels,
        "max_instances": config.max_instances,
    }
    return build("source", config.source, **{name: supplied[name] for name in entry.supplied})


def build_data(config: Any, seed: int, process_index: int = 0, process_count: int = 1) -> Data:
    """Builds both parts of `config.source` and checks the batch sizes against them.

    Args:
      config: the config's data section.
      seed: of the order of the training samples and of the host transforms.
      process_index: which process this is, of
      process_count: all that share each batch.

    Raises:
      ValueError: an unknown source, unreadable data, or a batch size that does not fit the data or the processes.
    """
    processes = (process_index, process_count)
    train = _loader(config, "train", config.batch_size, seed, *processes)
    _ = train.steps_per_epoch  # raises for a batch larger than the data
    evaluation = _loader(config, "validation", config.eval_batch_size or config.batch_size, seed, *processes)
    return Data(train, evaluation, tuple(config.image_size), config.channels)


def host_transforms(config: Any, *, train: bool) -> tuple[Any, ...]:
    """The host transforms of a data section; where none of them chooses a size, images are stretched to the canvas."""
    from jaxvision.config import build
    from jaxvision.data.transforms import Resize
    from jaxvision.data.transforms.view import is_geometric

    specs = config.host_transforms if train else config.eval_host_transforms
    transforms = tuple(build("host_transform", spec) for spec in specs)
    return transforms if any(map(is_geometric, transforms)) else (Resize(), *transforms)


def _loader(config: Any, split: str, batch_size: int, seed: int, process_index: int, process_count: int) -> Loader:
    """In memory where the source gathers whole batches and nothing is to be done on the host, else by workers."""
    source, train = build_source(config, split), split == "train"
    repeats = config.repeats if train else 1
    specs = config.host_transforms if train else config.eval_host_transforms
    buckets = config.buckets if train else (*config.eval_buckets, *config.original_buckets)
    if hasattr(source, "gather") and not specs and not buckets:
        return Loader(source, batch_size, seed, process_index, process_count, repeats)
    if not isinstance(source, SampleSource):
        raise SetupError(
            f"source {source.name!r} only gathers whole batches of one size, which host transforms and buckets cannot "
            "change: use device transforms (data.augment), or give it a method `sample`"
        )
    from jaxvision.data.tf_loader import TfLoader

    return TfLoader(
        source,
        batch_size,
        seed,
        process_index,
        process_count,
        repeats,
        transforms=host_transforms(config, train=train),
        image_size=tuple(config.image_size),
        channels=config.channels,
        max_instances=config.max_instances,
        buckets=tuple(map(tuple, config.buckets)) if train else (),
        eval_buckets=() if train else tuple(map(tuple, config.eval_buckets)),
        original_buckets=() if train else tuple(map(tuple, config.original_buckets)),
        workers=config.workers,
        training=train,
    )
