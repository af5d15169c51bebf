"""Which anchor is to find which object."""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxvision.ops import box_iou
from jaxvision.registry import hint
from jaxvision.structures import Instances

LOW_QUALITY = ("none", "truth", "first", "anchor")


@flax.struct.dataclass
class Assignment:
    """What the anchors (or points, or proposals) of an image are to say. The others are neither and have no loss.

    Attributes:
      truth: row of the object; any row where there is none.
      positive: finds the object `truth`.
      negative: finds nothing.
    """

    truth: Int[Array, " n"]
    positive: Bool[Array, " n"]
    negative: Bool[Array, " n"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaxIoUAssigner:
    """By the overlap with the object that an anchor overlaps most (Ren et al. 2015, arXiv:1506.01497, section 3.1.2).

    Attributes:
      positive: IoU from which on an anchor is positive.
      negative: IoU below which it is negative; in between it is neither.
      low_quality: what becomes of the anchors that overlap an object as much as any does, but less than `positive`:
        "none": nothing; "truth": they are positive for that object, the last one of several (OpenMMLab); "first": only
        the first of an object's anchors is, likewise (SSD); "anchor": they are positive for the object that they
        overlap most (torchvision, Detectron2).
      least: IoU below which an object gets no anchor by `low_quality`; without any overlap it never gets one.
    """

    positive: float = 0.5
    negative: float = 0.4
    low_quality: str = "truth"
    least: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.negative <= self.positive <= 1:
            raise ValueError(
                f"an assigner got positive={self.positive}, negative={self.negative}: expected "
                "0 <= negative <= positive <= 1"
            )
        if self.low_quality not in LOW_QUALITY:
            raise ValueError(f"an assigner got low_quality={self.low_quality!r}: {hint(self.low_quality, LOW_QUALITY)}")

    def __call__(
        self,
        anchors: Float[Array, "n 4"],
        boxes: Float[Array, "m 4"],
        valid: Bool[Array, " m"],
        usable: Bool[Array, " n"] | None = None,
    ) -> Assignment:
        """Assigns the anchors of one image; `vmap` does it for a batch.

        Args:
          anchors: xyxy.
          boxes: of the objects, xyxy; rows that are not `valid` count as absent.
          usable: anchors that take part; the others are neither positive nor negative. None: all.
        """
        usable = jnp.ones(anchors.shape[:1], bool) if usable is None else usable
        overlap = jnp.where(valid[:, None] & usable[None], box_iou(boxes, anchors), -1.0)
        # Maxima are compared for equality below, so that all readers must see the same rounding.
        overlap = jax.lax.optimization_barrier(overlap)
        best = jnp.max(overlap, axis=0, initial=-1.0)
        truth = jnp.argmax(overlap, axis=0).astype(jnp.int32)
        positive = best >= self.positive
        if self.low_quality != "none":
            most = jnp.max(overlap, axis=1, initial=-1.0)
            reached = (most > 0) & (most >= self.least)
            forced = (overlap == most[:, None]) & reached[:, None]
            if self.low_quality == "first":
                first = jnp.argmax(overlap, axis=1).astype(jnp.int32)[:, None]
                forced &= first == jnp.arange(anchors.shape[0], dtype=jnp.int32)[None]
            any_forced = jnp.any(forced, axis=0)
            if self.low_quality != "anchor":
                last = boxes.shape[0] - 1 - jnp.argmax(forced[::-1], axis=0).astype(jnp.int32)
                truth = jnp.where(any_forced, last, truth)
            positive |= any_forced
        return Assignment(truth, positive & usable, ~positive & usable & (best < self.negative))


def trained(targets: Instances) -> Bool[Array, "*b n"]:
    """The objects that a detector is to find: crowds and difficult ones are neither hit nor miss."""
    return targets.valid & ~targets.crowd
