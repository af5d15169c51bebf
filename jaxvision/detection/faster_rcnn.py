"""Faster R-CNN (Ren et al. 2015, arXiv:1506.01497) on a pyramid (Lin et al. 2017, arXiv:1612.03144).

A region proposal network says where objects may be; of each proposal the features are pooled, classified, and its box
is moved once more. Both stages learn together.

Defaults are those of OpenMMLab's `faster-rcnn_r50_fpn_1x_coco`; the row `torchvision/faster_rcnn` has torchvision's.
What differs between the two, beside what `rpn.py` lists:

- RoI align counts the first pixel's centre as 0.5 and takes as many samples as a bin has pixels (OpenMMLab), or as 0
  with 2 x 2 samples (torchvision): fields of `RoIPooling`.
- Boxes are learned by L1 (OpenMMLab) or smooth L1 with a corner at 1/9 (torchvision): `BoxStage.beta`.
- The background is the last class here and in OpenMMLab, the first in torchvision: its class k is k - 1 here.
- The objects themselves are among the proposals that are learned from (both), each assigned to itself (OpenMMLab).
- Of an image, the best 5000 pairs of region and class are suppressed; in the references all that score enough.

Without a pyramid there are two forms, both with anchors of five sizes on a level of stride 16 and the neck `Identity`:

- C4 (the paper's own; He et al. 2016, arXiv:1512.03385, appendix A; row `faster_rcnn_c4`): the level is "c4", and the
  stage behind it is run on the features of each region (`shared_stage`); the mean of what it gives takes the place of
  the two linear layers.
- DC5 (row `faster_rcnn_dc5`): the level is "c5" of a backbone whose last stage dilates in place of its stride.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxvision.detection.dense import Suppression
from jaxvision.detection.keys import fpn_keys, with_backbone
from jaxvision.detection.roi_heads import BoxPredictor, BoxStage, RoIPooling, TwoFCHead, detect_regions
from jaxvision.detection.rpn import Outputs, RegionProposals, RPNHead, drawn, images_and_size, rpn_keys
from jaxvision.pretrained.keymaps import Rules
from jaxvision.structures import Detections, Instances

Levels = Mapping[str, Float[Array, "b _ _ c"]]


class FasterRCNN(nn.Module):
    """Variables lie under "backbone", "neck", "rpn_head", "box_head" (or "shared_head") and "box_predictor".

    Attributes:
      backbone: called as `backbone(images, train=...)`; has `strides`.
      neck: called as `neck(levels, train=...)`; has `strides(of_backbone)`.
      num_classes: without a background.
      proposals: how regions are proposed and learned.
      pooling: of a region's features.
      width: of the two linear layers.
      stage: what regions are to say and how that is learned.
      suppression: how detections are chosen.
      shared_stage: the stages of the backbone that follow its last level (`backbone.rest()`) are run on each region in
        place of the linear layers, and all heads see the result; variables under "shared_head". Rows that are only
        padding count in the statistics of its norms, which are usually frozen.
    """

    backbone: nn.Module
    neck: nn.Module
    num_classes: int
    proposals: RegionProposals = RegionProposals()
    pooling: RoIPooling = RoIPooling()
    width: int = 1024
    stage: BoxStage = BoxStage()
    suppression: Suppression = Suppression(candidates=5000)
    shared_stage: bool = False

    def setup(self) -> None:
        self.rpn_head = RPNHead(self.proposals.anchors.per_cell)
        if self.shared_stage:
            if not hasattr(self.backbone, "rest"):
                raise ValueError(
                    "shared_stage=True needs a backbone with the method rest(), but "
                    f"{type(self.backbone).__name__} has none: take a ResNet"
                )
            self.shared_head = self.backbone.rest()
        else:
            self.box_head = TwoFCHead(self.width)
        classes = self.object_classes
        self.box_predictor = BoxPredictor(classes, 1 if self.stage.class_agnostic else classes)

    @property
    def frozen_paths(self) -> tuple[str, ...]:
        """Patterns of the norms of a stage that regions are put through, where they are constants."""
        frozen = self.shared_stage and self.backbone.norm.kind == "frozen_bn"
        return (r"shared_head/.*/(bn\d|downsample_1)/(scale|bias)",) if frozen else ()

    @property
    def object_classes(self) -> int:
        """Classes whose objects have boxes, the first of `num_classes`."""
        return self.num_classes

    @property
    def strides(self) -> dict[str, int]:
        """Input pixels per cell of each level of the neck."""
        return self.neck.strides(self.backbone.strides)

    def __call__(
        self, inputs: Array | Mapping[str, Array], *, train: bool = False, targets: Instances | None = None
    ) -> dict[str, Any]:
        """What both stages say.

        Args:
          inputs: float images [B, H, W, C], or `{"image": images, "size": [B, 2]}`.
          targets: the truth to learn from; anchors and regions are sampled by the rng "sampling".

        Returns:
          `rpn`: of the first stage, see `RegionProposals.outputs`; `rois` [B, R, 4] xyxy in pixels, `valid` [B, R];
          of each region `logits` [B, R, num_classes + 1], background last, and `deltas` [B, R, num_classes or 1, 4].
          Without `targets` regions are the proposals; with `targets` those sampled from them and from the objects,
          and both stages have `samples`.
        """
        return self.both_stages(inputs, train, targets)[0]

    def both_stages(
        self, inputs: Array | Mapping[str, Array], train: bool, targets: Instances | None
    ) -> tuple[dict[str, Any], Levels]:
        """The outputs, and the levels of the neck."""
        images, size = images_and_size(inputs)
        levels = self.neck(self.backbone(images, train=train), train=train)
        rpn: dict[str, Any] = self.proposals.outputs(self.rpn_head, levels, self.strides, images.shape[1:3])
        outputs: dict[str, Any] = {"rpn": rpn}
        found = self.proposals.propose(rpn, size, train=train)
        rois, valid = found.boxes, found.valid
        if targets is not None:
            rpn["samples"] = self.proposals.sample(self.make_rng("sampling"), rpn["anchors"], targets, size)
            rois, outputs["samples"] = self.stage.sample(self.make_rng("sampling"), rois, valid, targets)
            valid = outputs["samples"].valid
        logits, deltas = self.regions(levels, rois, train=train)
        return {**outputs, "rois": rois, "valid": valid, "logits": logits, "deltas": deltas}, levels

    def regions(
        self, levels: Levels, rois: Float[Array, "b r 4"], *, train: bool = False
    ) -> tuple[Float[Array, "b r classes"], Float[Array, "b r boxes 4"]]:
        """Logits and deltas of each region."""
        pooled = self.pooled(self.pooling, levels, rois, train)
        said = jnp.mean(pooled, axis=(1, 2)) if self.shared_stage else self.box_head(pooled)
        logits, deltas = self.box_predictor(said)
        shape = rois.shape[:2]
        return logits.reshape(*shape, -1), deltas.reshape(*shape, -1, 4)

    def pooled(
        self, pooling: RoIPooling, levels: Levels, rois: Float[Array, "b r 4"], train: bool
    ) -> Float[Array, "b*r s s c"]:
        """The features of each region that heads see."""
        x = pooling(levels, self.strides, rois)
        return list(self.shared_head(x, train=train).values())[-1] if self.shared_stage else x

    @nn.nowrap
    def loss(self, outputs: Outputs, batch: Mapping[str, Any]) -> dict[str, tuple[Array, Array]]:
        """(sum, count) of `objectness`, `proposal_box`, `classification` and `box`; the loss is the sum of quotients.

        Args:
          outputs: of a call with `targets`.
          batch: `targets` and `valid`.
        """
        first = self.proposals.loss(outputs["rpn"], batch)
        logits, deltas, rois = (outputs[name] for name in ("logits", "deltas", "rois"))
        return {**first, **self.stage.loss(logits, deltas, rois, drawn(outputs), batch)}

    @nn.nowrap
    def predict(self, outputs: Outputs, size: Float[Array, "b 2"]) -> Detections:
        """Detections in pixels of the canvas, clipped to pictures of these heights and widths."""
        logits, deltas, rois, valid = (outputs[name] for name in ("logits", "deltas", "rois", "valid"))
        return detect_regions(logits, deltas, rois, valid, self.stage, size, self.suppression)


HEAD = r"/box_predictor/"
"""The layers that depend on the number of classes."""


def keys(model: FasterRCNN) -> dict[str, Rules]:
    """See `pretrained/keymaps.py`. torchvision's published file has older names than its module."""
    return with_backbone(model.backbone, two_stage_keys(model.neck))


def two_stage_keys(neck: Any) -> dict[str, Rules]:
    """Names of the neck, of the proposal network, of the head for boxes and of the stage that is run on regions."""
    of_neck, of_rpn = fpn_keys(neck), rpn_keys()
    openmmlab: Rules = (
        (r"^box_head\.fc6\.weight", "roi_head.bbox_head.shared_fcs.0.weight[flat]"),
        (r"^box_head\.fc6\.", "roi_head.bbox_head.shared_fcs.0."),
        (r"^box_head\.fc7\.", "roi_head.bbox_head.shared_fcs.1."),
        (r"^box_predictor\.cls_score\.", "roi_head.bbox_head.fc_cls."),
        (r"^box_predictor\.bbox_pred\.", "roi_head.bbox_head.fc_reg."),
        (r"^shared_head\.", "roi_head.shared_head."),
    )
    torchvision: Rules = (
        (r"^box_head\.fc6\.weight", "roi_heads.box_head.fc6.weight[flat]"),
        (r"^box_(head|predictor)\.", r"roi_heads.box_\1."),
        background_last(r"/box_predictor/cls_score/"),
        without_background(r"/box_predictor/bbox_pred/", 4),
    )
    own: dict[str, Rules] = {"openmmlab": openmmlab, "torchvision": torchvision, "torchvision/module": torchvision}
    return {source: (*of_neck[source], *of_rpn[source], *rules) for source, rules in own.items()}


def background_last(pattern: str) -> tuple[str, Any, Any]:
    """The rule for layers whose first class is the background in torchvision."""
    return pattern, lambda value: np.roll(value, -1, axis=-1), lambda value: np.roll(value, 1, axis=-1)


def without_background(pattern: str, count: int) -> tuple[str, Any, Any]:
    """The rule for layers that in torchvision have `count` numbers of the background first, which nothing reads."""

    def write(value: np.ndarray) -> np.ndarray:
        return np.concatenate([np.zeros((*value.shape[:-1], count), value.dtype), value], axis=-1)

    return pattern, lambda value: value[..., count:], write
