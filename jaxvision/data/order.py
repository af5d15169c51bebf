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
