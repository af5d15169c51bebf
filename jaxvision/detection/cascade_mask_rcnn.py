"""Cascade Mask R-CNN (Cai & Vasconcelos 2019, arXiv:1906.09756): each stage of a cascade also draws its objects.

In training the masks of a stage are learned of its own positive regions; at inference all stages draw the final
detections, and the mean of their probabilities is the mask.

Defaults are those of OpenMMLab's `cascade-mask-rcnn_r50_fpn_1x_coco`; the heads are those of `mask_rcnn.py`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxvision import losses
from jaxvision.detection.cascade_rcnn import CascadeRCNN, cascade_keys
from jaxvision.detection.keys import with_backbone
from jaxvision.detection.mask_rcnn import MaskHead, MaskPredictor, masks_to_learn
from jaxvision.detection.roi_heads import RoIPooling
from jaxvision.detection.rpn import Levels, Outputs, drawn, images_and_size
from jaxvision.pretrained.keymaps import Rules
from jaxvision.structures import Detections, Instances


class CascadeMaskRCNN(CascadeRCNN):
    """Variables lie under those of `CascadeRCNN` and, of stage i, "mask_head_i" and "mask_predictor_i".

    Attributes:
      mask_pooling: of the features of a region that is drawn; masks have twice its side.
      mask_width, mask_depth: of the convolutions of each head.
    """

    mask_pooling: RoIPooling = RoIPooling(size=14)
    mask_width: int = 256
    mask_depth: int = 4

    def setup(self) -> None:
        super().setup()
        self.mask_head = [MaskHead(self.mask_width, self.mask_depth) for _ in self.ious]
        self.mask_predictor = [MaskPredictor(self.num_classes) for _ in self.ious]

    def __call__(
        self, inputs: Array | Mapping[str, Array], *, train: bool = False, targets: Instances | None = None
    ) -> dict[str, Any]:
        """What all heads say: the outputs of `CascadeRCNN`, and

        with `targets`, in each of `stages` and of its first P samples, which hold the positive ones: `mask_logits`
        [B, P, S, S] of the object's class, and `masks` [B, P, S, S], the objects in these regions, zeros and ones;
        else `detections` with their `masks`.

        Raises:
          ValueError: targets without masks.
        """
        images, size = images_and_size(inputs)
        outputs, levels = self.all_stages(inputs, train, targets)
        if targets is None:
            found = super().predict(outputs, size)
            logits = [self.masks(number, levels, found.boxes, found.labels) for number in range(len(self.ious))]
            mean = jnp.mean(jax.nn.sigmoid(jnp.stack(logits).astype(jnp.float32)), axis=0)
            said = jnp.where(found.valid[..., None, None], mean, 0.0)
            return {**outputs, "detections": dataclasses.replace(found, masks=said)}
        stages = []
        for number, said in enumerate(outputs["stages"]):
            samples = drawn(said)
            first = self.stage.sampler.most_positives(samples.rows.shape[1])
            rois, truth = said["rois"][:, :first], samples.truth[:, :first]
            labels = jnp.take_along_axis(targets.labels, truth, axis=1)
            side, aligned = 2 * self.mask_pooling.size, self.mask_pooling.aligned
            masks = masks_to_learn(targets, rois, truth, images.shape[2], size=side, aligned=aligned, binary=True)
            stages.append({**said, "mask_logits": self.masks(number, levels, rois, labels), "masks": masks})
        return {**outputs, "stages": tuple(stages)}

    def masks(
        self, stage: int, levels: Levels, boxes: Float[Array, "b r 4"], labels: Int[Array, "b r"]
    ) -> Float[Array, "b r s s"]:
        """Logits of the mask of each region's class by the heads of one stage."""
        features = self.mask_head[stage](self.mask_pooling(levels, self.strides, boxes))
        every = self.mask_predictor[stage](features)
        every = every.reshape(*boxes.shape[:2], *every.shape[1:])
        return jnp.take_along_axis(every, labels[:, :, None, None, None], axis=-1)[..., 0]

    @nn.nowrap
    def loss(self, outputs: Outputs, batch: Mapping[str, Any]) -> dict[str, tuple[Array, Array]]:
        """(sum, count) of the terms of `CascadeRCNN` and, of stage i, of `mask_i`, which counts positive samples."""
        terms = super().loss(outputs, batch)
        for number, (weight, said) in enumerate(zip(self.stage_weights, outputs["stages"], strict=True)):
            first = said["masks"].shape[1]
            counted = drawn(said).positive[:, :first] & batch["valid"][:, None]
            each = jnp.mean(losses.binary_cross_entropy(said["mask_logits"], said["masks"]), axis=(-2, -1))
            total, count = losses.weighted_sum(each, counted)
            terms[f"mask_{number}"] = (weight * total, count)
        return terms

    @nn.nowrap
    def predict(self, outputs: Outputs, size: Float[Array, "b 2"]) -> Detections:
        """Detections in pixels of the canvas with probabilities of RoI size in `masks`.

        They were made by the call, for the sizes that it was given.
        """
        return outputs["detections"]


HEAD = r"/(box_predictor_\d+/cls_score|mask_predictor_\d+/mask_fcn_logits)/"
"""The layers that depend on the number of classes."""


def keys(model: CascadeMaskRCNN) -> dict[str, Rules]:
    """See `pretrained/keymaps.py`."""
    openmmlab: Rules = (
        *cascade_keys(model.neck),
        *(
            (rf"^mask_head\.(\d+)\.mask_fcn{i + 1}\.", rf"roi_head.mask_head.\1.convs.{i}.conv.")
            for i in range(model.mask_depth)
        ),
        (r"^mask_predictor\.(\d+)\.conv5_mask\.", r"roi_head.mask_head.\1.upsample."),
        (r"^mask_predictor\.(\d+)\.mask_fcn_logits\.", r"roi_head.mask_head.\1.conv_logits."),
    )
    return with_backbone(model.backbone, {"openmmlab": openmmlab})
