"""SimOTA (Ge et al. 2021, arXiv:2107.08430, section 2.1): which points are to find which object, by what they say now.

Optimal transport (arXiv:2103.14259) made simple: each object takes the points that cost it least, as many as their
overlaps say. Numbers and order of operations are those of OpenMMLab's `SimOTAAssigner`. What differs: an object with no
point in its box or near its centre gets none; there it takes one from the points of others.

An image with M objects and N points costs a few arrays [M, N]; classes are gathered, never repeated for every pair.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxvision.detection.assigners import Assignment
from jaxvision.ops import box_convert, box_iou, encode_distances, top_k

LEAST_IOU = 1e-7
"""Added to an overlap before its logarithm."""
LEAST_LOG = -100.0
"""Least logarithm in a binary cross-entropy (PyTorch)."""
OUTSIDE = 1e5
"""Cost of a point that is not both in the box and near the centre: more than everything else together."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimOTAAssigner:
    """Dynamic k and least cost.

    Attributes:
      center_radius: in strides, how far from the centre of an object, in x and in y, a point is near it.
      candidates: the largest number of points of an object, and how many overlaps are summed to get its number.
      iou_weight: of the logarithm of the overlap in the cost; that of the class is 1.
    """

    center_radius: float = 2.5
    candidates: int = 10
    iou_weight: float = 3.0

    def __post_init__(self) -> None:
        if self.center_radius <= 0 or self.candidates < 1 or self.iou_weight < 0:
            raise ValueError(
                f"{self}: expected a positive center_radius, at least one candidate, an iou_weight of at least 0"
            )

    def __call__(
        self,
        points: Float[Array, "n 3"],
        said: Float[Array, "n 4"],
        scores: Float[Array, "n c"],
        boxes: Float[Array, "m 4"],
        labels: Int[Array, " m"],
        valid: Bool[Array, " m"],
    ) -> tuple[Assignment, Float[Array, " n"]]:
        """Assigns the points of one image; `vmap` does it for a batch. What is not positive is negative.

        Args:
          points: x, y and stride.
          said: the box that each point predicts now, xyxy.
          scores: its probability of each class.
          boxes: of the objects, xyxy; rows that are not `valid` count as absent.
          labels: their classes.

        Returns:
          The assignment, and of each point the overlap of its box with its object, 0 where it has none.
        """
        near, both = self._places(points, boxes, valid)
        usable = jnp.any(near, axis=0)
        overlap = jnp.where(valid[:, None], box_iou(boxes, said), 0.0)
        cost = self._cost(scores, labels, overlap) + jnp.where(both, 0.0, OUTSIDE)
        cost = jnp.where(valid[:, None] & usable[None], cost, jnp.inf)

        usable_by = jnp.broadcast_to(usable[None], overlap.shape)
        most, _, _ = top_k(overlap, self.candidates, usable_by)
        count = jnp.maximum(jnp.sum(most, axis=1).astype(jnp.int32), 1)
        count = jnp.where(valid & jnp.any(near, axis=1), count, 0)

        _, rows, there = top_k(-cost, self.candidates, usable_by)
        taken = there & (jnp.arange(self.candidates)[None] < count[:, None])
        which = jnp.broadcast_to(jnp.arange(boxes.shape[0], dtype=jnp.int32)[:, None], rows.shape)
        takers = jnp.zeros(usable.shape, jnp.int32).at[rows].add(taken.astype(jnp.int32))
        last = jnp.zeros(usable.shape, jnp.int32).at[rows].max(jnp.where(taken, which, 0))
        truth = jnp.where(takers > 1, jnp.argmin(cost, axis=0).astype(jnp.int32), last)
        positive = takers > 0
        own = jnp.take_along_axis(overlap, truth[None], axis=0)[0]
        return Assignment(truth, positive, ~positive), jnp.where(positive, own, 0.0)

    def _places(
        self, points: Float[Array, "n 3"], boxes: Float[Array, "m 4"], valid: Bool[Array, " m"]
    ) -> tuple[Bool[Array, "m n"], Bool[Array, "m n"]]:
        """Which points lie in the box of an object or near its centre, and which do both."""
        places, reach = points[None, :, :2], self.center_radius * points[None, :, 2:]
        middles = box_convert(boxes, "xyxy", "cxcywh")[:, None, :2]
        around = jnp.concatenate([middles - reach, middles + reach], axis=-1)
        everywhere = jnp.broadcast_to(places, (*around.shape[:2], 2))
        of_box = jnp.broadcast_to(boxes[:, None], around.shape)
        inside, close = (jnp.min(encode_distances(b, everywhere), axis=-1) > 0 for b in (of_box, around))
        return (inside | close) & valid[:, None], inside & close & valid[:, None]

    def _cost(
        self, scores: Float[Array, "n c"], labels: Int[Array, " m"], overlap: Float[Array, "m n"]
    ) -> Float[Array, "m n"]:
        """Binary cross-entropy over all classes, and the weighted negative logarithm of the overlap."""
        wrong = -jnp.maximum(jnp.log1p(-scores), LEAST_LOG)
        right = -jnp.maximum(jnp.log(scores), LEAST_LOG)
        of_class = jnp.sum(wrong, axis=1)[None] + (right - wrong).T[labels]
        return of_class - self.iou_weight * jnp.log(overlap + LEAST_IOU)
