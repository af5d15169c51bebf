"""The order of samples as a function of two numbers and of nothing else."""

import numpy as np
from jaxtyping import Int


def permutation(seed: int, stream: int, n: int) -> Int[np.ndarray, " n"]:
    """The permutation of 0..n-1 numbered (seed, stream), e.g. (seed, epoch).

    Sorts the raw output of the counter-based generator Philox (Salmon et al. 2011), which is defined bit for bit;
    `numpy.random.Generator.permutation` may change between numpy releases. 0.15 s for 1.28 million.
    """
    return np.argsort(random_words(seed, stream, n), kind="stable")


def random_words(seed: int, stream: int, n: int) -> np.ndarray:
    """The first n uniform uint64 of Philox under the key (seed, stream)."""
    for name, value in (("seed", seed), ("stream", stream)):
        if not 0 <= value < 2**64:
            raise ValueError(f"{name} is {value}: expected an integer in 0..2**64-1")
    return np.random.Philox(key=np.array([seed, stream], np.uint64)).random_raw(n)


def sample_rng(seed: int, position: int) -> np.random.Generator:
    """Randomness of the host transforms of one sample: a function of the seed and its place in all of training.

    Raises:
      ValueError: a number outside of 0..2**64-1.
    """
    return np.random.Generator(_philox(seed, position, stream=1))


def bucket_of(seed: int, step: int, count: int) -> int:
    """Which of `count` shapes the batch of a step has: the same on every host and after a resumption."""
    return int(_philox(seed, step, stream=2).random_raw() % count)


def _philox(seed: int, number: int, stream: int) -> np.random.Philox:
    """The streams start 2**192 blocks apart, so the randomness of a sample never repeats that of an order."""
    for name, value in (("seed", seed), ("number", number)):
        if not 0 <= value < 2**64:
            raise ValueError(f"{name} is {value}: expected an integer in 0..2**64-1")
    return np.random.Philox(counter=np.array([0, 0, 0, stream], np.uint64), key=np.array([seed, number], np.uint64))
