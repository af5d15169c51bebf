"""YOLOv3 (Redmon and Farhadi 2018, arXiv:1804.02767): each cell of three maps tells three boxes and how sure it is.

Defaults are those of OpenMMLab's `yolov3_d53_8xb8-*-273e_coco`. What differs there and here from the paper: an object
trains every anchor of its cell that overlaps it by more than a half, whatever the level, not the best one alone; the
loss of centres is a cross-entropy, and it and that of widths and heights (squares) count twice. What differs here from
OpenMMLab:

- OpenMMLab adds up the losses of a device's images, eight in its recipes. Here the loss is the mean of an image times
  `images`, which is the same whatever the number of devices.
- Anchors beyond the picture take part, as there; so they learn that nothing is there.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxvision import layers, losses
from jaxvision.detection.anchors import prior_bias
from jaxvision.detection.assigners import Assignment, trained
from jaxvision.detection.dense import Suppression, best_pairs, suppress
from jaxvision.detection.keys import with_backbone
from jaxvision.layers.activations import LeakyReLU
from jaxvision.necks.yolov3 import SLOPE
from jaxvision.ops import box_convert, box_iou, centered_boxes, decode_yolo, encode_yolo, grid_anchors
from jaxvision.pretrained.keymaps import Rules
from jaxvision.structures import Detections, Instances

Outputs = Mapping[str, tuple[Array, ...]]
Shapes = tuple[tuple[tuple[float, float], ...], ...]
COCO_SHAPES: Shapes = (
    ((10.0, 13.0), (16.0, 30.0), (33.0, 23.0)),
    ((30.0, 61.0), (62.0, 45.0), (59.0, 119.0)),
    ((116.0, 90.0), (156.0, 198.0), (373.0, 326.0)),
)
"""Width and height in pixels of the anchors of each level, finest first: clusters of COCO's boxes (section 2.3)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GridAssigner:
    """The anchors of the cells where the centres of objects lie learn them (section 2.1), with OpenMMLab's thresholds.

    Attributes:
      positive: IoU above which an anchor of such a cell finds the object that it overlaps most. Whatever the IoU, the
        anchors of such cells that overlap an object as much as any of them does find it, the last one of several.
      negative: other anchors are negative up to this IoU with every object, and neither beyond.
    """

    positive: float = 0.5
    negative: float = 0.5

    def __post_init__(self) -> None:
        if not (0 <= self.positive <= 1 and 0 <= self.negative <= 1):
            raise ValueError(f"an assigner got positive={self.positive}, negative={self.negative}: expected 0 to 1")

    def __call__(
        self,
        anchors: Sequence[Float[Array, "_ 4"]],
        strides: Sequence[int],
        boxes: Float[Array, "m 4"],
        valid: Bool[Array, " m"],
    ) -> Assignment:
        """Assigns the anchors of one image; `vmap` does it for a batch.

        Args:
          anchors: of each level, xyxy, around the middles of the cells.
          strides: of each level.
          boxes: of the objects, xyxy; rows that are not `valid` count as absent.
        """
        every = jnp.concatenate(anchors)
        overlap = jnp.where(valid[:, None], box_iou(boxes, every), -1.0)
        # Maxima are compared for equality below, so that all readers must see the same rounding.
        overlap = jax.lax.optimization_barrier(overlap)
        negative = jnp.max(overlap, axis=0, initial=-1.0) <= self.negative

        parts = [self._responsible(*level, boxes, valid) for level in zip(anchors, strides, strict=True)]
        responsible = jnp.concatenate(parts)
        overlap = jnp.where(responsible[None], overlap, -1.0)
        best, truth = jnp.max(overlap, axis=0, initial=-1.0), jnp.argmax(overlap, axis=0).astype(jnp.int32)
        most = jnp.max(overlap, axis=1, keepdims=True, initial=-1.0)
        forced = (overlap == most) & (most > 0)
        any_forced = jnp.any(forced, axis=0)
        last = boxes.shape[0] - 1 - jnp.argmax(forced[::-1], axis=0).astype(jnp.int32)
        positive = (best > self.positive) | any_forced
        return Assignment(jnp.where(any_forced, last, truth), positive, negative & ~positive)

    @staticmethod
    def _responsible(
        anchors: Float[Array, "n 4"], stride: int, boxes: Float[Array, "m 4"], valid: Bool[Array, " m"]
    ) -> Bool[Array, " n"]:
        """Anchors of cells in which the centre of an object lies."""

        def cell(boxes: Float[Array, "k 4"]) -> Float[Array, "k 2"]:
            return jnp.floor(box_convert(boxes, "xyxy", "cxcywh")[:, :2] / float(stride))

        here = jnp.all(cell(anchors)[:, None] == cell(boxes)[None], axis=-1)
        return jnp.any(here & valid[None], axis=1)


class YOLOv3Head(nn.Module):
    """A 3x3 convolution to twice the channels and a 1x1 one to the numbers of each anchor, for each level.

    Submodules carry OpenMMLab's names: number 0 is the coarsest level's.

    Attributes:
      num_classes, anchors: per cell.
      strides: of each level, finest first.
      norm: of the first convolution.
      prior: probability of every class that the network starts with.
      objects: number of objects on each map that the confidences start with, in images of 608 pixels.
    """

    num_classes: int
    anchors: int
    strides: tuple[int, ...]
    norm: layers.Norm = layers.Norm()
    prior: float = 0.01
    objects: float = 8.0

    @nn.compact
    def __call__(self, levels: Mapping[str, Float[Array, "b _ _ _"]], train: bool) -> list[Float[Array, "b _ k"]]:
        """Of each level, finest first, the numbers of each anchor: place, size, confidence, classes."""
        outputs: list[Array] = []
        for i, (x, stride) in enumerate(zip(reversed([*levels.values()]), reversed(self.strides), strict=True)):
            bridge = layers.ConvNorm(
                2 * x.shape[-1], 3, norm=self.norm, activation=LeakyReLU(SLOPE), name=f"convs_bridge_{i}"
            )
            last = layers.Conv(
                self.anchors * (5 + self.num_classes),
                1,
                kernel_init=nn.initializers.normal(0.01),
                bias_init=self._bias(stride),
                name=f"convs_pred_{i}",
            )
            x = last(bridge(x, train))
            outputs.append(x.reshape(x.shape[0], -1, 5 + self.num_classes))
        return outputs[::-1]

    @nn.nowrap
    def _bias(self, stride: int) -> nn.initializers.Initializer:
        row = np.zeros((self.anchors, 5 + self.num_classes), np.float32)
        row[:, 4] = prior_bias(min(self.objects * (stride / 608) ** 2, 0.5))
        row[:, 5:] = prior_bias(self.prior)

        def init(key: Array, shape: Sequence[int], dtype: Any = jnp.float32, out_sharding: Any = None) -> Array:
            return jnp.asarray(row.reshape(-1), dtype)

        return init


class YOLOv3(nn.Module):
    """Variables lie under "backbone", "neck" and "head".

    Attributes:
      backbone: called as `backbone(images, train=...)`; has `strides`.
      neck: called as `neck(levels, train=...)`; has `strides(of_backbone)`.
      num_classes: without a background.
      shapes: width and height in pixels of the anchors of each level, finest first; as many on each.
      assigner: of objects to anchors.
      norm, prior, objects: see `YOLOv3Head`.
      place_weight, size_weight: of the losses of centres and of sides.
      images: the loss is the mean of an image times this, see the top of this file.
      confidence: anchors below it find nothing.
      suppression: how detections are chosen. Its candidates are of all levels together, its threshold that of a class;
        a detection's score is the class's times the confidence.
    """

    backbone: nn.Module
    neck: nn.Module
    num_classes: int
    shapes: Shapes = COCO_SHAPES
    assigner: GridAssigner = GridAssigner()
    norm: layers.Norm = layers.Norm()
    prior: float = 0.01
    objects: float = 8.0
    place_weight: float = 2.0
    size_weight: float = 2.0
    images: float = 8.0
    confidence: float = 0.005
    suppression: Suppression = Suppression(iou_threshold=0.45)

    def __post_init__(self) -> None:
        if not self.shapes or len({len(level) for level in self.shapes}) != 1 or not self.shapes[0]:
            raise ValueError(f"YOLOv3 got anchors of the shapes {self.shapes}: expected as many on each level")
        if any(min(shape) <= 0 for level in self.shapes for shape in level):
            raise ValueError(f"YOLOv3 got anchors of the shapes {self.shapes}: expected positive (width, height)")
        super().__post_init__()

    def setup(self) -> None:
        self.head = YOLOv3Head(
            self.num_classes,
            len(self.shapes[0]),
            tuple(self.strides.values()),
            self.norm,
            self.prior,
            self.objects,
        )

    @property
    def strides(self) -> dict[str, int]:
        """Input pixels per cell of each level that the head sees."""
        strides = self.neck.strides(self.backbone.strides)
        if len(strides) != len(self.shapes):
            raise ValueError(f"YOLOv3 got anchors of {len(self.shapes)} levels for the levels {', '.join(strides)}")
        return strides

    def __call__(
        self, inputs: Array | Mapping[str, Array], *, train: bool = False, targets: Instances | None = None
    ) -> dict[str, tuple[Array, ...]]:
        """What the head says.

        Args:
          inputs: float images [B, H, W, C] or `{"image": images}`; sides are multiples of the coarsest stride.
          targets: not used.

        Returns:
          By level, finest first: `logits` [B, N, num_classes], `codes` [B, N, 4] (place before its sigmoid, logarithm
          of the size), `confidence` [B, N], a logit, and `anchors` [N, 4] xyxy in pixels.
        """
        images = inputs["image"] if isinstance(inputs, Mapping) else inputs
        levels = self.neck(self.backbone(images, train=train), train=train)
        numbers = self.head(levels, train)
        anchors = tuple(
            grid_anchors((x.shape[1], x.shape[2]), stride, centered_boxes(shapes, center=stride / 2))
            for x, stride, shapes in zip(levels.values(), self.strides.values(), self.shapes, strict=True)
        )
        return {
            "logits": tuple(x[..., 5:] for x in numbers),
            "codes": tuple(x[..., :4] for x in numbers),
            "confidence": tuple(x[..., 4] for x in numbers),
            "anchors": anchors,
        }

    @nn.nowrap
    def loss(self, outputs: Outputs, batch: Mapping[str, Any]) -> dict[str, tuple[Array, Array]]:
        """(sum, count) of `classification`, `confidence`, `place` and `size`; the loss is the sum of their quotients.

        Args:
          outputs: of a call.
          batch: `targets` and `valid`.
        """
        logits, codes, confidence = (
            jnp.concatenate(outputs[name], axis=1) for name in ("logits", "codes", "confidence")
        )
        levels, targets = outputs["anchors"], batch["targets"]
        strides = tuple(self.strides.values())
        found = jax.vmap(lambda boxes, valid: self.assigner(levels, strides, boxes, valid))(
            targets.boxes, trained(targets)
        )
        labels = jnp.take_along_axis(targets.labels, found.truth, axis=1)
        boxes = jnp.take_along_axis(targets.boxes, found.truth[..., None], axis=1)
        valid = batch["valid"][:, None]
        hit = found.positive & valid

        # The other anchors stand for their own objects, so that everything is finite.
        anchors = jnp.concatenate(levels)[None]
        aims = encode_yolo(jnp.where(found.positive[..., None], boxes, anchors), anchors, self._strides_of(levels))
        classes = jnp.arange(self.num_classes, dtype=labels.dtype)[None, None]
        wanted = (labels[..., None] == classes).astype(jnp.float32)
        each = {
            "classification": (losses.binary_cross_entropy(logits, wanted), hit, 1.0),
            "confidence": (
                losses.binary_cross_entropy(confidence, found.positive.astype(jnp.float32)),
                (found.positive | found.negative) & valid,
                1.0,
            ),
            "place": (losses.binary_cross_entropy(codes[..., :2], aims[..., :2]), hit, self.place_weight),
            "size": (jnp.square(codes[..., 2:].astype(jnp.float32) - aims[..., 2:]), hit, self.size_weight),
        }
        count = jnp.sum(batch["valid"], dtype=jnp.float32)
        return {
            name: (self.images * weight * losses.weighted_sum(values, where)[0], count)
            for name, (values, where, weight) in each.items()
        }

    @nn.nowrap
    def predict(self, outputs: Outputs, size: Float[Array, "b 2"]) -> Detections:
        """Detections in pixels of the canvas; boxes may reach beyond the picture, as the reference suppresses them."""
        levels = outputs["anchors"]
        anchors, strides = jnp.concatenate(levels), self._strides_of(levels)

        def one(logits: Float[Array, "n c"], codes: Float[Array, "n 4"], confidence: Float[Array, " n"]) -> Detections:
            logits, codes = logits.astype(jnp.float32), codes.astype(jnp.float32)
            sure = jax.nn.sigmoid(confidence.astype(jnp.float32))
            known = jnp.where((sure >= self.confidence)[:, None], logits, -jnp.inf)
            values, rows, labels = best_pairs(known, self.suppression.candidates)
            places = jnp.concatenate([jax.nn.sigmoid(codes[:, :2]), codes[:, 2:]], axis=-1)
            boxes = decode_yolo(places[rows], anchors[rows], strides[0, rows])
            of_class = jax.nn.sigmoid(values)
            valid = jnp.isfinite(values)
            return suppress(boxes, of_class * sure[rows], labels, valid, self.suppression, of_class)

        joined = (jnp.concatenate(outputs[name], axis=1) for name in ("logits", "codes", "confidence"))
        return jax.vmap(one)(*joined)

    @nn.nowrap
    def _strides_of(self, levels: Sequence[Float[Array, "_ 4"]]) -> Float[Array, "1 n 1"]:
        """The stride of each anchor."""
        parts = zip(levels, self.strides.values(), strict=True)
        return jnp.concatenate([jnp.full((1, len(level), 1), float(stride)) for level, stride in parts], axis=1)


HEAD = r"/convs_pred_\d/"
"""The layers that depend on the number of classes."""

INPUT = (320, 320, 3)


def keys(model: YOLOv3) -> dict[str, Rules]:
    """See `pretrained/keymaps.py`. The head and the neck have OpenMMLab's names."""
    openmmlab: Rules = ((r"^head\.", "bbox_head."),)
    backbone = with_backbone(model.backbone, {})
    return {"openmmlab": (*openmmlab, *backbone.get("openmmlab/backbone", ())), **backbone}
