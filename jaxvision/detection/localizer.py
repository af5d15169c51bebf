"""Single-object localisation: one class and one box for an image, from features of the whole image.

The task of the ImageNet challenge (Russakovsky et al. 2015, arXiv:1409.0575, section 4.2), solved as in VGG (Simonyan
and Zisserman 2014, arXiv:1409.1556, appendix A): where a classifier has its last layer, a second head says a box, the
same for all classes ("single-class regression"). What differs:

- Both heads learn together; VGG replaces the head of a trained classifier.
- The box head sees means of `bins` x `bins` parts of the last map, so that places are not averaged away, and has one
  hidden layer.
- The box is its four edges as shares of the canvas, learned by smooth L1 (VGG: centre and size, squared error).
- Of an image with several objects, the largest one is the truth; one without any teaches nothing.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxvision import layers, losses
from jaxvision.detection.assigners import trained
from jaxvision.detection.keys import with_backbone
from jaxvision.ops import clip_boxes, pool
from jaxvision.pretrained.keymaps import Rules
from jaxvision.structures import Detections, Instances

Outputs = Mapping[str, Array]


class Localizer(nn.Module):
    """Variables lie under "backbone", "cls_logits", "box_hidden" and "bbox_pred".

    Attributes:
      backbone: called as `backbone(images, train=...)`; its last level is used.
      num_classes: without a background.
      bins: along each side of the last map, for the box.
      hidden: units of the box's hidden layer.
      guesses: detections of an image: the best classes, all with the same box (ImageNet scores five).
      beta: corner of the smooth L1 loss, as a share of the canvas.
      box_weight: of that loss.
    """

    backbone: nn.Module
    num_classes: int
    bins: int = 3
    hidden: int = 256
    guesses: int = 1
    beta: float = 0.1
    box_weight: float = 5.0

    def __post_init__(self) -> None:
        if self.bins < 1 or not 1 <= self.guesses <= self.num_classes:
            raise ValueError(
                f"a localiser of {self.num_classes} classes got bins={self.bins}, guesses={self.guesses}: expected at "
                "least one bin, and one guess to as many as there are classes"
            )
        super().__post_init__()

    @nn.compact
    def __call__(
        self, inputs: Array | Mapping[str, Array], *, train: bool = False, targets: Instances | None = None
    ) -> dict[str, Array]:
        """What both heads say.

        Args:
          inputs: float images [B, H, W, C] or `{"image": images}`.
          targets: not used.

        Returns:
          `logits` [B, num_classes]; `edges` [B, 4], left, top, right and bottom as shares of the canvas; `canvas` [2],
          its height and width in pixels, float32.
        """
        images = inputs["image"] if isinstance(inputs, Mapping) else inputs
        x = list(self.backbone(images, train=train).values())[-1]
        if x.ndim != 4:
            raise ValueError(f"a localiser got features {x.shape}: its backbone's last level must be a map")
        logits = layers.Dense(self.num_classes, name="cls_logits")(pool.global_avg_pool(x))
        parts = pool.adaptive_avg_pool(x, self.bins)
        hidden = nn.relu(layers.FlatDense(self.hidden, name="box_hidden")(parts))
        edges = layers.Dense(4, name="bbox_pred")(hidden)
        return {"logits": logits, "edges": edges, "canvas": jnp.asarray(images.shape[1:3], jnp.float32)}

    @nn.nowrap
    def loss(self, outputs: Outputs, batch: Mapping[str, Any]) -> dict[str, tuple[Array, Array]]:
        """(sum, count) of `classification` and `box`, both counting the images that have an object.

        Args:
          outputs: of a call.
          batch: `targets` and `valid`.
        """
        targets = batch["targets"]
        row, real = jax.vmap(most_prominent)(targets.boxes, trained(targets))
        label = jnp.take_along_axis(targets.labels, row[:, None], axis=1)[:, 0].astype(jnp.int32)
        box = jnp.take_along_axis(targets.boxes, row[:, None, None], axis=1)[:, 0]
        counted = real & batch["valid"]
        surprise, count = losses.weighted_sum(losses.cross_entropy(outputs["logits"], label), counted)
        aim = box / _limits(outputs["canvas"])[None]
        distance = losses.smooth_l1(outputs["edges"], aim, beta=self.beta)
        # Summed over the four edges: `count` is that of images.
        far, _ = losses.weighted_sum(jnp.sum(distance, axis=-1), counted)
        return {"classification": (surprise, count), "box": (self.box_weight * far, count)}

    @nn.nowrap
    def predict(self, outputs: Outputs, size: Float[Array, "b 2"]) -> Detections:
        """The `guesses` of each image in pixels of the canvas, clipped to pictures of these heights and widths."""
        scores, labels = jax.lax.top_k(jax.nn.softmax(outputs["logits"].astype(jnp.float32)), self.guesses)
        edges = outputs["edges"].astype(jnp.float32)
        ordered = jnp.concatenate(
            [jnp.minimum(edges[:, :2], edges[:, 2:]), jnp.maximum(edges[:, :2], edges[:, 2:])], axis=1
        )
        boxes = clip_boxes((ordered * _limits(outputs["canvas"])[None])[:, None], size)
        boxes = jnp.broadcast_to(boxes, (*scores.shape, 4))
        return Detections(boxes, scores, labels.astype(jnp.int32), jnp.ones_like(scores, bool))


def most_prominent(boxes: Float[Array, "n 4"], valid: Bool[Array, " n"]) -> tuple[Int[Array, ""], Bool[Array, ""]]:
    """Row of the valid box of largest area, the first of equals, and whether there is any."""
    sides = boxes[:, 2:] - boxes[:, :2]
    area = jnp.where(valid, sides[:, 0] * sides[:, 1], -1.0)
    return jnp.argmax(area).astype(jnp.int32), jnp.any(valid)


def _limits(canvas: Float[Array, " 2"]) -> Float[Array, " 4"]:
    return jnp.concatenate([canvas[::-1], canvas[::-1]])


HEAD = r"^cls_logits/"
"""The layer that depends on the number of classes."""


def keys(model: Localizer) -> dict[str, Rules]:
    """Those of the backbone, see `pretrained/keymaps.py`: no published file has the heads."""
    return with_backbone(model.backbone, {})
