"""Fast R-CNN (Girshick 2015, arXiv:1504.08083): of regions that come with the image, a class and a better box.

The features of the image are computed once; those of each region are pooled from them, classified, and its box is
moved. It is the second stage of `faster_rcnn.py`, whose proposals come from elsewhere: `data/proposals.py`.

Defaults are those of OpenMMLab's `fast-rcnn_r50_fpn_1x_coco`. What differs from the paper:

- Regions are pooled by RoI align from the levels of a pyramid; the paper takes the largest values (`ops.roi_pool`) of
  VGG-16's last convolution.
- Of an image 512 regions are learned from (64), those that overlap no object by half are negative (between 0.1 and
  0.5), and the objects themselves are among them.
- Boxes are learned by L1 (smooth L1), and the second linear layer has no dropout.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxvision.detection.dense import Suppression
from jaxvision.detection.faster_rcnn import HEAD as HEAD
from jaxvision.detection.faster_rcnn import two_stage_keys
from jaxvision.detection.keys import with_backbone
from jaxvision.detection.roi_heads import BoxPredictor, BoxStage, RoIPooling, TwoFCHead, detect_regions
from jaxvision.detection.rpn import Levels, Outputs, drawn, images_and_size
from jaxvision.errors import SetupError
from jaxvision.pretrained.keymaps import Rules
from jaxvision.structures import Detections, Instances, Proposals


class FastRCNN(nn.Module):
    """Variables lie under "backbone", "neck", "box_head" and "box_predictor", as those of `FasterRCNN` do.

    Attributes:
      backbone: called as `backbone(images, train=...)`; has `strides`.
      neck: called as `neck(levels, train=...)`; has `strides(of_backbone)`.
      num_classes: without a background.
      pooling: of a region's features.
      width: of the two linear layers.
      stage: what regions are to say and how that is learned.
      suppression: how detections are chosen.
    """

    backbone: nn.Module
    neck: nn.Module
    num_classes: int
    pooling: RoIPooling = RoIPooling()
    width: int = 1024
    stage: BoxStage = BoxStage()
    suppression: Suppression = Suppression(candidates=5000)

    def setup(self) -> None:
        self.box_head = TwoFCHead(self.width)
        self.box_predictor = BoxPredictor(self.num_classes, 1 if self.stage.class_agnostic else self.num_classes)

    @property
    def strides(self) -> dict[str, int]:
        """Input pixels per cell of each level of the neck."""
        return self.neck.strides(self.backbone.strides)

    def __call__(
        self, inputs: Array | Mapping[str, Any], *, train: bool = False, targets: Instances | None = None
    ) -> dict[str, Any]:
        """What is said of each region.

        Args:
          inputs: `{"image": float images [B, H, W, C], "proposals": Proposals, "size": [B, 2]}`. Only while variables
            are initialised may images stand alone.
          targets: the truth to learn from; regions are sampled by the rng "sampling".

        Returns:
          `rois` [B, R, 4] xyxy in pixels, `valid` [B, R]; of each region `logits` [B, R, num_classes + 1], background
          last, and `deltas` [B, R, num_classes or 1, 4]. Without `targets` regions are the proposals; with `targets`
          those sampled from them and from the objects, and there are `samples`.

        Raises:
          SetupError: images without proposals.
        """
        images, _ = images_and_size(inputs)
        proposals = self._proposals(inputs, images)
        levels = self.neck(self.backbone(images, train=train), train=train)
        rois, valid = proposals.boxes.astype(jnp.float32), proposals.valid
        outputs: dict[str, Any] = {}
        if targets is not None:
            rois, outputs["samples"] = self.stage.sample(self.make_rng("sampling"), rois, valid, targets)
            valid = outputs["samples"].valid
        logits, deltas = self.regions(levels, rois)
        return {**outputs, "rois": rois, "valid": valid, "logits": logits, "deltas": deltas}

    def _proposals(self, inputs: Array | Mapping[str, Any], images: Float[Array, "b h w c"]) -> Proposals:
        if isinstance(inputs, Mapping) and "proposals" in inputs:
            return inputs["proposals"]
        if not self.is_initializing():
            raise SetupError(
                "Fast R-CNN got images without proposals: join them to the data by "
                "data.source=dict(name='with_proposals', path=..., eval_path=..., source=...), or give the model "
                "inputs['proposals']"
            )
        batch, height, width = images.shape[:3]
        whole = jnp.asarray([[[0, 0, width, height]]], jnp.float32)
        return Proposals(jnp.broadcast_to(whole, (batch, 1, 4)), jnp.ones((batch, 1), bool))

    def regions(
        self, levels: Levels, rois: Float[Array, "b r 4"]
    ) -> tuple[Float[Array, "b r classes"], Float[Array, "b r boxes 4"]]:
        """Logits and deltas of each region."""
        logits, deltas = self.box_predictor(self.box_head(self.pooling(levels, self.strides, rois)))
        shape = rois.shape[:2]
        return logits.reshape(*shape, -1), deltas.reshape(*shape, -1, 4)

    @nn.nowrap
    def loss(self, outputs: Outputs, batch: Mapping[str, Any]) -> dict[str, tuple[Array, Array]]:
        """(sum, count) of `classification` and `box`; the loss is the sum of quotients.

        Args:
          outputs: of a call with `targets`.
          batch: `targets` and `valid`.
        """
        logits, deltas, rois = (outputs[name] for name in ("logits", "deltas", "rois"))
        return self.stage.loss(logits, deltas, rois, drawn(outputs), batch)

    @nn.nowrap
    def predict(self, outputs: Outputs, size: Float[Array, "b 2"]) -> Detections:
        """Detections in pixels of the canvas, clipped to pictures of these heights and widths."""
        logits, deltas, rois, valid = (outputs[name] for name in ("logits", "deltas", "rois", "valid"))
        return detect_regions(logits, deltas, rois, valid, self.stage, size, self.suppression)


def keys(model: FastRCNN) -> dict[str, Rules]:
    """See `pretrained/keymaps.py`."""
    return with_backbone(model.backbone, {"openmmlab": two_stage_keys(model.neck)["openmmlab"]})
