"""Which of the assigned anchors or proposals an image is trained on: a fixed number of them, drawn at random."""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from jaxvision.detection.assigners import Assignment
from jaxvision.ops import top_k


@flax.struct.dataclass
class Samples:
    """Drawn candidates of an image: positives first, then negatives, then padding.

    Attributes:
      rows: of the candidates.
      truth: row of the object that a positive is to find; any row for the others.
      positive: finds an object.
      valid: is no padding.
    """

    rows: Int[Array, "*b k"]
    truth: Int[Array, "*b k"]
    positive: Bool[Array, "*b k"]
    valid: Bool[Array, "*b k"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomSampler:
    """`count` candidates of an image, of which at most a share is positive; negatives fill up what positives leave.

    Ren et al. 2015 (arXiv:1506.01497), section 3.1.3: 256 anchors, half of them positive; Girshick 2015
    (arXiv:1504.08083), section 2.3: a quarter of the proposals (512 of them with a pyramid, Lin et al. 2017).

    Attributes:
      count: candidates of an image; as many as there are or more takes all of them.
      positive_fraction: of `count`, above which positives are left out.
    """

    count: int = 512
    positive_fraction: float = 0.25

    def __post_init__(self) -> None:
        if not 0 < self.positive_fraction <= 1 or self.most_positives(self.count) < 1:
            raise ValueError(
                f"a sampler got count={self.count}, positive_fraction={self.positive_fraction}: expected a fraction in "
                "(0, 1] that is at least one candidate"
            )

    def most_positives(self, candidates: int) -> int:
        """Positives are among the first so many samples of so many candidates."""
        return min(int(self.count * self.positive_fraction), candidates)

    def __call__(self, key: PRNGKeyArray, found: Assignment) -> Samples:
        """The samples of one image, min(`count`, candidates) rows; `vmap` it over images, with a key for each."""
        candidates = found.truth.shape[0]
        size, most = min(self.count, candidates), self.most_positives(candidates)
        # The highest of equally distributed numbers are a draw without replacement.
        order = jax.random.uniform(key, (candidates,))
        _, positives, drawn = top_k(order, most, found.positive)
        _, negatives, left = top_k(order, size, found.negative)
        number = jnp.sum(drawn, dtype=jnp.int32)
        place = jnp.arange(size, dtype=jnp.int32)
        positive, behind = place < number, jnp.maximum(place - number, 0)
        rows = jnp.where(positive, jnp.pad(positives, (0, size - most)), negatives[behind])
        return Samples(rows, found.truth[rows], positive, positive | left[behind])


def hardest(
    values: Float[Array, "b n"], candidates: Bool[Array, "b n"], counts: Float[Array, " b"]
) -> Bool[Array, "b n"]:
    """The `counts` largest values among the candidates of each row, or all of them; of equals the earlier.

    With losses as values, the negatives that are worth learning from (Liu et al. 2016, arXiv:1512.02325, section 2.2).
    """
    keys = jnp.where(candidates, jax.lax.stop_gradient(values), -jnp.inf)
    rank = jnp.argsort(jnp.argsort(-keys, axis=1, stable=True), axis=1)
    return candidates & (rank.astype(jnp.float32) < counts[:, None])
