"""The `Source` protocol, and labelled images held in memory."""

from collections.abc import Sequence
from typing import Literal, Protocol, get_args, runtime_checkable

import numpy as np
from jaxtyping import Float, Int, UInt8

from jaxvision.data.images import fit_images
from jaxvision.data.samples import Sample

Split = Literal["train", "validation"]


@runtime_checkable
class Source(Protocol):
    """A data set with random access.

    Attributes:
      name: what it is called in messages and reports.
      class_names: one name per class.
      num_classes: their number.
      image_shape: (height, width, channels) of the images that `gather` returns.
      multi_label: whether a label is a row of zeros and ones instead of one class.
    """

    name: str
    class_names: tuple[str, ...]
    multi_label: bool

    @property
    def num_classes(self) -> int: ...

    @property
    def image_shape(self) -> tuple[int, int, int]: ...

    def __len__(self) -> int: ...

    def gather(self, indices: Int[np.ndarray, " n"]) -> dict[str, np.ndarray]:
        """Samples as arrays with a leading axis of n: `image` and whatever a task needs beside it.

        Always new arrays: on the CPU a batch placed on the device shares the memory of its numpy array.
        """
        ...


class InMemory:
    """Labelled images in memory: `{"image": uint8 [n, h, w, c], "label": int32 [n] | float32 [n, classes]}`."""

    def __init__(
        self,
        images: UInt8[np.ndarray, "n h w #c"] | UInt8[np.ndarray, "n h w"],
        labels: Int[np.ndarray, " n"] | Float[np.ndarray, "n classes"],
        class_names: Sequence[str],
        *,
        name: str,
        image_size: tuple[int, int],
        channels: int,
    ):
        """Fits the images to `image_size` and `channels` and checks the labels.

        Labels are 0-based classes, or rows of zeros and ones over the classes (several labels per image).
        """
        labels = np.asarray(labels)
        if len(images) != len(labels):
            raise ValueError(f"{name}: {len(images)} images but {len(labels)} labels")
        if not len(images):
            raise ValueError(f"{name}: there is no image in it")
        self.name = name
        self.class_names = tuple(str(class_name) for class_name in class_names)
        self.multi_label = labels.ndim == 2
        self._labels = _checked_labels(labels, self.num_classes, name)
        self._images = fit_images(images, image_size, channels)

    annotations = ("label",)
    keypoint_names = ()

    def __len__(self) -> int:
        return len(self._images)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        height, width, channels = self._images.shape[1:]
        return height, width, channels

    def sample(self, index: int) -> Sample:
        """See `data.samples.SampleSource`."""
        label = self._labels[index]
        image = self._images[index].copy()
        named = {"file": f"{self.name}/{index}", "id": int(index)}
        return {"image": image, "label": label.copy() if self.multi_label else int(label), **named}

    def gather(self, indices: Int[np.ndarray, " n"]) -> dict[str, np.ndarray]:
        return {"image": self._images.take(indices, axis=0), "label": self._labels.take(indices, axis=0)}


def check_split(split: str) -> None:
    """Raises ValueError unless `split` is "train" or "validation"."""
    if split not in get_args(Split):
        raise ValueError(f"unknown split {split!r}: expected one of {', '.join(map(repr, get_args(Split)))}")


def numbered(labels: np.ndarray) -> tuple[str, ...]:
    """Class names "0", "1", ... as many as the labels `[n]` or `[n, classes]` need."""
    count = labels.shape[1] if labels.ndim == 2 else int(labels.max()) + 1 if labels.size else 0
    return tuple(str(i) for i in range(count))


def _checked_labels(labels: np.ndarray, num_classes: int, name: str) -> np.ndarray:
    if labels.ndim == 2:
        if labels.shape[1] != num_classes:
            raise ValueError(f"{name}: labels have {labels.shape[1]} columns for {num_classes} classes")
        if not np.isin(labels, (0, 1)).all():
            raise ValueError(f"{name}: labels of several classes per image must be 0 or 1")
        return labels.astype(np.float32)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"{name}: labels are {labels.dtype} {list(labels.shape)}; expected integers [n], or 0/1 [n, classes]"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise ValueError(f"{name}: labels lie in {low}..{high}; expected 0..{num_classes - 1} for its class names")
    return labels.astype(np.int32)
