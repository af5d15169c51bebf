"""The 1,797 scanned handwritten digits that scikit-learn ships (Alpaydin and Kaynak 1998, UCI "optdigits", test part).

The embedded data set: no download, no TensorFlow. Images are 8x8 with values 0..16, brought to 0..255 (v -> 255 v / 16,
rounded). The split is fixed: of each class, in an order drawn by Philox from the key (0, class), the first fifth
(rounded) is validation, 359 images, and the rest is training, 1,438.
"""

import functools

import numpy as np
from jaxtyping import Int, UInt8

from jaxvision.data.order import permutation
from jaxvision.data.sources.memory import InMemory, check_split


class Digits(InMemory):
    """Scanned digits, ten classes, or those that are asked for, numbered in that order."""

    def __init__(
        self, digits: tuple[int, ...] = tuple(range(10)), *, split: str, image_size: tuple[int, int], channels: int
    ):
        """`digits`: which of 0..9, each once; images of others are left out."""
        check_split(split)
        if not digits or len(set(digits)) != len(digits) or not set(digits) <= set(range(10)):
            raise ValueError(f"digits: digits is {tuple(digits)}: expected some of 0..9, each once")
        images, labels, validation = _load()
        rows = np.flatnonzero((validation == (split == "validation")) & np.isin(labels, digits))
        place = np.zeros(10, np.int32)
        place[list(digits)] = np.arange(len(digits))
        super().__init__(
            images[rows],
            place[labels[rows]],
            tuple(map(str, digits)),
            name="digits",
            image_size=image_size,
            channels=channels,
        )


@functools.cache
def _load() -> tuple[UInt8[np.ndarray, "1797 8 8"], Int[np.ndarray, "1797"], np.ndarray]:
    from sklearn.datasets import load_digits  # takes a second to import

    bunch = load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)
    labels = bunch.target.astype(np.int32)
    validation = np.zeros(len(labels), bool)
    for label in range(10):
        rows = np.flatnonzero(labels == label)
        validation[rows[permutation(0, label, len(rows))[: round(len(rows) / 5)]]] = True
    return images, labels, validation
