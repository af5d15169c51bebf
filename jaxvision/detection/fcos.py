"""FCOS (Tian et al. 2019, arXiv:1904.01355): every point of a pyramid says how far it is to the sides of its object.

Defaults are those of OpenMMLab's `fcos_r50-caffe_fpn_gn-head_1x_coco`, which are those of the paper's first version;
the row `torchvision/fcos` has torchvision's, which follow arXiv:2006.09214: points only near the middle of an object,
distances in strides, the generalised IoU, centerness beside the boxes. What differs from the references:

- Losses are divided by the number of positives of the batch, of which every image counts at least one; OpenMMLab counts
  one for the whole batch, torchvision averages over images. That of the boxes is divided by the sum of their
  centerness where it weights them.
- Cells in the padding of the canvas, beyond a multiple of 32 pixels, have no loss.
- A distance on the border of two levels' ranges belongs to both (OpenMMLab; in torchvision to none).
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxvision import layers, losses
from jaxvision.detection.assigners import Assignment, trained
from jaxvision.detection.centerness import centerness, centerness_head, openmmlab_keys
from jaxvision.detection.dense import SCORES, Suppression, detect
from jaxvision.detection.keys import with_backbone
from jaxvision.detection.points import Points
from jaxvision.ops import box_area, box_iou_aligned, decode_distances, encode_distances
from jaxvision.pretrained.keymaps import Rules
from jaxvision.registry import hint
from jaxvision.structures import Detections, Instances

Outputs = Mapping[str, tuple[Array, ...]]
ACTIVATIONS = ("exp", "relu")
BOX_LOSSES = ("log_iou", "iou", "giou", "diou", "ciou")
LEAST_IOU = 1e-6
"""What the logarithm of the IoU sees at least (OpenMMLab)."""


class FCOS(nn.Module):
    """Variables lie under "backbone", "neck" and "head".

    Attributes:
      backbone: called as `backbone(images, train=...)`; has `strides`.
      neck: called as `neck(levels, train=...)`; has `strides(of_backbone)`.
      num_classes: without a background.
      points: of every level.
      reach: in strides, the longest distance to a side that a level learns; the next level learns those beyond it, the
        last one all (section 3.2: 64, 128, 256 and 512 pixels on p3 to p6).
      center_radius: in strides, how far from the middle of an object, in x and in y, its points are; None: anywhere in
        its box.
      depth: convolutions of each tower.
      norm, conv_bias, factors, centerness_with_boxes, prior: see `centerness.CenternessHead`.
      activation: what makes distances of the head's numbers: "exp", pixels, or "relu", strides.
      alpha, gamma: of the focal loss.
      box_loss: "log_iou" (the logarithm), or one minus an overlap of `ops.box_iou`: "iou", "giou", "diou", "ciou".
      centerness_weights: whether centerness weights the loss of a box.
      score: how a detection's score is made, see `dense.detect`.
      suppression: how detections are chosen.
    """

    backbone: nn.Module
    neck: nn.Module
    num_classes: int
    points: Points = Points()
    reach: float = 8.0
    center_radius: float | None = None
    depth: int = 4
    norm: layers.Norm = layers.Norm("gn")
    conv_bias: bool = False
    factors: bool = True
    centerness_with_boxes: bool = False
    prior: float = 0.01
    activation: str = "exp"
    alpha: float = 0.25
    gamma: float = 2.0
    box_loss: str = "log_iou"
    centerness_weights: bool = True
    score: str = "product"
    suppression: Suppression = Suppression()

    def __post_init__(self) -> None:
        for name, known in (("activation", ACTIVATIONS), ("box_loss", BOX_LOSSES), ("score", SCORES)):
            if getattr(self, name) not in known:
                raise ValueError(f"FCOS got {name}={getattr(self, name)!r}: {hint(getattr(self, name), known)}")
        if self.reach <= 0 or (self.center_radius is not None and self.center_radius <= 0):
            raise ValueError(
                f"FCOS got reach={self.reach}, center_radius={self.center_radius}: expected positive numbers of strides"
            )
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
          By level, finest first: `logits` [B, N, num_classes], `codes` [B, N, 4] of the distances to left, top, right
          and bottom (see `distances`), `centerness` [B, N], a logit, and `points` [N, 3]: x, y and stride in pixels.
        """
        images = inputs["image"] if isinstance(inputs, Mapping) else inputs
        levels = self.neck(self.backbone(images, train=train), train=train)
        logits, codes, quality = self.head(levels, train=train)
        grids = {name: (x.shape[1], x.shape[2]) for name, x in levels.items()}
        points = self.points(grids, self.strides, (images.shape[1], images.shape[2]))
        return {"logits": logits, "codes": codes, "centerness": quality, "points": points}

    @nn.nowrap
    def distances(self, codes: Float[Array, "*b 4"], strides: Float[Array, "*b 1"]) -> Float[Array, "*b 4"]:
        """Pixels, float32."""
        codes = codes.astype(jnp.float32)
        return jnp.exp(codes) if self.activation == "exp" else nn.relu(codes) * strides

    @nn.nowrap
    def ranges(self, points: tuple[Float[Array, "_ 3"], ...]) -> Float[Array, "n 2"]:
        """The least and the longest distance in pixels that each point learns."""
        limits = [self.reach * stride for stride in self.strides.values()]
        both = zip([-1.0, *limits[:-1]], [*limits[:-1], jnp.inf], strict=True)
        rows = [jnp.tile(jnp.asarray([pair], jnp.float32), (len(x), 1)) for x, pair in zip(points, both, strict=True)]
        return jnp.concatenate(rows)

    @nn.nowrap
    def loss(self, outputs: Outputs, batch: Mapping[str, Any]) -> dict[str, tuple[Array, Array]]:
        """(sum, count) of `classification`, `box` and `centerness`; the loss is the sum of their quotients.

        Args:
          outputs: of a call.
          batch: `targets`, `size` and `valid`.
        """
        logits, codes, quality = (jnp.concatenate(outputs[name], axis=1) for name in ("logits", "codes", "centerness"))
        points, ranges, targets = jnp.concatenate(outputs["points"]), self.ranges(outputs["points"]), batch["targets"]

        def assigned(boxes: Array, valid: Array, usable: Array) -> Assignment:
            return assign(points, ranges, boxes, valid, usable, center_radius=self.center_radius)

        found = jax.vmap(assigned)(targets.boxes, trained(targets), self.points.in_picture(points, batch["size"]))
        labels = jnp.take_along_axis(targets.labels, found.truth, axis=1)
        boxes = jnp.take_along_axis(targets.boxes, found.truth[..., None], axis=1)
        valid, hit = batch["valid"][:, None], found.positive[..., None]
        real = found.positive & valid

        classes = jnp.arange(self.num_classes, dtype=labels.dtype)[None, None]
        wanted = (labels[..., None] == classes) & hit
        focal = losses.focal(logits, wanted.astype(jnp.float32), alpha=self.alpha, gamma=self.gamma)
        classification, _ = losses.weighted_sum(focal, (found.positive | found.negative) & valid)

        # Of the other points neither distances nor exponentials are meaningful; ones and zeros keep them finite.
        places, strides = points[None, :, :2], points[None, :, 2:]
        aims = jnp.where(hit, encode_distances(boxes, places), 1.0)
        said = self.distances(jnp.where(hit, codes, jnp.zeros_like(codes)), strides)
        middle = centerness(aims)
        weights = jnp.where(real, middle, 0.0) if self.centerness_weights else real
        each = self._box_loss(decode_distances(said, places), decode_distances(aims, places))
        box, weight = losses.weighted_sum(each, weights)
        off_centre, _ = losses.weighted_sum(losses.binary_cross_entropy(quality, middle), real)

        positives = jnp.maximum(jnp.sum(found.positive, axis=1, dtype=jnp.float32), 1.0)
        count = jnp.sum(jnp.where(batch["valid"], positives, 0.0))
        return {
            "classification": (classification, count),
            "box": (box, weight if self.centerness_weights else count),
            "centerness": (off_centre, count),
        }

    @nn.nowrap
    def _box_loss(self, boxes: Float[Array, "b n 4"], targets: Float[Array, "b n 4"]) -> Float[Array, "b n"]:
        if self.box_loss == "log_iou":
            return -jnp.log(jnp.maximum(box_iou_aligned(boxes, targets), LEAST_IOU))
        return losses.iou_loss(boxes, targets, kind=self.box_loss)

    @nn.nowrap
    def predict(self, outputs: Outputs, size: Float[Array, "b 2"]) -> Detections:
        """Detections in pixels of the canvas, clipped to pictures of these heights and widths."""

        def decode(points: Float[Array, "k 3"], codes: Float[Array, "k 4"]) -> Float[Array, "k 4"]:
            return decode_distances(self.distances(codes, points[:, 2:]), points[:, :2])

        said = outputs["logits"], outputs["codes"], outputs["points"]
        return detect(*said, decode, size, self.suppression, outputs["centerness"], self.score)


def assign(
    points: Float[Array, "n 3"],
    ranges: Float[Array, "n 2"],
    boxes: Float[Array, "m 4"],
    valid: Bool[Array, " m"],
    usable: Bool[Array, " n"],
    *,
    center_radius: float | None = None,
) -> Assignment:
    """Each point finds the smallest object around it whose farthest side is in its range (section 3.1 and 3.2).

    Args:
      points: x, y and stride of one image's points.
      ranges: least and longest distance, both included.
      boxes: xyxy; rows that are not `valid` count as absent.
      usable: points that take part; the others are neither positive nor negative.
      center_radius: see `FCOS`.
    """
    sides = encode_distances(boxes[None], points[:, None, :2])
    fits = jnp.all(sides > 0, axis=-1) & valid[None]
    farthest = jnp.max(sides, axis=-1)
    fits &= (farthest >= ranges[:, :1]) & (farthest <= ranges[:, 1:])
    if center_radius is not None:
        offset = jnp.abs(points[:, None, :2] - 0.5 * (boxes[None, :, :2] + boxes[None, :, 2:]))
        fits &= jnp.max(offset, axis=-1) < center_radius * points[:, 2:]
    truth = jnp.argmin(jnp.where(fits, box_area(boxes)[None], jnp.inf), axis=1).astype(jnp.int32)
    positive = jnp.any(fits, axis=1)
    return Assignment(truth, positive & usable, ~positive & usable)


HEAD = r"/cls_logits/"
"""The layer that depends on the number of classes."""


def keys(model: FCOS) -> dict[str, Rules]:
    """See `pretrained/keymaps.py`. Older files of both references have other names than their modules."""
    torchvision = (
        (r"^backbone\.", "backbone.body."),
        *((rf"^neck\.extra_blocks\.{i}\.", f"backbone.fpn.extra_blocks.p{6 + i}.") for i in range(2)),
        (r"^head\.cls_logits\.", "head.classification_head.cls_logits."),
        (r"^head\.(bbox_reg|bbox_ctrness)\.", r"head.regression_head.\1."),
        *((rf"_head\.conv\.{i}\.", f"_head.conv.{3 * i}.") for i in reversed(range(model.depth))),
        *((rf"_head\.norm\.{i}\.", f"_head.conv.{3 * i + 1}.") for i in range(model.depth)),
    )
    blocks = r"^neck\.(inner|layer)_blocks\.(\d)\."
    own = {
        "openmmlab": openmmlab_keys(model, "conv"),
        "openmmlab/older": openmmlab_keys(model, "fcos"),
        "torchvision": (*torchvision, (blocks, r"backbone.fpn.\1_blocks.\2.0.")),
        "torchvision/older": (*torchvision, (blocks, r"backbone.fpn.\1_blocks.\2.")),
    }
    return with_backbone(model.backbone, own)
