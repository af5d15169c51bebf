"""RetinaNet (Lin et al. 2017, arXiv:1708.02002): a pyramid, two convolutional heads on each of its levels, focal loss.

Defaults are those of OpenMMLab's `retinanet_r50_fpn_1x_coco`; the row `torchvision/retinanet` has torchvision's. What
differs between the two and from the paper:

- "p6" is made from "c5" (paper, OpenMMLab) or "p5" (torchvision), with a ReLU before "p7" (paper, torchvision) or none:
  fields of the neck. Anchors are fractions (paper, OpenMMLab) or whole pixels: a field of `Anchors`.
- Boxes are learned by L1 (both), not smooth L1 (`beta`, 0.11 in the paper's code).
- The loss is divided by the number of positives of the batch, of which every image counts at least one, as in
  OpenMMLab; torchvision averages over images, which gives the same for a batch of one.
- An object without any overlap with an anchor gets none; in the references it gets all anchors that miss it.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxvision import losses
from jaxvision.detection.anchors import Anchors, in_picture, prior_bias
from jaxvision.detection.assigners import MaxIoUAssigner, trained
from jaxvision.detection.convolutions import conv
from jaxvision.detection.dense import Suppression, detect
from jaxvision.detection.keys import fpn_keys, with_backbone
from jaxvision.ops import decode_deltas, encode_deltas
from jaxvision.pretrained.keymaps import Rules
from jaxvision.structures import Detections, Instances

Outputs = Mapping[str, tuple[Array, ...]]


class Tower(nn.Module):
    """`depth` 3x3 convolutions with ReLU (`conv_0`, ...), and one of `features` called `last`, over every level.

    Attributes:
      features: output channels.
      last: name of the last convolution.
      bias: with which it starts.
      depth: convolutions before it, as wide as their input.
    """

    features: int
    last: str
    bias: float = 0.0
    depth: int = 4

    @nn.compact
    def __call__(self, levels: Mapping[str, Float[Array, "b _ _ c"]]) -> dict[str, Float[Array, "b _ _ features"]]:
        width = next(iter(levels.values())).shape[-1]
        convs = [conv(width, name=f"conv_{i}") for i in range(self.depth)]
        last = conv(self.features, bias=self.bias, name=self.last)
        outputs = {}
        for name, x in levels.items():
            for layer in convs:
                x = nn.relu(layer(x))
            outputs[name] = last(x)
        return outputs


class RetinaHead(nn.Module):
    """Logits of each class and deltas of each anchor, by two towers without common weights (figure 3).

    Attributes:
      num_classes, anchors: per cell of each level.
      depth: of the towers.
      prior: probability of every class that the network starts with.
    """

    num_classes: int
    anchors: int
    depth: int = 4
    prior: float = 0.01

    def setup(self) -> None:
        classes = self.anchors * self.num_classes
        self.classification_head = Tower(classes, "cls_logits", prior_bias(self.prior), self.depth)
        self.regression_head = Tower(self.anchors * 4, "bbox_reg", 0.0, self.depth)

    def __call__(
        self, levels: Mapping[str, Float[Array, "b _ _ c"]]
    ) -> tuple[tuple[Float[Array, "b _ k"], ...], tuple[Float[Array, "b _ 4"], ...]]:
        """Logits and deltas of each level, anchors in the order of `Anchors`."""

        def flat(maps: Mapping[str, Array], last: int) -> tuple[Array, ...]:
            return tuple(x.reshape(x.shape[0], -1, last) for x in maps.values())

        logits, deltas = self.classification_head(levels), self.regression_head(levels)
        return flat(logits, self.num_classes), flat(deltas, 4)


class RetinaNet(nn.Module):
    """Variables lie under "backbone", "neck" and "head".

    Attributes:
      backbone: called as `backbone(images, train=...)`; has `strides`.
      neck: called as `neck(levels, train=...)`; has `strides(of_backbone)`.
      num_classes: without a background.
      anchors: of every level.
      assigner: of objects to anchors.
      depth: convolutions of each head before its last one.
      prior: see `RetinaHead`.
      alpha, gamma: of the focal loss (table 1).
      beta: of the smooth L1 loss of deltas; 0: L1.
      box_weight: of that loss.
      box_stds: deltas are divided by them (1 in both references).
      suppression: how detections are chosen.
    """

    backbone: nn.Module
    neck: nn.Module
    num_classes: int
    anchors: Anchors = Anchors()
    assigner: MaxIoUAssigner = MaxIoUAssigner()
    depth: int = 4
    prior: float = 0.01
    alpha: float = 0.25
    gamma: float = 2.0
    beta: float = 0.0
    box_weight: float = 1.0
    box_stds: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    suppression: Suppression = Suppression()

    def setup(self) -> None:
        self.head = RetinaHead(self.num_classes, self.anchors.per_cell, self.depth, self.prior)

    @property
    def strides(self) -> dict[str, int]:
        """Input pixels per cell of each level that the head sees."""
        return self.neck.strides(self.backbone.strides)

    def __call__(
        self, inputs: Array | Mapping[str, Array], *, train: bool = False, targets: Instances | None = None
    ) -> dict[str, tuple[Array, ...]]:
        """What the heads say.

        Args:
          inputs: float images [B, H, W, C] or `{"image": images}`.
          targets: not used.

        Returns:
          By level, finest first: `logits` [B, N, num_classes], `deltas` [B, N, 4], and `anchors` [N, 4] xyxy in pixels.
        """
        images = inputs["image"] if isinstance(inputs, Mapping) else inputs
        levels = self.neck(self.backbone(images, train=train), train=train)
        logits, deltas = self.head(levels)
        grids = {name: (x.shape[1], x.shape[2]) for name, x in levels.items()}
        anchors = self.anchors(grids, self.strides, (images.shape[1], images.shape[2]))
        return {"logits": logits, "deltas": deltas, "anchors": anchors}

    @nn.nowrap
    def loss(self, outputs: Outputs, batch: Mapping[str, Any]) -> dict[str, tuple[Array, Array]]:
        """(sum, count) of `classification` and `box`; the loss is the sum of their quotients.

        Args:
          outputs: of a call.
          batch: `targets`, `size` and `valid`.
        """
        logits, deltas = (jnp.concatenate(outputs[name], axis=1) for name in ("logits", "deltas"))
        anchors, targets = jnp.concatenate(outputs["anchors"]), batch["targets"]
        usable = in_picture(anchors, batch["size"])
        found = jax.vmap(self.assigner, in_axes=(None, 0, 0, 0))(anchors, targets.boxes, trained(targets), usable)
        labels = jnp.take_along_axis(targets.labels, found.truth, axis=1)
        boxes = jnp.take_along_axis(targets.boxes, found.truth[..., None], axis=1)

        classes = jnp.arange(self.num_classes, dtype=labels.dtype)[None, None]
        wanted = (labels[..., None] == classes) & found.positive[..., None]
        focal = losses.focal(logits, wanted.astype(jnp.float32), alpha=self.alpha, gamma=self.gamma)
        valid = batch["valid"][:, None]
        classification, _ = losses.weighted_sum(focal, (found.positive | found.negative) & valid)

        # Rows of padding have no size; their anchor stands in, so that no logarithm is infinite.
        aims = jnp.where(found.positive[..., None], boxes, anchors[None])
        coded = encode_deltas(aims, anchors[None], (0.0,) * 4, self.box_stds)
        distance = losses.smooth_l1(deltas, coded, beta=self.beta)
        box, _ = losses.weighted_sum(distance, found.positive & valid)

        positives = jnp.maximum(jnp.sum(found.positive, axis=1, dtype=jnp.float32), 1.0)
        count = jnp.sum(jnp.where(batch["valid"], positives, 0.0))
        return {"classification": (classification, count), "box": (self.box_weight * box, count)}

    @nn.nowrap
    def predict(self, outputs: Outputs, size: Float[Array, "b 2"]) -> Detections:
        """Detections in pixels of the canvas, clipped to pictures of these heights and widths."""

        def decode(anchors: Float[Array, "k 4"], deltas: Float[Array, "k 4"]) -> Float[Array, "k 4"]:
            return decode_deltas(deltas.astype(jnp.float32), anchors, (0.0,) * 4, self.box_stds)

        return detect(outputs["logits"], outputs["deltas"], outputs["anchors"], decode, size, self.suppression)


HEAD = r"/cls_logits/"
"""The layer that depends on the number of classes."""


def keys(model: RetinaNet) -> dict[str, Rules]:
    """See `pretrained/keymaps.py`. torchvision's published file has older names than its module."""
    torchvision = (
        (r"^backbone\.", "backbone.body."),
        *((rf"^neck\.extra_blocks\.{i}\.", f"backbone.fpn.extra_blocks.p{6 + i}.") for i in range(2)),
    )
    modern = (
        (r"^neck\.(inner|layer)_blocks\.(\d)\.", r"backbone.fpn.\1_blocks.\2.0."),
        (r"_head\.conv\.(\d)\.", r"_head.conv.\1.0."),
    )
    published = (
        (r"^neck\.(inner|layer)_blocks\.", r"backbone.fpn.\1_blocks."),
        *((rf"_head\.conv\.{i}\.", f"_head.conv.{2 * i}.") for i in reversed(range(model.depth))),
    )
    openmmlab = (
        *fpn_keys(model.neck)["openmmlab"],
        (r"^head\.classification_head\.conv\.(\d)\.", r"bbox_head.cls_convs.\1.conv."),
        (r"^head\.regression_head\.conv\.(\d)\.", r"bbox_head.reg_convs.\1.conv."),
        (r"^head\.classification_head\.cls_logits\.", "bbox_head.retina_cls."),
        (r"^head\.regression_head\.bbox_reg\.", "bbox_head.retina_reg."),
    )
    own = {
        "openmmlab": openmmlab,
        "torchvision": (*torchvision, *published),
        "torchvision/module": (*torchvision, *modern),
    }
    return with_backbone(model.backbone, own)
