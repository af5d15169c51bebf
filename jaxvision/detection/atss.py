"""ATSS (Zhang et al. 2020, arXiv:1912.02424): one anchor per cell, and each object sets the IoU that makes it positive.

The head and the centerness are those of FCOS. Defaults are those of OpenMMLab's `atss_r50_fpn_1x_coco`. What differs:

- Losses are divided as in `retinanet.py`: by the number of positives of the batch, of which every image counts at least
  one; that of the boxes by the sum of their centerness, for which OpenMMLab takes at least one.
- Where an object has a single candidate, that one is positive; the standard deviation of one number is not a number in
  OpenMMLab.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxvision import layers, losses
from jaxvision.detection.anchors import Anchors, in_picture
from jaxvision.detection.assigners import Assignment, trained
from jaxvision.detection.centerness import centerness, centerness_head, openmmlab_keys
from jaxvision.detection.dense import Suppression, detect
from jaxvision.detection.keys import with_backbone
from jaxvision.ops import box_convert, box_iou_aligned, decode_deltas, encode_distances, top_k
from jaxvision.pretrained.keymaps import Rules
from jaxvision.structures import Detections, Instances

Outputs = Mapping[str, tuple[Array, ...]]
LEAST_INSIDE = 0.01
"""Pixels that the centre of a positive anchor is inside its object (the authors' code)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ATSSAssigner:
    """Adaptive training sample selection (algorithm 1).

    Attributes:
      candidates: anchors of each level that are nearest to an object (section 4.3: results hardly change from 7 to 17).
    """

    candidates: int = 9

    def __post_init__(self) -> None:
        if self.candidates < 1:
            raise ValueError(f"an assigner got candidates={self.candidates}: expected at least 1")

    def __call__(
        self,
        anchors: Sequence[Float[Array, "_ 4"]],
        boxes: Float[Array, "m 4"],
        valid: Bool[Array, " m"],
        usable: Bool[Array, " n"],
    ) -> Assignment:
        """Assigns the anchors of one image; `vmap` does it for a batch.

        The candidates of an object are the anchors whose centres are nearest to its own, some of each level. Those are
        positive that overlap it by at least the mean of their IoUs plus the standard deviation, and whose centres lie
        in it; of several objects an anchor finds the one that it overlaps most.

        Args:
          anchors: of each level, xyxy.
          boxes: of the objects, xyxy; rows that are not `valid` count as absent.
          usable: anchors that take part; the others are neither positive nor negative.
        """
        candidates, real = self._nearest(anchors, boxes, usable)
        chosen = jnp.concatenate(anchors)[candidates]
        around = jnp.broadcast_to(boxes[:, None], chosen.shape)
        overlap = jnp.where(real, box_iou_aligned(chosen, around), 0.0)
        threshold = _mean_and_deviation(overlap, real)
        inside = jnp.all(
            encode_distances(around, box_convert(chosen, "xyxy", "cxcywh")[..., :2]) > LEAST_INSIDE, axis=-1
        )
        positive = real & inside & (overlap >= threshold[:, None]) & valid[:, None]

        best = jnp.full((boxes.shape[0], usable.shape[0]), -1.0, jnp.float32)
        which = jnp.broadcast_to(jnp.arange(boxes.shape[0])[:, None], candidates.shape)
        best = best.at[which, candidates].max(jnp.where(positive, overlap, -1.0))
        found = jnp.max(best, axis=0) >= 0
        return Assignment(jnp.argmax(best, axis=0).astype(jnp.int32), found & usable, ~found & usable)

    def _nearest(
        self, anchors: Sequence[Float[Array, "_ 4"]], boxes: Float[Array, "m 4"], usable: Bool[Array, " n"]
    ) -> tuple[Int[Array, "m k"], Bool[Array, "m k"]]:
        """The candidates of each object, level by level, and which are real: a level may have fewer usable anchors."""
        middles = box_convert(boxes, "xyxy", "cxcywh")[:, :2]
        rows, real, start = [], [], 0
        for level in anchors:
            end = start + len(level)
            centres = box_convert(level, "xyxy", "cxcywh")[:, :2]
            distance = jnp.sum(jnp.square(centres[None] - middles[:, None]), axis=-1)
            part = jnp.broadcast_to(usable[None, start:end], distance.shape)
            _, nearest, there = top_k(-distance, min(self.candidates, len(level)), part)
            rows.append(nearest + start)
            real.append(there)
            start = end
        return jnp.concatenate(rows, axis=1), jnp.concatenate(real, axis=1)


def _mean_and_deviation(values: Float[Array, "m k"], real: Bool[Array, "m k"]) -> Float[Array, " m"]:
    """The sum of the mean and of the unbiased standard deviation of the real values of each row."""
    count = jnp.sum(real, axis=1, dtype=jnp.float32)
    mean = jnp.sum(values, axis=1) / jnp.maximum(count, 1.0)
    squares = jnp.sum(jnp.where(real, jnp.square(values - mean[:, None]), 0.0), axis=1)
    return mean + jnp.sqrt(squares / jnp.maximum(count - 1.0, 1.0))


class ATSS(nn.Module):
    """Variables lie under "backbone", "neck" and "head".

    Attributes:
      backbone: called as `backbone(images, train=...)`; has `strides`.
      neck: called as `neck(levels, train=...)`; has `strides(of_backbone)`.
      num_classes: without a background.
      anchors: of every level, one per cell (section 3.1: squares of 8 strides).
      assigner: of objects to anchors.
      depth: convolutions of each tower.
      norm, conv_bias, factors, centerness_with_boxes, prior: see `centerness.CenternessHead`.
      alpha, gamma: of the focal loss.
      box_loss: one minus this overlap of `ops.box_iou`, weighted by the centerness.
      box_weight: of that loss.
      box_stds: deltas are divided by them.
      score: how a detection's score is made, see `dense.detect`.
      suppression: how detections are chosen.
    """

    backbone: nn.Module
    neck: nn.Module
    num_classes: int
    anchors: Anchors = Anchors(scales=(8.0,), ratios=(1.0,))
    assigner: ATSSAssigner = ATSSAssigner()
    depth: int = 4
    norm: layers.Norm = layers.Norm("gn")
    conv_bias: bool = False
    factors: bool = True
    centerness_with_boxes: bool = True
    prior: float = 0.01
    alpha: float = 0.25
    gamma: float = 2.0
    box_loss: str = "giou"
    box_weight: float = 2.0
    box_stds: tuple[float, float, float, float] = (0.1, 0.1, 0.2, 0.2)
    score: str = "product"
    suppression: Suppression = Suppression(iou_threshold=0.6)

    def __post_init__(self) -> None:
        if self.anchors.per_cell != 1:
            raise ValueError(f"ATSS got {self.anchors}, which are {self.anchors.per_cell} per cell: expected one")
        super().__post_init__()

    def setup(self) -> None:
        self.head = centerness_head(self)

    @property
    def strides(self) -> dict[str, int]:
        """Input pixels per cell of each level that the head sees."""
        return self.neck.strides(self.backbone.strides)

    def __call__(
        self, inputs: Array | Mapping[str, Array], *, train: bool = False, targets: Instances | None = None
    ) -> dict[str, tuple[Array, ...]]:
        """What the head says.

        Args:
          inputs: float images [B, H, W, C] or `{"image": images}`.
          targets: not used.

        Returns:
          By level, finest first: `logits` [B, N, num_classes], `deltas` [B, N, 4], `centerness` [B, N], a logit, and
          `anchors` [N, 4] xyxy in pixels.
        """
        images = inputs["image"] if isinstance(inputs, Mapping) else inputs
        levels = self.neck(self.backbone(images, train=train), train=train)
        logits, deltas, quality = self.head(levels, train=train)
        grids = {name: (x.shape[1], x.shape[2]) for name, x in levels.items()}
        anchors = self.anchors(grids, self.strides, (images.shape[1], images.shape[2]))
        return {"logits": logits, "deltas": deltas, "centerness": quality, "anchors": anchors}

    @nn.nowrap
    def decode(self, anchors: Float[Array, "*b 4"], deltas: Float[Array, "*b 4"]) -> Float[Array, "*b 4"]:
        """Boxes xyxy in pixels, float32."""
        return decode_deltas(deltas.astype(jnp.float32), anchors, (0.0,) * 4, self.box_stds)

    @nn.nowrap
    def loss(self, outputs: Outputs, batch: Mapping[str, Any]) -> dict[str, tuple[Array, Array]]:
        """(sum, count) of `classification`, `box` and `centerness`; the loss is the sum of their quotients.

        Args:
          outputs: of a call.
          batch: `targets`, `size` and `valid`.
        """
        logits, deltas, quality = (
            jnp.concatenate(outputs[name], axis=1) for name in ("logits", "deltas", "centerness")
        )
        anchors, targets = jnp.concatenate(outputs["anchors"]), batch["targets"]
        usable = in_picture(anchors, batch["size"])
        found = jax.vmap(self.assigner, in_axes=(None, 0, 0, 0))(
            outputs["anchors"], targets.boxes, trained(targets), usable
        )
        labels = jnp.take_along_axis(targets.labels, found.truth, axis=1)
        boxes = jnp.take_along_axis(targets.boxes, found.truth[..., None], axis=1)
        valid, hit = batch["valid"][:, None], found.positive[..., None]
        real = found.positive & valid

        classes = jnp.arange(self.num_classes, dtype=labels.dtype)[None, None]
        wanted = (labels[..., None] == classes) & hit
        focal = losses.focal(logits, wanted.astype(jnp.float32), alpha=self.alpha, gamma=self.gamma)
        classification, _ = losses.weighted_sum(focal, (found.positive | found.negative) & valid)

        # The other anchors stand for their own objects, so that everything is finite.
        aims = jnp.where(hit, boxes, anchors[None])
        said = self.decode(anchors[None], jnp.where(hit, deltas, jnp.zeros_like(deltas)))
        middle = centerness(encode_distances(aims, box_convert(anchors, "xyxy", "cxcywh")[None, :, :2]))
        each = losses.iou_loss(said, aims, kind=self.box_loss)
        box, weight = losses.weighted_sum(each, jnp.where(real, middle, 0.0))
        off_centre, _ = losses.weighted_sum(losses.binary_cross_entropy(quality, middle), real)

        positives = jnp.maximum(jnp.sum(found.positive, axis=1, dtype=jnp.float32), 1.0)
        count = jnp.sum(jnp.where(batch["valid"], positives, 0.0))
        return {
            "classification": (classification, count),
            "box": (self.box_weight * box, weight),
            "centerness": (off_centre, count),
        }

    @nn.nowrap
    def predict(self, outputs: Outputs, size: Float[Array, "b 2"]) -> Detections:
        """Detections in pixels of the canvas, clipped to pictures of these heights and widths."""
        said = outputs["logits"], outputs["deltas"], outputs["anchors"]
        return detect(*said, self.decode, size, self.suppression, outputs["centerness"], self.score)


HEAD = r"/cls_logits/"
"""The layer that depends on the number of classes."""


def keys(model: ATSS) -> dict[str, Rules]:
    """See `pretrained/keymaps.py`."""
    return with_backbone(model.backbone, {"openmmlab": openmmlab_keys(model, "atss")})
