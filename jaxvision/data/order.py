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


def repeated_rows(
    order: Int[np.ndarray, " n"], places: Int[np.ndarray, " b"], batch_size: int, repeats: int
) -> Int[np.ndarray, " b"]:
    """What lies at some places of an epoch in which each image comes `repeats` times (repeated augmentation).

    The rule of DeiT's sampler (Hoffer et al. 2020, arXiv:1901.09335; Berman et al. 2019, arXiv:1902.05509): every row
    of `order` is repeated, one after the other, and the epoch ends after n samples, so it is as long as any other and
    sees n / repeats images. Consecutive runs of `batch_size` are the global batches. The copies of an image are
    `batch_size / repeats` places apart within its batch (there they are on different GPUs), so that transforms of
    neighbours never mix an image with itself. A batch that `repeats` does not divide shares an image with the next.

    Args:
      order: of the epoch.
      places: 0..n-1, of a process's rows.
      batch_size: of all processes together.
      repeats: 1 leaves the order as it is.
    """
    if repeats == 1:
        return order[places]
    first, offset = places - places % batch_size, places % batch_size
    within = np.concatenate([np.arange(copy, batch_size, repeats) for copy in range(repeats)])
    return order[(first + within[offset]) // repeats]


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
