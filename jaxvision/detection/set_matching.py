"""Detection as the prediction of a set (Carion et al. 2020, arXiv:2005.12872, section 3.1): matching and losses.

Each object is matched with one query of its own, all at once at the lowest cost; the other queries are to find nothing.
Boxes are centre x, centre y, width, height, as shares of the picture's sides, not of the canvas's. Overlaps in pixels,
which OpenMMLab takes, are the same: they do not change where an axis is stretched.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxvision import losses
from jaxvision.detection.assigners import Assignment, trained
from jaxvision.ops import box_convert, box_iou, clip_boxes, linear_sum_assignment
from jaxvision.registry import hint

SCORES = ("softmax", "focal")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SetMatcher:
    """The cost of a pair, and the cheapest matching. Defaults are those of DETR in both references.

    Attributes:
      score: the cost of a class. "softmax": minus its probability (DETR). "focal": how the focal loss of its logit
        would change (Deformable DETR); with `alpha` and `gamma`.
      class_weight, box_weight, giou_weight: of the parts of the cost: class, L1 distance, minus GIoU.
    """

    score: str = "softmax"
    class_weight: float = 1.0
    box_weight: float = 5.0
    giou_weight: float = 2.0
    alpha: float = 0.25
    gamma: float = 2.0

    def __post_init__(self) -> None:
        if self.score not in SCORES:
            raise ValueError(f"unknown score {self.score!r}: {hint(self.score, SCORES)}")

    def cost(
        self,
        logits: Float[Array, "q c"],
        boxes: Float[Array, "q 4"],
        labels: Int[Array, " m"],
        objects: Float[Array, "m 4"],
    ) -> Float[Array, "q m"]:
        """Of each pair of a query and an object, float32."""
        distance = jnp.sum(jnp.abs(boxes[:, None] - objects[None]), axis=-1)
        overlap = box_iou(box_convert(boxes, "cxcywh", "xyxy"), box_convert(objects, "cxcywh", "xyxy"), "giou")
        each = self._class_costs(logits.astype(jnp.float32))[:, labels]
        return self.class_weight * each + self.box_weight * distance - self.giou_weight * overlap

    def _class_costs(self, logits: Float[Array, "q c"]) -> Float[Array, "q c"]:
        if self.score == "softmax":
            return -jax.nn.softmax(logits)
        chance = jax.nn.sigmoid(logits)
        found = self.alpha * (1 - chance) ** self.gamma * -jax.nn.log_sigmoid(logits)
        return found - (1 - self.alpha) * chance**self.gamma * -jax.nn.log_sigmoid(-logits)

    def __call__(
        self,
        logits: Float[Array, "q c"],
        boxes: Float[Array, "q 4"],
        labels: Int[Array, " m"],
        objects: Float[Array, "m 4"],
        valid: Bool[Array, " m"],
    ) -> Assignment:
        """Matches the queries of one image; `vmap` does it for a batch.

        Of more objects than queries, those stay without one that cost the most.

        Args:
          labels, objects: the classes and boxes; rows that are not `valid` count as absent.
        """
        cost = self.cost(*jax.lax.stop_gradient((logits, boxes)), labels, objects)
        truth, matched = linear_sum_assignment(cost, column_valid=valid)
        return Assignment(truth, matched, ~matched)


Classify = Callable[[Float[Array, "b q c"], Int[Array, "b q"], Bool[Array, "b q"]], tuple[Array, Array | None]]
"""(logits, labels, found): the loss of each query (further axes are summed), and the weights by whose sum it is
divided, [B, Q]; None: by the number of objects."""


def set_losses(
    logits: Float[Array, "layers b q c"],
    boxes: Float[Array, "layers b q 4"],
    batch: Mapping[str, Any],
    matcher: SetMatcher,
    classify: Classify,
    *,
    weights: tuple[float, float],
) -> dict[str, tuple[Array, Array]]:
    """(sum, count) of `classification`, `box` (L1) and `giou` of the last layer, and of each other one.

    Those of layer i, which is matched by itself, are called `classification_<i>` and so on. The count is the number of
    objects, in the whole batch at least one (`DetectionTask` sees to it).

    Args:
      batch: `targets`, `size` and `valid`.
      weights: of `box` and `giou`.
    """
    targets, valid = batch["targets"], batch["valid"]
    objects = to_shares(targets.boxes, batch["size"])
    real = trained(targets)
    over_images = jax.vmap(matcher)
    found = jax.vmap(over_images, in_axes=(0, 0, None, None, None))(logits, boxes, targets.labels, objects, real)

    def one(logits: Array, boxes: Array, found: Assignment) -> tuple[tuple[Array, Array], ...]:
        hit = found.positive
        learned = hit & valid[:, None]
        count = jnp.sum(learned, dtype=jnp.float32)
        each, of_queries = classify(logits, jnp.take_along_axis(targets.labels, found.truth, axis=1), hit)
        classification, _ = losses.weighted_sum(each, jnp.broadcast_to(valid[:, None], hit.shape))
        weight = count if of_queries is None else jnp.sum(jnp.where(valid[:, None], of_queries, 0.0))
        # Queries without an object stand for a box of their own, so that everything is finite.
        aims = jnp.take_along_axis(objects, found.truth[..., None], axis=1)
        said, aims = (jnp.where(hit[..., None], x, 0.5) for x in (boxes, aims))
        distance, _ = losses.weighted_sum(jnp.sum(jnp.abs(said - aims), axis=-1), learned)
        corners = (box_convert(x, "cxcywh", "xyxy") for x in (said, aims))
        apart, _ = losses.weighted_sum(losses.iou_loss(*corners, kind="giou"), learned)
        return (classification, weight), (weights[0] * distance, count), (weights[1] * apart, count)

    terms = dict(zip(("classification", "box", "giou"), jax.vmap(one)(logits, boxes, found), strict=True))
    last = logits.shape[0] - 1
    return {
        name if i == last else f"{name}_{i}": (total[i], count[i])
        for i in (last, *range(last))
        for name, (total, count) in terms.items()
    }


def to_shares(boxes: Float[Array, "b n 4"], size: Float[Array, "b 2"]) -> Float[Array, "b n 4"]:
    """Corners in pixels to centres and sides, as shares of the picture's sides."""
    return box_convert(boxes.astype(jnp.float32), "xyxy", "cxcywh") / jnp.maximum(_sides(size), 1.0)


def to_pixels(boxes: Float[Array, "b n 4"], size: Float[Array, "b 2"]) -> Float[Array, "b n 4"]:
    """The inverse of `to_shares`, clipped to the picture."""
    return clip_boxes(box_convert(boxes, "cxcywh", "xyxy") * _sides(size), size)


def _sides(size: Float[Array, "b 2"]) -> Float[Array, "b 1 4"]:
    return jnp.tile(size.astype(jnp.float32)[:, ::-1], (1, 2))[:, None]
