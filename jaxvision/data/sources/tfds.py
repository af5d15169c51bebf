"""Any classification set of `tensorflow_datasets` (https://www.tensorflow.org/datasets), read into memory.

For images of any size, larger sets and objects see `tfds_records`.

TensorFlow is imported when such a source is built and not before, is kept off the accelerators, and only reads
records: images are decoded by `read_image`, the rule of every other source and of prediction.
"""

import collections
import concurrent.futures
import difflib
import math
import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from jaxvision.data.images import fit_image, read_image
from jaxvision.data.sources.memory import InMemory, check_split


class Tfds(InMemory):
    """A TFDS set with one image and one class label, or a sequence of them, per example; found by feature type."""

    def __init__(
        self,
        dataset: str,
        data_dir: str | None = None,
        train_split: str = "train",
        eval_split: str | None = None,
        max_gib: float = 4.0,
        *,
        split: str,
        image_size: tuple[int, int],
        channels: int,
    ):
        """Reads one split.

        Args:
          dataset: a name of TFDS ("mnist", "my_set/my_config:1.0.0").
          data_dir: folder of prepared sets; None is TFDS's own (`$TFDS_DATA_DIR`, `~/tensorflow_datasets`).
          train_split: a split of TFDS for training, slices included ("train[:90%]").
          eval_split: the one for evaluation; None takes "validation", else "test", whichever exists.
          max_gib: refuse to read more than this, in GiB of fitted images.
        """
        check_split(split)
        tfds = import_tfds()
        builder = prepared_builder(tfds, dataset, data_dir)
        image_key, label_key = find_features(tfds, dataset, builder.info.features)
        label_feature = builder.info.features[label_key]
        multi_label = not isinstance(label_feature, tfds.features.ClassLabel)
        names = tuple((label_feature.feature if multi_label else label_feature).names)

        part = train_split if split == "train" else eval_split or evaluation_split(dataset, builder.info.splits)
        examples = examples_of(tfds, dataset, builder, part, image_key)
        count = int(examples.cardinality())  # TFDS asserts it from the metadata
        gib = count * math.prod(image_size) * channels / 2**30
        if gib > max_gib:
            size = " x ".join(map(str, (*image_size, channels)))
            raise ValueError(
                f"tfds: {count} images of {dataset!r} [{part}] at {size} take {gib:.1f} GiB in memory, more than "
                f"max_gib={max_gib:g}; take a part (train_split='train[:10%]'), a smaller image_size, or raise max_gib"
            )
        pairs = ((example[image_key], example[label_key]) for example in examples.as_numpy_iterator())
        images, labels = _read(pairs, count, image_size, channels, num_classes=len(names) if multi_label else None)
        super().__init__(images, labels, names, name=f"tfds:{dataset}", image_size=image_size, channels=channels)


def _read(
    pairs: Iterable[tuple[bytes, np.ndarray]],
    count: int,
    size: tuple[int, int],
    channels: int,
    num_classes: int | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of at most `count` examples; rows of zeros and ones where `num_classes` is given."""

    def fit(pair: tuple[bytes, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        encoded, label = pair
        if num_classes is not None:
            label = np.isin(np.arange(num_classes), label)
        return fit_image(read_image(encoded), size, channels), label

    # Pages of rows that are never written take no memory, so a count that is too high costs nothing.
    images = np.empty((count, *size, channels), np.uint8)
    labels = []
    for i, (image, label) in enumerate(_map_in_order(fit, pairs, workers=os.cpu_count() or 1)):
        images[i] = image
        labels.append(label)
    return images[: len(labels)], np.stack(labels) if labels else np.zeros(0, np.int32)


def import_tfds() -> Any:
    """The module `tensorflow_datasets`, with TensorFlow quiet and kept off GPUs and TPUs, which are JAX's."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        import tensorflow as tf
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ImportError(
            f"a tfds source needs TensorFlow and tensorflow-datasets ({error}); "
            "`pip install tensorflow-cpu tensorflow-datasets importlib_resources`, or take a source without it "
            "(digits, npz, idx, synthetic)"
        ) from error
    for kind in ("GPU", "TPU"):
        tf.config.set_visible_devices([], kind)
    return tfds


def prepared_builder(tfds: Any, dataset: str, data_dir: str | None) -> Any:
    """The builder of a set, prepared; ValueError with what is near, or why preparing failed."""
    try:
        builder = tfds.builder(dataset, data_dir=data_dir)
    except (tfds.core.DatasetNotFoundError, ValueError) as error:
        where = f"under {data_dir!r}" if data_dir else "in the default folder of TFDS"
        near = difflib.get_close_matches(dataset, tfds.list_builders(), n=1)
        hint = f"did you mean {near[0]!r}?" if near else str(error).strip().splitlines()[0]
        raise ValueError(f"tfds: {dataset!r} is neither prepared {where} nor known to TFDS: {hint}") from error
    try:
        builder.download_and_prepare()
    except Exception as error:  # network, checksums, manual downloads, ... all end here
        raise ValueError(
            f"tfds: {dataset!r} is not prepared in {str(builder.data_dir)!r} and preparing it failed: {error}"
        ) from error
    return builder


def find_features(tfds: Any, dataset: str, features: Any) -> tuple[str, str]:
    """Keys of the image and of the label."""
    images, labels, sequences = [], [], []
    for key, feature in features.items():
        if isinstance(feature, tfds.features.Image) and not isinstance(feature, tfds.features.LabeledImage):
            images.append(key)
        elif isinstance(feature, tfds.features.ClassLabel):
            labels.append(key)
        elif isinstance(feature, tfds.features.Sequence) and isinstance(feature.feature, tfds.features.ClassLabel):
            sequences.append(key)
    image = _choose(dataset, "an image", "image", images, features)
    if labels:
        return image, _choose(dataset, "a class label", "label", labels, features)
    return image, _choose(dataset, "a class label or a sequence of them", "labels", sequences, features)


def _choose(dataset: str, what: str, usual: str, keys: list[str], features: Any) -> str:
    if usual in keys:
        return usual
    if len(keys) == 1:
        return keys[0]
    found = f"none is named {usual!r} among {', '.join(keys)}" if keys else "it has none"
    listed = ", ".join(f"{key}: {type(feature).__name__}" for key, feature in features.items())
    raise ValueError(f"tfds: classification needs {what} in each example of {dataset!r}, but {found}; it has {listed}")


def evaluation_split(dataset: str, splits: Any) -> str:
    """ "validation" or "test", whichever is there first."""
    for name in ("validation", "test"):
        if name in splits or not splits:  # a builder that records no splits (a mocked one) takes any name
            return name
    raise ValueError(
        f"tfds: {dataset!r} has no split 'validation' or 'test' but {', '.join(splits)}; "
        "set eval_split, e.g. train_split='train[:80%]', eval_split='train[80%:]'"
    )


def examples_of(tfds: Any, dataset: str, builder: Any, part: str, image_key: str) -> Any:
    """The `tf.data.Dataset` of a split in the order of its files, images still encoded."""
    try:
        return builder.as_dataset(
            split=part,
            shuffle_files=False,
            decoders={image_key: tfds.decode.SkipDecoding()},
            read_config=tfds.ReadConfig(try_autocache=False, interleave_cycle_length=1),
        )
    except (KeyError, ValueError) as error:
        known = ", ".join(builder.info.splits) or "none"
        raise ValueError(f"tfds: {dataset!r} has no split {part!r}; its splits are: {known} ({error})") from error


def _map_in_order(function: Any, items: Iterable[Any], workers: int) -> Iterator[Any]:
    """`map` in threads (decoding releases the interpreter lock), in order, with few items in flight."""
    pending: collections.deque[concurrent.futures.Future] = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) >= 8 * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
