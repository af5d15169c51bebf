"""SSD (Liu et al. 2016, arXiv:1512.02325): default boxes of several shapes around the cells of six or seven maps.

Defaults are those of OpenMMLab's `ssd300_coco`; the row `torchvision/ssd300` has torchvision's. What differs between
the two and from the paper:

- Anchors are the same but for torchvision's last level, where no side is longer than the image.
- Candidates are the best pairs of each level (OpenMMLab) or the best boxes of each class (paper, torchvision).
- The background is the last class here and in OpenMMLab, the first in torchvision: its class k is k - 1 here.
- The loss is divided by the number of positives of the batch, of which every image counts at least one, as in
  OpenMMLab. An image without objects has no loss in any of them: there is no positive to mine negatives for.
- An object without any overlap with an anchor gets none; in the references it gets the first one.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxvision import layers, losses
from jaxvision.backbones.vgg import starts
from jaxvision.detection.assigners import MaxIoUAssigner, trained
from jaxvision.detection.dense import Suppression, detect, suppress
from jaxvision.detection.keys import with_backbone
from jaxvision.detection.samplers import hardest
from jaxvision.ops import centered_boxes, clip_boxes, decode_deltas, encode_deltas, grid_anchors, top_k
from jaxvision.pretrained.keymaps import Rules
from jaxvision.structures import Detections, Instances

Outputs = Mapping[str, tuple[Array, ...]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DefaultBoxes:
    """Anchors around the centres of cells, with shapes of their own for each level (section 2.2).

    Around each cell lie a square, a square of the geometric mean of this size and the next level's, and for each ratio
    a wide and a tall box of the area of the first square. The defaults are those of SSD300 on COCO.

    Attributes:
      sizes: side of the square of each level in pixels, and of one more.
      ratios: of each level, long side over short side; without 1.
      strides: of each level, pixels between cells. The last maps are no even share of the image.
      longest: sides are at most as long; None: as they are.
    """

    sizes: tuple[float, ...] = (21.0, 45.0, 99.0, 153.0, 207.0, 261.0, 315.0)
    ratios: tuple[tuple[float, ...], ...] = ((2.0,), (2.0, 3.0), (2.0, 3.0), (2.0, 3.0), (2.0,), (2.0,))
    strides: tuple[int, ...] = (8, 16, 32, 64, 100, 300)
    longest: float | None = None

    def __post_init__(self) -> None:
        if not len(self.sizes) - 1 == len(self.ratios) == len(self.strides):
            raise ValueError(
                f"default boxes got {len(self.sizes)} sizes, ratios of {len(self.ratios)} levels and "
                f"{len(self.strides)} strides: expected one of each for every level, and one size more"
            )
        if min(*self.sizes, *self.strides) <= 0 or any(ratio <= 0 for level in self.ratios for ratio in level):
            raise ValueError(f"default boxes got {self}: expected positive numbers")

    @property
    def per_cell(self) -> tuple[int, ...]:
        """Anchors around one cell of each level."""
        return tuple(2 + 2 * len(level) for level in self.ratios)

    def base(self, level: int) -> Float[np.ndarray, "a 4"]:
        """The anchors of the first cell of a level, xyxy."""
        size, stride = self.sizes[level], self.strides[level]
        between = math.sqrt(size * self.sizes[level + 1])
        sides = [(size, size), (between, between)]
        for ratio in self.ratios[level]:
            long, short = size * math.sqrt(ratio), size / math.sqrt(ratio)
            sides += [(long, short), (short, long)]
        limited = np.minimum(np.asarray(sides, np.float32), np.float32(self.longest or np.inf))
        return centered_boxes(limited, center=stride / 2)

    def __call__(self, grids: Mapping[str, tuple[int, int]]) -> tuple[Float[Array, "_ 4"], ...]:
        """Anchors xyxy of each level in pixels, row by row.

        Args:
          grids: height and width of each level.
        """
        if len(grids) != len(self.strides):
            raise ValueError(f"default boxes of {len(self.strides)} levels got {len(grids)}: {', '.join(grids)}")
        return tuple(grid_anchors(grid, self.strides[i], self.base(i)) for i, grid in enumerate(grids.values()))


class LevelConvs(nn.Module):
    """A 3x3 convolution of its own for each level: `module_list_0`, ...

    Attributes:
      features: output channels of each.
    """

    features: tuple[int, ...]

    @nn.compact
    def __call__(self, levels: Mapping[str, Float[Array, "b _ _ _"]]) -> list[Float[Array, "b _ _ _"]]:
        init: dict[str, Any] = {"kernel_init": nn.initializers.xavier_uniform(), "bias_init": nn.initializers.zeros}
        return [
            layers.Conv(features, 3, name=f"module_list_{i}", **init)(x)
            for i, (features, x) in enumerate(zip(self.features, levels.values(), strict=True))
        ]


class SSDHead(nn.Module):
    """Logits of the classes, background last, and deltas of each anchor (figure 2).

    Attributes:
      num_classes: without the background.
      per_cell: anchors around one cell of each level.
    """

    num_classes: int
    per_cell: tuple[int, ...]

    def setup(self) -> None:
        self.classification_head = LevelConvs(tuple(count * (self.num_classes + 1) for count in self.per_cell))
        self.regression_head = LevelConvs(tuple(count * 4 for count in self.per_cell))

    def __call__(
        self, levels: Mapping[str, Float[Array, "b _ _ _"]]
    ) -> tuple[tuple[Float[Array, "b _ k"], ...], tuple[Float[Array, "b _ 4"], ...]]:
        """Logits and deltas of each level, anchors in the order of `DefaultBoxes`."""

        def flat(maps: list[Array], last: int) -> tuple[Array, ...]:
            return tuple(x.reshape(x.shape[0], -1, last) for x in maps)

        logits, deltas = self.classification_head(levels), self.regression_head(levels)
        return flat(logits, self.num_classes + 1), flat(deltas, 4)


class SSD(nn.Module):
    """Variables lie under "backbone", "neck" and "head".

    Attributes:
      backbone: called as `backbone(images, train=...)`; has `strides`.
      neck: called as `neck(levels, train=...)`; has `strides(of_backbone)`.
      num_classes: without a background.
      anchors: of every level.
      assigner: of objects to anchors (section 2.2, "Matching strategy").
      negatives: for each positive of an image, so many of the negatives with the largest loss count ("Hard negative
        mining").
      beta: of the smooth L1 loss of deltas.
      box_weight: of that loss.
      box_stds: deltas are divided by them; "variances" in the authors' code.
      per_class: candidates are `suppression.candidates` boxes of each class, not so many pairs of each level.
      suppression: how detections are chosen.
    """

    backbone: nn.Module
    neck: nn.Module
    num_classes: int
    anchors: DefaultBoxes = DefaultBoxes()
    assigner: MaxIoUAssigner = MaxIoUAssigner(positive=0.5, negative=0.5, low_quality="first")
    negatives: float = 3.0
    beta: float = 1.0
    box_weight: float = 1.0
    box_stds: tuple[float, float, float, float] = (0.1, 0.1, 0.2, 0.2)
    per_class: bool = False
    suppression: Suppression = Suppression(score_threshold=0.02, iou_threshold=0.45, max_detections=200)

    def __post_init__(self) -> None:
        if self.negatives <= 0:
            raise ValueError(f"SSD got negatives={self.negatives}: expected a positive number for each positive")
        super().__post_init__()

    def setup(self) -> None:
        self.head = SSDHead(self.num_classes, self.anchors.per_cell)

    @property
    def strides(self) -> dict[str, int]:
        """Input pixels between the cells of each level, as the anchors have it."""
        return dict(zip(self.neck.out_levels, self.anchors.strides, strict=True))

    def __call__(
        self, inputs: Array | Mapping[str, Array], *, train: bool = False, targets: Instances | None = None
    ) -> dict[str, tuple[Array, ...]]:
        """What the head says.

        Args:
          inputs: float images [B, H, W, C] or `{"image": images}`; the maps get smaller down to one pixel at 300 or
            512 pixels, and the anchors are made for that.
          targets: not used.

        Returns:
          By level, finest first: `logits` [B, N, num_classes + 1], background last, `deltas` [B, N, 4], and `anchors`
          [N, 4] xyxy in pixels.
        """
        images = inputs["image"] if isinstance(inputs, Mapping) else inputs
        levels = self.neck(self.backbone(images, train=train), train=train)
        anchors = self.anchors({name: (x.shape[1], x.shape[2]) for name, x in levels.items()})
        logits, deltas = self.head(levels)
        return {"logits": logits, "deltas": deltas, "anchors": anchors}

    @nn.nowrap
    def decode(self, anchors: Float[Array, "*b 4"], deltas: Float[Array, "*b 4"]) -> Float[Array, "*b 4"]:
        """Boxes xyxy in pixels, float32."""
        return decode_deltas(deltas.astype(jnp.float32), anchors, (0.0,) * 4, self.box_stds)

    @nn.nowrap
    def loss(self, outputs: Outputs, batch: Mapping[str, Any]) -> dict[str, tuple[Array, Array]]:
        """(sum, count) of `classification` and `box`; the loss is the sum of their quotients.

        Args:
          outputs: of a call.
          batch: `targets` and `valid`.
        """
        logits, deltas = (jnp.concatenate(outputs[name], axis=1) for name in ("logits", "deltas"))
        anchors, targets = jnp.concatenate(outputs["anchors"]), batch["targets"]
        found = jax.vmap(self.assigner, in_axes=(None, 0, 0))(anchors, targets.boxes, trained(targets))
        labels = jnp.take_along_axis(targets.labels, found.truth, axis=1)
        boxes = jnp.take_along_axis(targets.boxes, found.truth[..., None], axis=1)
        valid, positives = batch["valid"], jnp.sum(found.positive, axis=1, dtype=jnp.float32)

        each = losses.cross_entropy(logits, jnp.where(found.positive, labels, self.num_classes))
        mined = hardest(each, found.negative, self.negatives * positives)
        classification, _ = losses.weighted_sum(each, (found.positive | mined) & valid[:, None])

        # Rows of padding have no size; their anchor stands in, so that no logarithm is infinite.
        aims = jnp.where(found.positive[..., None], boxes, anchors[None])
        coded = encode_deltas(aims, anchors[None], (0.0,) * 4, self.box_stds)
        distance = losses.smooth_l1(deltas, coded, beta=self.beta)
        box, _ = losses.weighted_sum(distance, found.positive & valid[:, None])

        count = jnp.sum(jnp.where(valid, jnp.maximum(positives, 1.0), 0.0))
        return {"classification": (classification, count), "box": (self.box_weight * box, count)}

    @nn.nowrap
    def predict(self, outputs: Outputs, size: Float[Array, "b 2"]) -> Detections:
        """Detections in pixels of the canvas, clipped to pictures of these heights and widths."""
        scores = tuple(jax.nn.log_softmax(x.astype(jnp.float32))[..., :-1] for x in outputs["logits"])
        deltas, anchors = outputs["deltas"], outputs["anchors"]
        if not self.per_class:
            return detect(scores, deltas, anchors, self.decode, size, self.suppression, logarithms=True)
        every = jnp.concatenate(anchors)

        def one(scores: Float[Array, "n c"], deltas: Float[Array, "n 4"], size: Float[Array, " 2"]) -> Detections:
            values, rows, labels = best_of_each_class(scores, self.suppression.candidates)
            boxes = clip_boxes(self.decode(every, deltas), size)[rows]
            return suppress(boxes, jnp.exp(values), labels, jnp.ones_like(labels, bool), self.suppression)

        return jax.vmap(one)(jnp.concatenate(scores, axis=1), jnp.concatenate(deltas, axis=1), size)


def best_of_each_class(
    scores: Float[Array, "n c"], count: int
) -> tuple[Float[Array, " k"], Int[Array, " k"], Int[Array, " k"]]:
    """The `count` largest scores of each class, class by class: their values, rows and classes."""
    values, rows, _ = top_k(scores.T, min(count, scores.shape[0]))
    labels = jnp.broadcast_to(jnp.arange(scores.shape[1], dtype=jnp.int32)[:, None], rows.shape)
    return values.reshape(-1), rows.reshape(-1), labels.reshape(-1)


HEAD = r"/classification_head/"
"""The layers that depend on the number of classes."""

INPUT = (300, 300, 3)


def keys(model: SSD) -> dict[str, Rules]:
    """See `pretrained/keymaps.py`. torchvision's backbone holds everything but the head."""
    openmmlab: Rules = (
        (r"^neck\.extra_layers\.(\d)\.conv1\.", r"neck.extra_layers.\1.0.conv."),
        (r"^neck\.extra_layers\.(\d)\.conv2\.", r"neck.extra_layers.\1.1.conv."),
        (r"^head\.classification_head\.module_list\.(\d)\.", r"bbox_head.cls_convs.\1.0."),
        (r"^head\.regression_head\.module_list\.(\d)\.", r"bbox_head.reg_convs.\1.0."),
    )
    pool4, pool5 = (start - 1 for start in starts(16, False)[4:])
    torchvision: Rules = (
        *((rf"^backbone\.features\.{i}\.", f"backbone.extra.0.{i - pool4}.") for i in range(pool4 + 1, pool5, 2)),
        *((rf"^backbone\.features\.{pool5 + i}\.", f"backbone.extra.0.{pool5 - pool4}.{i}.") for i in (1, 3)),
        (r"^neck\.l2_norm\.weight$", "backbone.scale_weight"),
        *(
            (rf"^neck\.extra_layers\.{i}\.conv{part}\.", f"backbone.extra.{i + 1}.{2 * (part - 1)}.")
            for i in range(len(model.neck.channels))
            for part in (1, 2)
        ),
        *(_background_last(i, count) for i, count in enumerate(model.anchors.per_cell)),
    )
    return with_backbone(model.backbone, {"openmmlab": openmmlab, "torchvision": torchvision})


def _background_last(level: int, anchors: int) -> tuple[str, Any, Any]:
    """The rule for a layer of which each anchor's first class is the background in torchvision."""

    def turn(value: np.ndarray, by: int) -> np.ndarray:
        return np.roll(value.reshape(*value.shape[:-1], anchors, -1), by, axis=-1).reshape(value.shape)

    name = rf"/classification_head/module_list_{level}/"
    return name, lambda value: turn(value, -1), lambda value: turn(value, 1)
