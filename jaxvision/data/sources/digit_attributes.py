"""Three questions about scikit-learn's scanned digits, for classifiers with several heads."""

import numpy as np
from jaxtyping import Int

from jaxvision.data.samples import Sample
from jaxvision.data.sources.digits import Digits

ATTRIBUTES = {"digit": tuple("0123456789"), "parity": ("even", "odd"), "loops": ("none", "one", "two")}
LOOPS = (1, 0, 0, 0, -1, 0, 1, 0, 2, 1)
"""Closed lines of each digit; not known of the 4, which is written with and without."""


class DigitAttributes(Digits):
    """`digits` with the columns `ATTRIBUTES` of labels, int32 `[3]`; -1 is not known. Class names: "parity/odd"."""

    def __init__(self, *, num_examples: int | None = None, split: str, image_size: tuple[int, int], channels: int):
        """`num_examples`: the first so many of the part; None: all."""
        super().__init__(split=split, image_size=image_size, channels=channels)
        if num_examples is not None:
            if not 1 <= num_examples <= len(self):
                raise ValueError(f"digit_attributes: num_examples is {num_examples}: expected 1 to {len(self)}")
            self._images, self._labels = self._images[:num_examples], self._labels[:num_examples]
        digits = self._labels
        self._attributes = np.stack([digits, digits % 2, np.asarray(LOOPS)[digits]], axis=1).astype(np.int32)
        self.class_names = tuple(f"{head}/{value}" for head, values in ATTRIBUTES.items() for value in values)
        self.name = "digit_attributes"

    def sample(self, index: int) -> Sample:
        return {**super().sample(index), "label": self._attributes[index].copy()}

    def gather(self, indices: Int[np.ndarray, " n"]) -> dict[str, np.ndarray]:
        return {**super().gather(indices), "label": self._attributes.take(indices, axis=0)}
