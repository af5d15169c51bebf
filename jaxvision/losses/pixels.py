"""Losses of label maps: objects that a config names and that turn logits of all pixels into a (sum, count).

Every loss is a frozen dataclass with `weight` and `term`, the name under which it is recorded. Its call takes logits at
the size of the label map; pixels with the label `IGNORED`, those of rows that are not valid, and labels beyond the
classes have no loss.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxvision.losses.classification import cross_entropy, focal
from jaxvision.losses.reduction import weighted_sum

IGNORED = 255
"""Label of pixels without class."""
EPSILON = 1e-7
"""Least divisor of a score, and least score of which a logarithm is taken."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PixelLoss:
    """What all of them have.

    Attributes:
      weight: factor of the loss, which its user applies.
    """

    weight: float = 1.0
    term: ClassVar[str] = ""

    def __call__(
        self, logits: Float[Array, "b h w c"], labels: Int[Array, "b h w"], valid: Bool[Array, " b"]
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """(sum, count), whose quotient is the loss; the count of a batch without any pixel to learn from is 0."""
        raise NotImplementedError(f"{type(self).__name__} defines no __call__(logits, labels, valid)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CrossEntropy(PixelLoss):
    """Softmax cross-entropy, a mean over pixels.

    Attributes:
      class_weights: factor of each class; none: 1. The divisor stays the number of pixels, as in OpenMMLab (torch
        divides by the sum of the weights).
      count_ignored: whether ignored pixels count in the divisor, as they do in OpenMMLab unless `avg_non_ignore` is
        set; torch leaves them out.
      label_smoothing: share of each target spread over all classes.
    """

    class_weights: tuple[float, ...] = ()
    count_ignored: bool = False
    label_smoothing: float = 0.0
    term: ClassVar[str] = "cross_entropy"

    def __call__(
        self, logits: Float[Array, "b h w c"], labels: Int[Array, "b h w"], valid: Bool[Array, " b"]
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        known = known_pixels(labels, valid, logits.shape[-1])
        weights = check_class_weights(self.class_weights, logits.shape[-1])
        each = cross_entropy(
            logits,
            jnp.where(known, labels, IGNORED),
            label_smoothing=self.label_smoothing,
            ignore_index=IGNORED,
            class_weights=weights,
        )
        counted = jnp.broadcast_to(valid[:, None, None], labels.shape) if self.count_ignored else known
        return weighted_sum(each, counted)


def known_pixels(labels: Int[Array, "b h w"], valid: Bool[Array, " b"], classes: int) -> Bool[Array, "b h w"]:
    """Which pixels of which images have a class."""
    return (labels >= 0) & (labels < min(classes, IGNORED)) & valid[:, None, None]


def check_class_weights(weights: tuple[float, ...], classes: int) -> Float[Array, " c"] | None:
    """The weights as an array; raises ValueError if there are not as many as classes."""
    if not weights:
        return None
    if len(weights) != classes:
        raise ValueError(f"{len(weights)} class_weights for {classes} classes")
    return jnp.asarray(weights, jnp.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OHEM(PixelLoss):
    """Cross-entropy of hard pixels alone: online hard example mining (Shrivastava et al. 2016, arXiv:1604.03540).

    As OpenMMLab's `OHEMPixelSampler` chooses: hard are pixels whose true class has a probability below `threshold`, and
    the `min_kept` hardest ones of each image on average, if those are fewer; the batch is ranked as a whole. Shapes are
    static: the probabilities of all pixels are sorted.

    Attributes:
      threshold: probability of the true class from which on a pixel is easy.
      min_kept: pixels that count at least, times the images of the batch (of this device).
      class_weights: factor of each class; none: 1.
      count_all: whether the divisor is the number of all pixels, as in OpenMMLab, in place of that of hard ones.
    """

    threshold: float = 0.7
    min_kept: int = 100_000
    class_weights: tuple[float, ...] = ()
    count_all: bool = False
    term: ClassVar[str] = "ohem"

    def __call__(
        self, logits: Float[Array, "b h w c"], labels: Int[Array, "b h w"], valid: Bool[Array, " b"]
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        known = known_pixels(labels, valid, logits.shape[-1])
        wanted = jnp.where(known, labels, IGNORED)
        each = cross_entropy(logits, wanted, ignore_index=IGNORED)
        probability = jnp.where(known, jnp.exp(-jax.lax.stop_gradient(each)), jnp.inf)
        ranked = jnp.sort(probability.reshape(-1))
        count = jnp.sum(known, dtype=jnp.int32)
        kept = jnp.minimum(self.min_kept * jnp.sum(valid, dtype=jnp.int32), count - 1)
        limit = jnp.maximum(ranked[jnp.maximum(kept, 0)], self.threshold)
        hard = known & (probability < limit)
        weights = check_class_weights(self.class_weights, logits.shape[-1])
        if weights is not None:
            each = each * weights[jnp.where(known, labels, 0)]
        total, number = weighted_sum(each, hard)
        everything = jnp.sum(jnp.broadcast_to(valid[:, None, None], labels.shape), dtype=jnp.float32)
        return total, everything if self.count_all else number


@dataclasses.dataclass(frozen=True, kw_only=True)
class Focal(PixelLoss):
    """Sigmoid focal loss of each class against the others, a mean over pixels and classes.

    Lin et al. 2017 (arXiv:1708.02002); as in segmentation-models, and in OpenMMLab with `alpha=0.5`.

    Attributes:
      alpha: weight of the true class against 1 - alpha of the others; None: 1 for all.
      gamma: focusing exponent.
    """

    alpha: float | None = None
    gamma: float = 2.0
    term: ClassVar[str] = "focal"

    def __call__(
        self, logits: Float[Array, "b h w c"], labels: Int[Array, "b h w"], valid: Bool[Array, " b"]
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        known = known_pixels(labels, valid, logits.shape[-1])
        wanted = _one_hot(labels, logits.shape[-1])
        each = jnp.mean(focal(logits, wanted, alpha=self.alpha, gamma=self.gamma), axis=-1)
        return weighted_sum(each, known)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Region(PixelLoss):
    """What losses of overlaps have in common: one minus a score of each class, a mean over classes.

    A class that does not occur has the loss 0 and counts in the mean, as in segmentation-models. Sums run over the
    images of this device; with several devices the loss is the mean of theirs, unless `per_image` is set.

    Attributes:
      smooth: added to both sides of the quotient.
      log: minus the logarithm of the score in place of one minus it.
      per_image: sums run over each image, and the loss is a mean over images.
      classes: those that count; none: all.
    """

    smooth: float = 0.0
    log: bool = False
    per_image: bool = False
    classes: tuple[int, ...] = ()

    def score(
        self, common: Float[Array, "n c"], found: Float[Array, "n c"], true: Float[Array, "n c"]
    ) -> Float[Array, "n c"]:
        """The score from the sums over pixels of probability x truth, of the probability, and of the truth."""
        raise NotImplementedError(f"{type(self).__name__} defines no score(common, found, true)")

    def __call__(
        self, logits: Float[Array, "b h w c"], labels: Int[Array, "b h w"], valid: Bool[Array, " b"]
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        known = known_pixels(labels, valid, logits.shape[-1])[..., None].astype(jnp.float32)
        probability = jax.nn.softmax(logits.astype(jnp.float32)) * known
        truth = _one_hot(labels, logits.shape[-1]) * known
        axes = (1, 2) if self.per_image else (0, 1, 2)
        sums = (jnp.sum(x, axis=axes) for x in (probability * truth, probability, truth))
        common, found, true = (x.reshape(-1, x.shape[-1]) for x in sums)
        score = self.score(common, found, true)
        each = -jnp.log(jnp.maximum(score, EPSILON)) if self.log else 1.0 - score
        each = jnp.where(true > 0, each, 0.0)
        if self.classes:
            each = each[:, jnp.asarray(self.classes, jnp.int32)]
        values = self.combined(jnp.mean(each, axis=-1))
        rows = valid if self.per_image else jnp.any(valid)[None]
        return weighted_sum(values, rows)

    def combined(self, values: Float[Array, " n"]) -> Float[Array, " n"]:
        """The loss from the means over classes."""
        return values

    def quotient(self, part: Float[Array, "n c"], whole: Float[Array, "n c"]) -> Float[Array, "n c"]:
        return (part + self.smooth) / jnp.maximum(whole + self.smooth, EPSILON)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dice(Region):
    """2 |A B| / (|A| + |B|) (Milletari et al. 2016, arXiv:1606.04797, with sums in place of sums of squares).

    `smooth` is twice that of segmentation-models, which halves both sides before it adds it.
    """

    term: ClassVar[str] = "dice"

    def score(
        self, common: Float[Array, "n c"], found: Float[Array, "n c"], true: Float[Array, "n c"]
    ) -> Float[Array, "n c"]:
        return self.quotient(2.0 * common, found + true)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Jaccard(Region):
    """|A B| / |A or B|."""

    term: ClassVar[str] = "jaccard"

    def score(
        self, common: Float[Array, "n c"], found: Float[Array, "n c"], true: Float[Array, "n c"]
    ) -> Float[Array, "n c"]:
        return self.quotient(common, found + true - common)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tversky(Region):
    """|A B| / (|A B| + alpha |A without B| + beta |B without A|), B the truth (Salehi et al. 2017, arXiv:1706.05721).

    Attributes:
      alpha: weight of what was found wrongly.
      beta: weight of what was missed.
      gamma: exponent of the loss (Abraham and Khan 2018, arXiv:1810.07842: 1 / gamma there).
    """

    alpha: float = 0.5
    beta: float = 0.5
    gamma: float = 1.0
    term: ClassVar[str] = "tversky"

    def score(
        self, common: Float[Array, "n c"], found: Float[Array, "n c"], true: Float[Array, "n c"]
    ) -> Float[Array, "n c"]:
        return self.quotient(common, common + self.alpha * (found - common) + self.beta * (true - common))

    def combined(self, values: Float[Array, " n"]) -> Float[Array, " n"]:
        if self.gamma == 1.0:
            return values
        # A root of 0 has no finite slope.
        return jnp.where(values > 0, jnp.where(values > 0, values, 1.0) ** self.gamma, 0.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lovasz(PixelLoss):
    """The Lovasz-Softmax loss: a convex extension of the Jaccard loss (Berman et al. 2018, arXiv:1705.08790).

    A mean over the classes that occur, over all images of this device (OpenMMLab's and segmentation-models' defaults);
    with several devices the loss is the mean of theirs, unless `per_image` is set. Every class sorts all pixels.

    Attributes:
      per_image: the loss of each image, and their mean.
    """

    per_image: bool = False
    term: ClassVar[str] = "lovasz"

    def __call__(
        self, logits: Float[Array, "b h w c"], labels: Int[Array, "b h w"], valid: Bool[Array, " b"]
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        classes = logits.shape[-1]
        known = known_pixels(labels, valid, classes)
        probability = jax.nn.softmax(logits.astype(jnp.float32))
        rows = (logits.shape[0], -1) if self.per_image else (1, -1)
        real, wanted = known.reshape(rows), labels.reshape(rows)

        def of_class(item: tuple[Array, Array]) -> tuple[Array, Array]:
            number, own = item
            true = real & (wanted == number)
            errors = jnp.where(real, jnp.abs(true.astype(jnp.float32) - own.reshape(rows)), 0.0)
            weights = jax.vmap(lovasz_weights)(jax.lax.stop_gradient(errors), true)
            return jnp.sum(errors * weights, axis=1), jnp.any(true, axis=1)

        numbers = jnp.arange(classes, dtype=labels.dtype)
        values, present = jax.lax.map(of_class, (numbers, jnp.moveaxis(probability, -1, 0)))
        count = jnp.sum(present, axis=0, dtype=jnp.float32)
        total = jnp.sum(jnp.where(present, values, 0.0), axis=0) / jnp.maximum(count, 1.0)
        return weighted_sum(total, valid if self.per_image else jnp.any(valid)[None])


def lovasz_weights(errors: Float[Array, " n"], true: Bool[Array, " n"]) -> Float[Array, " n"]:
    """Gradient of the Lovasz extension of the Jaccard loss with respect to each error (Berman et al., algorithm 1).

    The differences of algorithm 1 are written as quotients, so that nothing cancels out: a step that adds a true pixel
    changes the intersection by one, any other the union.
    """
    order = jnp.argsort(-errors)
    ordered = true[order].astype(jnp.int32)
    total = jnp.sum(ordered)
    common = (total - jnp.cumsum(ordered)).astype(jnp.float32)
    union = (total + jnp.cumsum(1 - ordered)).astype(jnp.float32)
    before = jnp.where(ordered > 0, 1.0, union - 1.0)  # at a pixel that is not true, the union without it
    safe = jnp.maximum(union, 1.0)
    steps = jnp.where(ordered > 0, 1.0 / safe, common / (safe * jnp.maximum(before, 1.0)))
    return jnp.zeros_like(errors).at[order].set(steps)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Boundary(PixelLoss):
    """The boundary loss (Kervadec et al. 2019, arXiv:1812.07032, eq. 5): probabilities, weighted by their distance.

    Each pixel has its distance to the boundary of the true region of each class, negative inside; the loss is the mean
    over pixels and classes of distance x probability. A class that does not occur, or fills the image, has distance 0.
    It is no loss of its own: the paper adds it with a small, growing weight to a loss of regions, such as `dice`.

    Attributes:
      reach: distances are exact below it and cut there; None: the width of the map. Time grows with it.
      classes: those that count; none: all.
    """

    reach: int | None = None
    classes: tuple[int, ...] = ()
    term: ClassVar[str] = "boundary"

    def __call__(
        self, logits: Float[Array, "b h w c"], labels: Int[Array, "b h w"], valid: Bool[Array, " b"]
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        known = known_pixels(labels, valid, logits.shape[-1])
        numbers = jnp.asarray(self.classes or tuple(range(logits.shape[-1])), jnp.int32)
        probability = jnp.moveaxis(jax.nn.softmax(logits.astype(jnp.float32))[..., numbers], -1, 0)

        def of_class(item: tuple[Array, Array]) -> Array:
            number, own = item
            inside = known & (labels == number)
            return jax.lax.stop_gradient(signed_distance(inside, self.reach)) * own

        each = jnp.mean(jax.lax.map(of_class, (numbers.astype(labels.dtype), probability)), axis=0)
        return weighted_sum(each, known)


def signed_distance(inside: Bool[Array, "b h w"], reach: int | None = None) -> Float[Array, "b h w"]:
    """Pixels to the nearest one inside, from outside; minus (pixels to the nearest one outside - 1), from inside.

    0 everywhere in an image of which nothing is inside, or everything.

    Args:
      reach: distances are exact below it and cut there; None: the width.
    """
    away, deep = distance(inside, reach), distance(~inside, reach)
    signed = jnp.where(inside, 1.0 - deep, away)
    both = jnp.any(inside, axis=(1, 2), keepdims=True) & ~jnp.all(inside, axis=(1, 2), keepdims=True)
    return jnp.where(both, signed, 0.0)


def distance(region: Bool[Array, "b h w"], reach: int | None = None) -> Float[Array, "b h w"]:
    """Euclidean distance of each pixel to the nearest one of the region, 0 in it; `reach` where none is as near.

    Exact below `reach`: the distance within each column, then the nearest column (Felzenszwalb and Huttenlocher 2012).
    """
    height, width = region.shape[1:]
    limit = (height + width) if reach is None else reach
    rows = jnp.arange(height, dtype=jnp.int32)[None, :, None]
    far = 2 * (height + width)
    above = jax.lax.cummax(jnp.where(region, rows, -far), axis=1)
    below = jax.lax.cummin(jnp.where(region, rows, far + height), axis=1, reverse=True)
    column = jnp.minimum(jnp.minimum(rows - above, below - rows), limit).astype(jnp.float32) ** 2
    steps = min(width - 1, limit)
    padded = jnp.pad(column, ((0, 0), (0, 0), (steps, steps)), constant_values=float(limit) ** 2)

    def nearer(i: Array, best: Array) -> Array:
        sides = (jax.lax.dynamic_slice_in_dim(padded, steps + i * sign, width, axis=2) for sign in (-1, 1))
        left, right = sides
        return jnp.minimum(best, jnp.minimum(left, right) + (i * i).astype(jnp.float32))

    squared = jax.lax.fori_loop(1, steps + 1, nearer, column)
    return jnp.minimum(jnp.sqrt(squared), float(limit))


def _one_hot(labels: Int[Array, "b h w"], classes: int) -> Float[Array, "b h w c"]:
    """Rows of one 1; of zeros for labels beyond the classes."""
    return jax.nn.one_hot(labels, classes, dtype=jnp.float32)
