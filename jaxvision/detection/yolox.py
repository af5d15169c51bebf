"""YOLOX (Ge et al. 2021, arXiv:2107.08430): a YOLO without anchors, whose points find their objects by SimOTA.

One point in the corner of every cell says a box, a class and whether there is an object; two towers on every level, of
their own weights, say the one and the others ("decoupled head"). Numbers are those of OpenMMLab's
`yolox_s_8xb8-300e_coco`. In the closing epochs of a run (`schedule.closing_epochs`) boxes are also learned by their L1
distance. What differs from OpenMMLab:

- Losses are divided by the number of positives of the batch, of which every image counts at least one; there the whole
  batch counts at least one.
- Of each level only the best points go into the suppression, and detections are clipped after it; there all points that
  score enough go in, and nothing is clipped.
- An object that no point is near has no loss, see `simota.py`.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxvision import layers, losses
from jaxvision.detection.anchors import prior_bias
from jaxvision.detection.assigners import trained
from jaxvision.detection.dense import Suppression, suppress
from jaxvision.detection.keys import with_backbone
from jaxvision.detection.points import Points
from jaxvision.detection.simota import SimOTAAssigner
from jaxvision.layers.csp import YOLOX_NORM, spatial_conv
from jaxvision.ops import box_convert, box_iou_aligned, clip_boxes, top_k
from jaxvision.pretrained.keymaps import Rules
from jaxvision.structures import Detections, Instances

Outputs = Mapping[str, tuple[Array, ...]]
Levels = tuple[Array, ...]
CORNERS = Points(offset=0.0)
"""Boxes are said from the upper left corners of cells; objects find their points by the middles (the authors' code)."""
LARGEST = math.log(1e4)
"""No side of a box is longer than this many strides, so that no exponential is infinite."""
LEAST_SIDE = 1e-8
"""In strides, added to a side before its logarithm (the authors' code)."""


class YOLOXHead(nn.Module):
    """Every level has weights of its own; names are those of OpenMMLab.

    Attributes:
      num_classes: without a background.
      depth: 3x3 convolutions of each tower, as wide as their input.
      depthwise: they are depthwise-separable.
      norm: of them.
      prior: probability of each class, and of an object, that the network starts with.
    """

    num_classes: int
    depth: int = 2
    depthwise: bool = False
    norm: layers.Norm = YOLOX_NORM
    prior: float = 0.01

    @nn.compact
    def __call__(
        self, levels: Mapping[str, Float[Array, "b _ _ c"]], *, train: bool = False
    ) -> tuple[Levels, Levels, Levels]:
        """Of each level and its cells row by row: logits [B, N, num_classes], box [B, N, 4], objectness [B, N]."""
        start = nn.initializers.constant(prior_bias(self.prior))
        said: list[tuple[Array, ...]] = []
        for i, x in enumerate(levels.values()):
            of_class, of_box = (self._tower(f"{kind}_convs_{i}", x, train) for kind in ("cls", "reg"))
            logits = layers.Conv(self.num_classes, 1, bias_init=start, name=f"conv_cls_{i}")(of_class)
            codes = layers.Conv(4, 1, name=f"conv_reg_{i}")(of_box)
            objectness = layers.Conv(1, 1, bias_init=start, name=f"conv_obj_{i}")(of_box)
            rows = (logits.reshape(x.shape[0], -1, self.num_classes), codes.reshape(x.shape[0], -1, 4))
            said.append((*rows, objectness.reshape(x.shape[0], -1)))
        logits_of, codes_of, objectness_of = zip(*said, strict=True)
        return logits_of, codes_of, objectness_of

    @nn.nowrap
    def _tower(self, name: str, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w c"]:
        for i in range(self.depth):
            conv = spatial_conv(x.shape[-1], depthwise=self.depthwise, norm=self.norm, name=f"{name}_{i}")
            x = conv(x, train)
        return x


class YOLOX(nn.Module):
    """Variables lie under "backbone", "neck" and "head".

    Attributes:
      backbone: called as `backbone(images, train=...)`; has `strides`.
      neck: called as `neck(levels, train=...)`; has `strides(of_backbone)`.
      num_classes: without a background.
      assigner: of objects to points.
      depth, depthwise, norm, prior: see `YOLOXHead`.
      box_weight: of one minus the squared overlap of the boxes.
      l1_weight: of the L1 distance of boxes in the closing epochs, before which it is 0.
      suppression: how detections are chosen.
    """

    backbone: nn.Module
    neck: nn.Module
    num_classes: int
    assigner: SimOTAAssigner = SimOTAAssigner()
    depth: int = 2
    depthwise: bool = False
    norm: layers.Norm = YOLOX_NORM
    prior: float = 0.01
    box_weight: float = 5.0
    l1_weight: float = 1.0
    suppression: Suppression = Suppression(score_threshold=0.01, iou_threshold=0.65)

    def setup(self) -> None:
        self.head = YOLOXHead(self.num_classes, self.depth, self.depthwise, self.norm, self.prior)

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
          By level, finest first: `logits` [B, N, num_classes], `codes` [B, N, 4] of the boxes (see `decode`),
          `objectness` [B, N], a logit, and `points` [N, 3]: x and y of a cell's corner and stride, in pixels.
        """
        images = inputs["image"] if isinstance(inputs, Mapping) else inputs
        levels = self.neck(self.backbone(images, train=train), train=train)
        logits, codes, objectness = self.head(levels, train=train)
        grids = {name: (x.shape[1], x.shape[2]) for name, x in levels.items()}
        points = CORNERS(grids, self.strides, (images.shape[1], images.shape[2]))
        return {"logits": logits, "codes": codes, "objectness": objectness, "points": points}

    @nn.nowrap
    def decode(self, points: Float[Array, "*b 3"], codes: Float[Array, "*b 4"]) -> Float[Array, "*b 4"]:
        """Boxes xyxy in pixels, float32, from the shift of their centres and the logarithm of their sides, in strides.

        Args:
          points: of the same rank as the codes.
        """
        codes, strides = codes.astype(jnp.float32), points[..., 2:]
        centres = codes[..., :2] * strides + points[..., :2]
        sides = jnp.exp(jnp.minimum(codes[..., 2:], LARGEST)) * strides
        return box_convert(jnp.concatenate([centres, sides], axis=-1), "cxcywh", "xyxy")

    @nn.nowrap
    def encode(self, points: Float[Array, "*b 3"], boxes: Float[Array, "*b 4"]) -> Float[Array, "*b 4"]:
        """The inverse of `decode`."""
        boxes, strides = box_convert(boxes, "xyxy", "cxcywh"), points[..., 2:]
        shift = (boxes[..., :2] - points[..., :2]) / strides
        return jnp.concatenate([shift, jnp.log(boxes[..., 2:] / strides + LEAST_SIDE)], axis=-1)

    @nn.nowrap
    def loss(self, outputs: Outputs, batch: Mapping[str, Any]) -> dict[str, tuple[Array, Array]]:
        """(sum, count) of `classification`, `box`, `objectness` and `l1`; the loss is the sum of their quotients.

        All points of the canvas take part, also those beside the picture.

        Args:
          outputs: of a call.
          batch: `targets` and `valid`; `closing`, whether the closing epochs have begun (if absent: they have not).
        """
        logits, codes, objectness = (
            jnp.concatenate(outputs[name], axis=1).astype(jnp.float32) for name in ("logits", "codes", "objectness")
        )
        points, targets = jnp.concatenate(outputs["points"])[None], batch["targets"]
        found, overlap = self._assigned(points[0], logits, codes, objectness, targets)
        labels = jnp.take_along_axis(targets.labels, found.truth, axis=1)
        boxes = jnp.take_along_axis(targets.boxes, found.truth[..., None], axis=1)
        valid, hit = batch["valid"][:, None], found.positive[..., None]
        real = found.positive & valid

        classes = jnp.arange(self.num_classes, dtype=labels.dtype)[None, None]
        wanted = jnp.where(labels[..., None] == classes, overlap[..., None], 0.0)
        classification, _ = losses.weighted_sum(losses.binary_cross_entropy(logits, wanted), real)
        there = losses.binary_cross_entropy(objectness, found.positive.astype(jnp.float32))
        present, _ = losses.weighted_sum(there, jnp.broadcast_to(valid, there.shape))

        # The other points stand for boxes of their own, so that everything is finite.
        codes = jnp.where(hit, codes, 0.0)
        aims = jnp.where(hit, boxes, self.decode(points, jnp.zeros_like(codes[:1])))
        overlap = box_iou_aligned(self.decode(points, codes), aims)
        box, _ = losses.weighted_sum(1.0 - jnp.square(overlap), real)
        distance, _ = losses.weighted_sum(jnp.abs(codes - self.encode(points, aims)), real)
        closing = jnp.asarray(batch.get("closing", False))

        positives = jnp.maximum(jnp.sum(found.positive, axis=1, dtype=jnp.float32), 1.0)
        count = jnp.sum(jnp.where(batch["valid"], positives, 0.0))
        return {
            "classification": (classification, count),
            "box": (self.box_weight * box, count),
            "objectness": (present, count),
            "l1": (self.l1_weight * jnp.where(closing, distance, 0.0), count),
        }

    @nn.nowrap
    def _assigned(
        self, points: Float[Array, "n 3"], logits: Array, codes: Array, objectness: Array, targets: Instances
    ) -> Any:
        """Assignment of every image, and the overlap of each point's box with its object."""
        scores = jnp.sqrt(jax.nn.sigmoid(logits) * jax.nn.sigmoid(objectness)[..., None])
        said = jax.lax.stop_gradient((self.decode(points[None], codes), scores))
        middles = points.at[:, :2].add(0.5 * points[:, 2:])
        each = jax.vmap(self.assigner, in_axes=(None, 0, 0, 0, 0, 0))
        return each(middles, *said, targets.boxes, targets.labels, trained(targets))

    @nn.nowrap
    def predict(self, outputs: Outputs, size: Float[Array, "b 2"]) -> Detections:
        """Detections in pixels of the canvas, clipped to pictures of these heights and widths.

        A point finds one class, the likeliest; its score is that probability times the one of an object.
        """

        def one(levels: Any, size: Float[Array, " 2"]) -> Detections:
            found = []
            for (logits, codes, objectness), points in zip(levels, outputs["points"], strict=True):
                likeliest = jnp.argmax(logits, axis=-1).astype(jnp.int32)
                both = jnp.max(logits, axis=-1), objectness
                scores = jnp.prod(jax.nn.sigmoid(jnp.stack(both).astype(jnp.float32)), axis=0)
                best, rows, _ = top_k(scores, min(self.suppression.candidates, len(points)))
                found.append((self.decode(points[rows], codes[rows]), best, likeliest[rows]))
            boxes, scores, labels = (jnp.concatenate(parts) for parts in zip(*found, strict=True))
            chosen = suppress(boxes, scores, labels, jnp.ones_like(scores, bool), self.suppression)
            return dataclasses.replace(chosen, boxes=clip_boxes(chosen.boxes, size))

        said = zip(*(outputs[name] for name in ("logits", "codes", "objectness")), strict=True)
        return jax.vmap(one)(tuple(said), size)


HEAD = r"/conv_cls_\d+/"
"""The layers that depend on the number of classes."""

IGNORED = (r"^ema_",)
"""Copies that OpenMMLab's files of this detector hold beside the averaged weights."""


def keys(model: YOLOX) -> dict[str, Rules]:
    """See `pretrained/keymaps.py`. The networks were trained on pixels of 0 to 255: blue, green, red."""
    own = (
        (r"^backbone\.stem_conv\.", "backbone.stem.conv."),
        (r"^head\.(\w+)\.", r"bbox_head.multi_level_\1."),
    )
    return with_backbone(model.backbone, {"openmmlab": own})
