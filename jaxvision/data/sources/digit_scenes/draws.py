"""Random numbers of a scene, defined bit for bit: raw words of Philox under a key and a place in its sequence.

`numpy.random.Generator` may change its distributions between numpy releases; what is made of raw words here does not.
"""

import math

import numpy as np
from jaxtyping import Float, Int, UInt8


class Draws:
    """Successive draws under the key (seed, stream); each `part` of a scene has a sequence of its own."""

    def __init__(self, seed: int, stream: int, part: int):
        key, counter = np.array([seed, stream], np.uint64), np.array([0, 0, 0, part], np.uint64)
        self._words = np.random.Philox(key=key, counter=counter)

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """One number in [low, high)."""
        return low + (high - low) * ((self._words.random_raw() >> 11) * 2.0**-53)

    def uniforms(self, *shape: int) -> Float[np.ndarray, "..."]:
        """Numbers in [0, 1)."""
        return ((self._words.random_raw(math.prod(shape)) >> np.uint64(11)) * 2.0**-53).reshape(shape)

    def integer(self, low: int, high: int) -> int:
        """One of low, ..., high."""
        return low + int(self.uniform() * (high - low + 1))

    def geometric(self, low: float, high: float) -> float:
        """A number in [low, high) whose logarithm is uniform."""
        return low * (high / low) ** self.uniform()

    def integers(self, count: int, n: int) -> Int[np.ndarray, " n"]:
        """n of 0, ..., count - 1."""
        return (self.uniforms(n) * count).astype(np.int64)

    def bytes(self, *shape: int) -> UInt8[np.ndarray, "..."]:
        """Uniform 0..255."""
        count = math.prod(shape)
        return self._words.random_raw(-(-count // 8)).astype("<u8").view(np.uint8)[:count].reshape(shape)
