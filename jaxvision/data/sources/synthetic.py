"""Images made from a seed, of any size and number of classes: for tests, smoke runs and speed measurements.

A class is a product of cosines with its own whole numbers of periods over the width and over the height. Classes are
orthogonal, so a linear classifier learns them; a texture, so a convolutional network does; even, so a horizontal flip
changes nothing. Noise is added. With several labels per image the patterns of its classes add up.
"""

import math

import numpy as np
from jaxtyping import Float, UInt8

from jaxvision.data.order import random_words
from jaxvision.data.sources.memory import InMemory, check_split, numbered

_CONTRAST = 40.0  # amplitude of one pattern, in grey levels
_NOISE = 24.0  # uniform in -24..24 grey levels


class Synthetic(InMemory):
    """Cosine patterns; training and validation hold `num_examples` each, with different noise."""

    def __init__(
        self,
        num_examples: int = 256,
        num_classes: int = 10,
        multi_label: bool = False,
        seed: int = 0,
        *,
        split: str,
        image_size: tuple[int, int],
        channels: int,
    ):
        check_split(split)
        patterns = _patterns(num_classes, image_size)
        stream = 2 * (split == "validation")
        labels: np.ndarray
        if multi_label:
            # Two classes per image on average.
            words = random_words(seed, stream, num_examples * num_classes).reshape(num_examples, num_classes)
            labels = (words < 2**64 * min(0.5, 2 / num_classes)).astype(np.float32)
        else:
            labels = np.arange(num_examples, dtype=np.int32) % num_classes
        images = _random_bytes(seed, stream + 1, (num_examples, *image_size, channels))
        for i, label in enumerate(labels):
            signal = np.tensordot(label, patterns, axes=1) if multi_label else patterns[label]
            noise = images[i].astype(np.float32) * (_NOISE / 128) - _NOISE
            images[i] = np.clip(128 + _CONTRAST * signal[..., None] + noise, 0, 255)
        names = numbered(np.zeros((0, num_classes)))
        super().__init__(images, labels, names, name="synthetic", image_size=image_size, channels=channels)


def _patterns(num_classes: int, size: tuple[int, int]) -> Float[np.ndarray, "classes h w"]:
    side = math.isqrt(num_classes - 1) + 1
    height, width = size
    if 2 * side >= min(height, width):
        raise ValueError(
            f"synthetic: {num_classes} classes need images larger than {2 * side} x {2 * side} pixels, "
            f"image_size is {height} x {width}"
        )
    rows, columns = np.divmod(np.arange(num_classes), side)

    def waves(periods: np.ndarray, length: int) -> np.ndarray:
        return np.cos(2 * np.pi * (periods[:, None] + 1) * (np.arange(length) + 0.5) / length)

    return (waves(rows, height)[:, :, None] * waves(columns, width)[:, None, :]).astype(np.float32)


def _random_bytes(seed: int, stream: int, shape: tuple[int, ...]) -> UInt8[np.ndarray, "n h w c"]:
    count = math.prod(shape)
    return random_words(seed, stream, -(-count // 8)).astype("<u8").view(np.uint8)[:count].reshape(shape)
