"""Mask R-CNN (He et al. 2017, arXiv:1703.06870): Faster R-CNN with a third head, which draws each object in its box.

The head is a small convolutional network over finer features of a region, with a mask for each class that is learned
and read for the region's own class alone. In training regions are the positive samples, else the detections.

Defaults are those of OpenMMLab's `mask-rcnn_r50_fpn_1x_coco`; the row `torchvision/mask_rcnn` has torchvision's. What
differs between the two, beside what `faster_rcnn.py` lists:

- An object's mask is cut out by RoI align and then made of zeros and ones (OpenMMLab), or stays what part of each cell
  it covers (torchvision): `binary`, and `aligned` of `mask_pooling`.
- A proposal that overlaps an object by half or more, and as much as any, is positive for that object (OpenMMLab), or
  for the one that it overlaps most (torchvision): `stage.assigner`.

In the C4 form (figure 4, left; row `mask_rcnn_c4`) the head is the stage that it shares with boxes, without
convolutions of its own; masks have 14 x 14 cells.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxvision import layers, losses
from jaxvision.detection.assigners import MaxIoUAssigner
from jaxvision.detection.faster_rcnn import FasterRCNN, Levels, two_stage_keys, without_background
from jaxvision.detection.keys import with_backbone
from jaxvision.detection.roi_heads import BoxStage, RoIPooling
from jaxvision.detection.rpn import Outputs, drawn, images_and_size
from jaxvision.layers.conv import kaiming_normal_fan_out
from jaxvision.ops import crop_masks
from jaxvision.pretrained.keymaps import Rules
from jaxvision.structures import Detections, Instances

STAGE = BoxStage(assigner=MaxIoUAssigner(positive=0.5, negative=0.5, least=0.5))
HALF = 0.5 - 1e-6
"""From which part on a cell belongs to an object: half, which sums of different order may just miss."""


class MaskHead(nn.Module):
    """3x3 convolutions with ReLU: `mask_fcn1`, ... (figure 4, right).

    Attributes:
      width: channels.
      depth: number of convolutions.
    """

    width: int = 256
    depth: int = 4

    @nn.compact
    def __call__(self, x: Float[Array, "r s s c"]) -> Float[Array, "r s s width"]:
        for i in range(self.depth):
            init, zeros = kaiming_normal_fan_out, nn.initializers.zeros
            x = nn.relu(layers.Conv(self.width, kernel_init=init, bias_init=zeros, name=f"mask_fcn{i + 1}")(x))
        return x


class MaskPredictor(nn.Module):
    """Doubles the map and gives the logits of a mask for each class.

    Attributes:
      num_classes: without a background.
      width: channels of the doubled map; None: those of the map.
    """

    num_classes: int
    width: int | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "r s s c"]) -> Float[Array, "r s2 s2 classes"]:
        init, zeros = kaiming_normal_fan_out, nn.initializers.zeros
        width = self.width or x.shape[-1]
        x = nn.relu(layers.ConvTranspose(width, 2, 2, kernel_init=init, bias_init=zeros, name="conv5_mask")(x))
        return layers.Conv(self.num_classes, 1, kernel_init=init, bias_init=zeros, name="mask_fcn_logits")(x)


class MaskRCNN(FasterRCNN):
    """Variables lie under those of `FasterRCNN`, "mask_head" and "mask_predictor".

    Attributes:
      mask_pooling: of the features of a region that is drawn; masks have twice the side of what the head makes of them.
      mask_width, mask_depth: of the convolutions of the head.
      binary: masks to learn are zeros and ones.
    """

    stage: BoxStage = STAGE
    mask_pooling: RoIPooling = RoIPooling(size=14)
    mask_width: int = 256
    mask_depth: int = 4
    binary: bool = True

    def setup(self) -> None:
        super().setup()
        self.mask_head = MaskHead(self.mask_width, self.mask_depth)
        self.mask_predictor = MaskPredictor(self.object_classes, self.mask_width)

    def __call__(
        self, inputs: Array | Mapping[str, Array], *, train: bool = False, targets: Instances | None = None
    ) -> dict[str, Any]:
        """What the three heads say: the outputs of `FasterRCNN`, and

        with `targets`, of the first P samples, which hold the positive ones: `mask_logits` [B, P, S, S] of the object's
        class, and `masks` [B, P, S, S], the objects in these regions; else `detections` with their `masks`.

        Raises:
          ValueError: targets without masks.
        """
        return self.with_masks(inputs, train, targets)[0]

    def with_masks(
        self, inputs: Array | Mapping[str, Array], train: bool, targets: Instances | None
    ) -> tuple[dict[str, Any], Levels]:
        """The outputs, and the levels of the neck."""
        images, size = images_and_size(inputs)
        outputs, levels = self.both_stages(inputs, train, targets)
        if targets is None:
            found = super().predict(outputs, size)
            logits = self.masks(levels, found.boxes, found.labels)
            said = jnp.where(found.valid[..., None, None], jax.nn.sigmoid(logits.astype(jnp.float32)), 0.0)
            return {**outputs, "detections": dataclasses.replace(found, masks=said)}, levels
        samples = drawn(outputs)
        first = self.stage.sampler.most_positives(samples.rows.shape[1])
        rois, truth = outputs["rois"][:, :first], samples.truth[:, :first]
        labels = jnp.take_along_axis(targets.labels, truth, axis=1)
        logits = self.masks(levels, rois, labels, train=train)
        side, aligned = logits.shape[-1], self.mask_pooling.aligned
        masks = masks_to_learn(targets, rois, truth, images.shape[2], size=side, aligned=aligned, binary=self.binary)
        return {**outputs, "mask_logits": logits, "masks": masks}, levels

    def masks(
        self, levels: Levels, boxes: Float[Array, "b r 4"], labels: Int[Array, "b r"], *, train: bool = False
    ) -> Float[Array, "b r s s"]:
        """Logits of the mask of each region's class."""
        every = self.every_mask(levels, boxes, train=train)
        return jnp.take_along_axis(every, labels[:, :, None, None, None], axis=-1)[..., 0]

    def every_mask(
        self, levels: Levels, boxes: Float[Array, "b r 4"], *, train: bool = False
    ) -> Float[Array, "b r s s classes"]:
        """Logits of the masks of all classes."""
        logits = self.mask_predictor(self.mask_head(self.pooled(self.mask_pooling, levels, boxes, train)))
        return logits.reshape(*boxes.shape[:2], *logits.shape[1:])

    @nn.nowrap
    def loss(self, outputs: Outputs, batch: Mapping[str, Any]) -> dict[str, tuple[Array, Array]]:
        """(sum, count) of the terms of `FasterRCNN` and of `mask`, which counts positive samples."""
        samples = drawn(outputs)
        first = outputs["masks"].shape[1]
        counted = samples.positive[:, :first] & batch["valid"][:, None]
        each = jnp.mean(losses.binary_cross_entropy(outputs["mask_logits"], outputs["masks"]), axis=(-2, -1))
        return {**super().loss(outputs, batch), "mask": losses.weighted_sum(each, counted)}

    @nn.nowrap
    def predict(self, outputs: Outputs, size: Float[Array, "b 2"]) -> Detections:
        """Detections in pixels of the canvas with probabilities of RoI size in `masks`.

        They were made by the call, for the sizes that it was given.
        """
        return outputs["detections"]


def masks_to_learn(
    targets: Instances,
    rois: Float[Array, "b r 4"],
    truth: Int[Array, "b r"],
    width: int,
    *,
    size: int,
    aligned: bool,
    binary: bool,
) -> Float[Array, "b r s s"]:
    """What is to be drawn in each region: the object in that row of the targets, of which parts may lie outside.

    Args:
      width: of the canvas in pixels.
      size: of the masks.
      aligned: see `RoIPooling`.
      binary: zeros and ones, else what part of each cell the object covers.

    Raises:
      ValueError: targets without masks.
    """
    if targets.masks is None:
        raise ValueError(
            "the targets have no masks: read them with the data, e.g. by data.source=dict(name='coco', masks=True, "
            "...) or annotations=('boxes', 'masks') of digit scenes"
        )

    def cut(masks: Array, rois: Array, truth: Array) -> Array:
        return crop_masks(masks, rois, truth, width=width, output_size=size, aligned=aligned)

    masks = jax.vmap(cut)(targets.masks, rois, truth)
    return (masks >= HALF).astype(jnp.float32) if binary else masks


HEAD = r"/(box_predictor|mask_predictor/mask_fcn_logits)/"
"""The layers that depend on the number of classes."""


def keys(model: MaskRCNN) -> dict[str, Rules]:
    """See `pretrained/keymaps.py`. torchvision's published file has older names than its module."""
    numbers = range(model.mask_depth)
    modern = tuple((rf"^mask_head\.mask_fcn{i + 1}\.", f"roi_heads.mask_head.{i}.0.") for i in numbers)
    published = ((r"^mask_head\.", "roi_heads.mask_head."),)
    predictor: Rules = (
        (r"^mask_predictor\.", "roi_heads.mask_predictor."),
        without_background(r"/mask_predictor/mask_fcn_logits/", 1),
    )
    own: dict[str, Rules] = {
        "openmmlab": (
            *((rf"^mask_head\.mask_fcn{i + 1}\.", f"roi_head.mask_head.convs.{i}.conv.") for i in numbers),
            (r"^mask_predictor\.conv5_mask\.", "roi_head.mask_head.upsample."),
            (r"^mask_predictor\.mask_fcn_logits\.", "roi_head.mask_head.conv_logits."),
        ),
        "torchvision": (*published, *predictor),
        "torchvision/module": (*modern, *predictor),
    }
    boxes = two_stage_keys(model.neck)
    return with_backbone(model.backbone, {source: (*boxes[source], *rules) for source, rules in own.items()})
