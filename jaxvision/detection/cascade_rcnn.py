"""Cascade R-CNN (Cai & Vasconcelos 2018, arXiv:1712.00726): Faster R-CNN with a sequence of heads, each more demanding.

A head that learns from regions which overlap objects by half does not tell good boxes from better ones; one that asks
for more finds too few regions to learn from. So the boxes of one head are the regions of the next, which asks for a
larger overlap and, as its regions are closer to the objects, scales its deltas up.

Defaults are those of OpenMMLab's `cascade-rcnn_r50_fpn_1x_coco`. What is not in the paper, or differs from it:

- In training a stage learns from the sampled regions of the stage before, without the objects among those; the objects
  join them again, so that no stage is ever without positives.
- At inference the classes' logits of all stages are averaged, each for the region that it saw; the paper averages the
  three heads' scores of the last regions.
- All classes share one box, which the next stage takes whatever the class.
- Proposals are learned from anchors that lie in the picture alone, as in Ren et al. 2015.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxvision.detection.dense import Suppression
from jaxvision.detection.keys import fpn_keys, with_backbone
from jaxvision.detection.roi_heads import BoxPredictor, BoxStage, RoIPooling, TwoFCHead, detect_regions
from jaxvision.detection.rpn import (
    TRAINING,
    Levels,
    Outputs,
    RegionProposals,
    RPNHead,
    drawn,
    images_and_size,
    rpn_keys,
)
from jaxvision.ops import clip_boxes
from jaxvision.pretrained.keymaps import Rules
from jaxvision.structures import Detections, Instances

PROPOSALS = RegionProposals(training=dataclasses.replace(TRAINING, max_detections=2000), beta=1 / 9, border=0.0)
Stds = tuple[float, float, float, float]
STDS: tuple[Stds, ...] = ((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067))


class CascadeRCNN(nn.Module):
    """Variables lie under "backbone", "neck", "rpn_head" and, of stage i, "box_head_i" and "box_predictor_i".

    Attributes:
      backbone: called as `backbone(images, train=...)`; has `strides`.
      neck: called as `neck(levels, train=...)`; has `strides(of_backbone)`.
      num_classes: without a background.
      proposals: how regions are proposed and learned.
      pooling: of a region's features.
      width: of the two linear layers of each stage.
      stage: what all stages have in common; boxes are class-agnostic.
      ious: for each stage, from which overlap on a region is positive, and below which it is negative.
      stds: the deltas of each stage are divided by them.
      stage_weights: of the losses of each stage.
      suppression: how detections are chosen.
    """

    backbone: nn.Module
    neck: nn.Module
    num_classes: int
    proposals: RegionProposals = PROPOSALS
    pooling: RoIPooling = RoIPooling()
    width: int = 1024
    stage: BoxStage = BoxStage(class_agnostic=True, beta=1.0)
    ious: tuple[float, ...] = (0.5, 0.6, 0.7)
    stds: tuple[Stds, ...] = STDS
    stage_weights: tuple[float, ...] = (1.0, 0.5, 0.25)
    suppression: Suppression = Suppression(candidates=5000)

    def __post_init__(self) -> None:
        numbers = len(self.ious), len(self.stds), len(self.stage_weights)
        if len(set(numbers)) > 1 or not self.ious:
            raise ValueError(
                f"a cascade got {numbers[0]} ious, {numbers[1]} stds and {numbers[2]} stage_weights: expected one of "
                "each for every stage"
            )
        if not self.stage.class_agnostic:
            raise ValueError("the boxes of a cascade are class-agnostic: leave stage.class_agnostic at True")
        super().__post_init__()

    @property
    def stages(self) -> tuple[BoxStage, ...]:
        """What the regions of each stage are to say."""
        return tuple(
            dataclasses.replace(
                self.stage,
                assigner=dataclasses.replace(self.stage.assigner, positive=iou, negative=iou),
                box_stds=stds,
            )
            for iou, stds in zip(self.ious, self.stds, strict=True)
        )

    def setup(self) -> None:
        self.rpn_head = RPNHead(self.proposals.anchors.per_cell)
        self.box_head = [TwoFCHead(self.width) for _ in self.ious]
        self.box_predictor = [BoxPredictor(self.num_classes, 1) for _ in self.ious]

    @property
    def strides(self) -> dict[str, int]:
        """Input pixels per cell of each level of the neck."""
        return self.neck.strides(self.backbone.strides)

    def __call__(
        self, inputs: Array | Mapping[str, Array], *, train: bool = False, targets: Instances | None = None
    ) -> dict[str, Any]:
        """What all stages say.

        Args:
          inputs: float images [B, H, W, C], or `{"image": images, "size": [B, 2]}`.
          targets: the truth to learn from; anchors and regions are sampled by the rng "sampling".

        Returns:
          `rpn`: of the proposals, see `RegionProposals.outputs`; `stages`: of each stage `rois` [B, R, 4] xyxy in
          pixels, `valid` [B, R], `logits` [B, R, num_classes + 1], background last, and `deltas` [B, R, 1, 4]. Without
          `targets` row r is the same region in all stages; with `targets` each stage, like `rpn`, has its `samples`.
        """
        return self.all_stages(inputs, train, targets)[0]

    def all_stages(
        self, inputs: Array | Mapping[str, Array], train: bool, targets: Instances | None
    ) -> tuple[dict[str, Any], Levels]:
        """The outputs, and the levels of the neck."""
        images, size = images_and_size(inputs)
        levels = self.neck(self.backbone(images, train=train), train=train)
        rpn: dict[str, Any] = self.proposals.outputs(self.rpn_head, levels, self.strides, images.shape[1:3])
        found = self.proposals.propose(rpn, size, train=train)
        rois, valid = found.boxes, found.valid
        if targets is not None:
            rpn["samples"] = self.proposals.sample(self.make_rng("sampling"), rpn["anchors"], targets, size)
        said = []
        for number, stage in enumerate(self.stages):
            own: dict[str, Any] = {}
            if targets is not None:
                rois, own["samples"] = stage.sample(self.make_rng("sampling"), rois, valid, targets)
                valid = own["samples"].valid
            logits, deltas = self.regions(number, levels, rois)
            said.append({**own, "rois": rois, "valid": valid, "logits": logits, "deltas": deltas})
            rois = clip_boxes(stage.decode(jax.lax.stop_gradient(deltas[:, :, 0]), rois), size)
            if targets is not None:
                # The first candidates of a sampler are the objects themselves.
                valid = valid & (own["samples"].rows >= targets.boxes.shape[1])
        return {"rpn": rpn, "stages": tuple(said)}, levels

    def regions(
        self, stage: int, levels: Levels, rois: Float[Array, "b r 4"]
    ) -> tuple[Float[Array, "b r classes"], Float[Array, "b r 1 4"]]:
        """Logits and deltas of each region by the heads of one stage."""
        features = self.box_head[stage](self.pooling(levels, self.strides, rois))
        logits, deltas = self.box_predictor[stage](features)
        shape = rois.shape[:2]
        return logits.reshape(*shape, -1), deltas.reshape(*shape, 1, 4)

    @nn.nowrap
    def loss(self, outputs: Outputs, batch: Mapping[str, Any]) -> dict[str, tuple[Array, Array]]:
        """(sum, count) of `objectness`, `proposal_box` and, of stage i, `classification_i` and `box_i`.

        The sums of a stage are multiplied by its weight. The loss is the sum of the quotients.

        Args:
          outputs: of a call with `targets`.
          batch: `targets` and `valid`.
        """
        terms = self.proposals.loss(outputs["rpn"], batch)
        stages = zip(self.stages, self.stage_weights, outputs["stages"], strict=True)
        for number, (stage, weight, said) in enumerate(stages):
            own = stage.loss(said["logits"], said["deltas"], said["rois"], drawn(said), batch)
            terms |= {f"{name}_{number}": (weight * total, count) for name, (total, count) in own.items()}
        return terms

    @nn.nowrap
    def predict(self, outputs: Outputs, size: Float[Array, "b 2"]) -> Detections:
        """Detections in pixels of the canvas, clipped to pictures of these heights and widths."""
        stages, last = outputs["stages"], outputs["stages"][-1]
        logits = jnp.mean(jnp.stack([said["logits"].astype(jnp.float32) for said in stages]), axis=0)
        deltas, rois, valid = (last[name] for name in ("deltas", "rois", "valid"))
        return detect_regions(logits, deltas, rois, valid, self.stages[-1], size, self.suppression)


HEAD = r"/box_predictor_\d+/cls_score/"
"""The layers that depend on the number of classes."""


def keys(model: CascadeRCNN) -> dict[str, Rules]:
    """See `pretrained/keymaps.py`."""
    return with_backbone(model.backbone, {"openmmlab": cascade_keys(model.neck)})


def cascade_keys(neck: Any) -> Rules:
    """OpenMMLab's names of the neck, of the proposal network and of the heads for boxes."""
    return (
        *fpn_keys(neck)["openmmlab"],
        *rpn_keys()["openmmlab"],
        (r"^box_head\.(\d+)\.fc6\.weight", r"roi_head.bbox_head.\1.shared_fcs.0.weight[flat]"),
        (r"^box_head\.(\d+)\.fc6\.", r"roi_head.bbox_head.\1.shared_fcs.0."),
        (r"^box_head\.(\d+)\.fc7\.", r"roi_head.bbox_head.\1.shared_fcs.1."),
        (r"^box_predictor\.(\d+)\.cls_score\.", r"roi_head.bbox_head.\1.fc_cls."),
        (r"^box_predictor\.(\d+)\.bbox_pred\.", r"roi_head.bbox_head.\1.fc_reg."),
    )
