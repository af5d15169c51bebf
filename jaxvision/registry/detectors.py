"""Rows of detection: tasks, necks and detectors."""

from typing import Any

from jaxvision.registry.table import register

register("task", "detection", "jaxvision.detection.task:DetectionTask")
register(
    "task",
    "instance_segmentation",
    "jaxvision.detection.task:DetectionTask",
    protocols=("coco", "coco_masks"),
    doc="boxes and masks of objects",
)

FPN_FROM_C3 = {"name": "fpn", "in_levels": ("c3", "c4", "c5"), "extra_levels": 2}
register("neck", "fpn", "jaxvision.necks.fpn:FPN", smoke={"channels": 16}, doc="Lin et al. 2017")
register("neck", "pafpn", "jaxvision.necks.pafpn:PAFPN", smoke={"channels": 16}, doc="Liu et al. 2018")
register(
    "neck",
    "yolox_pafpn",
    "jaxvision.necks.yolox_pafpn:YOLOXPAFPN",
    smoke={"channels": 16, "depth": 1},
    doc="Ge et al. 2021",
)
register("neck", "identity", "jaxvision.necks.identity:Identity", doc="no neck: levels of the backbone as they are")
register(
    "model",
    "retinanet",
    "jaxvision.detection.retinanet:RetinaNet",
    smoke={"depth": 1},
    backbone={"name": "resnet50"},
    neck={**FPN_FROM_C3, "extra": "input"},
    doc="Lin et al. 2017",
)
register(
    "model",
    "torchvision/retinanet",
    "jaxvision.detection.retinanet:RetinaNet",
    smoke={"depth": 1},
    backbone={"name": "resnet50", "norm": {"name": "frozen_bn", "epsilon": 0.0}},
    neck={**FPN_FROM_C3, "extra": "output", "relu_before_extra": True},
    anchors={"whole": True},
    assigner={"low_quality": "anchor"},
    suppression={"max_detections": 300, "min_size": -1.0},
    doc="Lin et al. 2017, with torchvision's numbers",
)

register(
    "model",
    "fcos",
    "jaxvision.detection.fcos:FCOS",
    smoke={"depth": 1},
    backbone={"name": "resnet50_caffe"},
    neck={**FPN_FROM_C3, "extra": "output", "relu_before_extra": True},
    doc="Tian et al. 2019",
)
register(
    "model",
    "torchvision/fcos",
    "jaxvision.detection.fcos:FCOS",
    smoke={"depth": 1},
    backbone={"name": "resnet50", "norm": {"name": "frozen_bn"}},
    neck={**FPN_FROM_C3, "extra": "output", "relu_before_extra": True},
    points={"offset": 0.0, "whole": True},
    center_radius=1.5,
    conv_bias=True,
    factors=False,
    centerness_with_boxes=True,
    activation="relu",
    box_loss="giou",
    centerness_weights=False,
    score="geometric_mean",
    suppression={"score_threshold": 0.2, "iou_threshold": 0.6, "min_size": -1.0},
    doc="Tian et al. 2019, with torchvision's numbers",
)

register(
    "model",
    "atss",
    "jaxvision.detection.atss:ATSS",
    smoke={"depth": 1},
    backbone={"name": "resnet50"},
    neck={**FPN_FROM_C3, "extra": "output"},
    doc="Zhang et al. 2020",
)

FPN_FROM_C2 = {"name": "fpn", "extra_levels": 1}
TORCHVISION_RESNET = {"name": "resnet50", "norm": {"name": "frozen_bn", "epsilon": 0.0}}
EVERY_SCORE = {"score_threshold": -1.0, "iou_threshold": 0.7, "min_size": 1e-3}
TORCHVISION_TWO_STAGE: dict[str, Any] = {
    "proposals": {
        "anchors": {"scales": (8.0,), "whole": True},
        "assigner": {"positive": 0.7, "negative": 0.3, "low_quality": "anchor", "least": 0.0},
        "beta": 1 / 9,
        "training": {**EVERY_SCORE, "candidates": 2000, "max_detections": 2000},
        "evaluation": {**EVERY_SCORE, "candidates": 1000, "max_detections": 1000},
    },
    "pooling": {"sampling_ratio": 2, "aligned": False, "finest_scale": None},
    "stage": {"beta": 1 / 9},
    "suppression": {"candidates": 5000, "min_size": 1e-2},
}
FEW_PROPOSALS = {
    "sampler": {"count": 16},
    "training": {"candidates": 32, "max_detections": 16},
    "evaluation": {"candidates": 32, "max_detections": 16},
}
SMALL_TWO_STAGE = {"proposals": FEW_PROPOSALS, "width": 16, "stage": {"sampler": {"count": 16}}}
register(
    "model",
    "rpn",
    "jaxvision.detection.rpn:RPN",
    smoke={"proposals": FEW_PROPOSALS},
    backbone={"name": "resnet50"},
    neck=FPN_FROM_C2,
    doc="Ren et al. 2015, Lin et al. 2017",
)
register(
    "model",
    "faster_rcnn",
    "jaxvision.detection.faster_rcnn:FasterRCNN",
    smoke=SMALL_TWO_STAGE,
    backbone={"name": "resnet50"},
    neck=FPN_FROM_C2,
    doc="Ren et al. 2015, Lin et al. 2017",
)
register(
    "model",
    "torchvision/faster_rcnn",
    "jaxvision.detection.faster_rcnn:FasterRCNN",
    smoke=SMALL_TWO_STAGE,
    backbone=TORCHVISION_RESNET,
    neck=FPN_FROM_C2,
    **TORCHVISION_TWO_STAGE,
    doc="Ren et al. 2015, Lin et al. 2017, with torchvision's numbers",
)

SMALL_MASKS = {**SMALL_TWO_STAGE, "mask_width": 16, "mask_depth": 1}
register(
    "model",
    "mask_rcnn",
    "jaxvision.detection.mask_rcnn:MaskRCNN",
    smoke=SMALL_MASKS,
    backbone={"name": "resnet50"},
    neck=FPN_FROM_C2,
    doc="He et al. 2017",
)
register(
    "model",
    "torchvision/mask_rcnn",
    "jaxvision.detection.mask_rcnn:MaskRCNN",
    smoke=SMALL_MASKS,
    backbone=TORCHVISION_RESNET,
    neck=FPN_FROM_C2,
    **TORCHVISION_TWO_STAGE,
    mask_pooling={"size": 14, "sampling_ratio": 2, "aligned": False, "finest_scale": None},
    binary=False,
    doc="He et al. 2017, with torchvision's numbers",
)

YOLOX_SIZES = {"nano": (64, 1), "tiny": (96, 1), "s": (128, 1), "m": (192, 2), "l": (256, 3), "x": (320, 4)}
"""Channels of the neck and blocks of its cross-stage partial layers; the backbone has the rest."""
for size, (channels, depth) in YOLOX_SIZES.items():
    separable: dict[str, Any] = {"depthwise": True} if size == "nano" else {}
    register(
        "model",
        f"yolox_{size}",
        "jaxvision.detection.yolox:YOLOX",
        smoke={"depth": 1},
        backbone={"name": f"cspdarknet_{size}"},
        neck={"name": "yolox_pafpn", "channels": channels, "depth": depth, **separable},
        **separable,
        doc="Ge et al. 2021",
    )
register(
    "backbone",
    "ssd_vgg16",
    "jaxvision.backbones.ssd_vgg:SSDVGG",
    smoke={"depth": 11, "width": 8, "hidden": 16},
    doc="Liu et al. 2016",
)
register(
    "neck",
    "ssd_extras",
    "jaxvision.necks.ssd_extras:SSDExtras",
    smoke={"channels": (16, 16), "down": (2, 2), "padding": (1, 1), "last_kernel": 3},
    doc="Liu et al. 2016",
)
FOUR_MAPS = {"sizes": (12.0, 24.0, 36.0, 48.0, 60.0), "ratios": ((2.0,),) * 4, "strides": (8, 16, 32, 64)}
TORCHVISION_SUPPRESSION = {
    "score_threshold": 0.01,
    "candidates": 400,
    "iou_threshold": 0.45,
    "max_detections": 200,
    "min_size": -1.0,
}
register(
    "model",
    "ssd300",
    "jaxvision.detection.ssd:SSD",
    smoke={"anchors": FOUR_MAPS},
    backbone={"name": "ssd_vgg16"},
    neck={"name": "ssd_extras"},
    doc="Liu et al. 2016",
)
register(
    "model",
    "ssd512",
    "jaxvision.detection.ssd:SSD",
    smoke={"anchors": FOUR_MAPS},
    backbone={"name": "ssd_vgg16"},
    neck={
        "name": "ssd_extras",
        "channels": (512, 256, 256, 256, 256),
        "down": (2, 2, 2, 2, 1),
        "padding": (1, 1, 1, 1, 1),
        "last_kernel": 4,
    },
    anchors={
        "sizes": (20.0, 51.0, 133.0, 215.0, 296.0, 378.0, 460.0, 542.0),
        "ratios": ((2.0,), *((2.0, 3.0),) * 4, (2.0,), (2.0,)),
        "strides": (8, 16, 32, 64, 128, 256, 512),
    },
    doc="Liu et al. 2016",
)
register(
    "model",
    "torchvision/ssd300",
    "jaxvision.detection.ssd:SSD",
    smoke={"anchors": FOUR_MAPS},
    backbone={"name": "ssd_vgg16"},
    neck={"name": "ssd_extras"},
    anchors={"longest": 300.0},
    per_class=True,
    suppression=TORCHVISION_SUPPRESSION,
    doc="Liu et al. 2016, with torchvision's numbers",
)

register("neck", "yolov3", "jaxvision.necks.yolov3:YOLOv3Neck", smoke={"channels": 8}, doc="Redmon and Farhadi 2018")
register(
    "model",
    "yolov3",
    "jaxvision.detection.yolov3:YOLOv3",
    backbone={"name": "darknet53_yolov3", "out_levels": ("c3", "c4", "c5")},
    neck={"name": "yolov3"},
    doc="Redmon and Farhadi 2018",
)
register(
    "model",
    "fast_rcnn",
    "jaxvision.detection.fast_rcnn:FastRCNN",
    smoke={"width": 16, "stage": {"sampler": {"count": 16}}},
    backbone={"name": "resnet50"},
    neck=FPN_FROM_C2,
    doc="Girshick 2015, Lin et al. 2017",
)
register(
    "model",
    "cascade_rcnn",
    "jaxvision.detection.cascade_rcnn:CascadeRCNN",
    smoke=SMALL_TWO_STAGE,
    backbone={"name": "resnet50"},
    neck=FPN_FROM_C2,
    doc="Cai & Vasconcelos 2018",
)
register(
    "model",
    "cascade_mask_rcnn",
    "jaxvision.detection.cascade_mask_rcnn:CascadeMaskRCNN",
    smoke=SMALL_MASKS,
    backbone={"name": "resnet50"},
    neck=FPN_FROM_C2,
    doc="Cai & Vasconcelos 2019",
)
register(
    "task",
    "panoptic_segmentation",
    "jaxvision.detection.panoptic_task:PanopticTask",
    doc="things with masks and stuff",
)
register(
    "model",
    "panoptic_fpn",
    "jaxvision.detection.panoptic_fpn:PanopticFPN",
    smoke={**SMALL_MASKS, "num_stuff": 1, "semantic_width": 16, "semantic_norm": {"groups": 8}},
    backbone={"name": "resnet50"},
    neck=FPN_FROM_C2,
    doc="Kirillov et al. 2019",
)

# Two-stage detectors without a pyramid, with the numbers of OpenMMLab.
ONE_LEVEL = {"score_threshold": -1.0, "iou_threshold": 0.7}
ONE_LEVEL_PROPOSALS: dict[str, Any] = {
    "anchors": {"scales": (2.0, 4.0, 8.0, 16.0, 32.0)},
    "training": {**ONE_LEVEL, "candidates": 12000, "max_detections": 2000},
    "evaluation": {**ONE_LEVEL, "candidates": 6000, "max_detections": 1000},
}
C4: dict[str, Any] = {"backbone": {"name": "resnet50_caffe", "out_levels": ("c4",)}, "neck": {"name": "identity"}}
C4_POOLING = {"size": 14, "levels": ("c4",)}
register(
    "model",
    "rpn_c4",
    "jaxvision.detection.rpn:RPN",
    smoke={"proposals": FEW_PROPOSALS},
    **C4,
    proposals={**ONE_LEVEL_PROPOSALS, "evaluation": ONE_LEVEL_PROPOSALS["training"]},
    doc="Ren et al. 2015",
)
register(
    "model",
    "faster_rcnn_c4",
    "jaxvision.detection.faster_rcnn:FasterRCNN",
    smoke=SMALL_TWO_STAGE,
    **C4,
    proposals=ONE_LEVEL_PROPOSALS,
    pooling=C4_POOLING,
    shared_stage=True,
    doc="Ren et al. 2015, He et al. 2016",
)
register(
    "model",
    "faster_rcnn_dc5",
    "jaxvision.detection.faster_rcnn:FasterRCNN",
    smoke={**SMALL_TWO_STAGE, "backbone": {"width": 4}},
    backbone={"name": "resnet50_caffe", "out_levels": ("c5",), "output_stride": 16, "contract_dilation": False},
    neck={"name": "identity", "in_levels": ("c5",)},
    proposals={**ONE_LEVEL_PROPOSALS, "border": 0.0},
    pooling={"levels": ("c5",)},
    doc="Ren et al. 2015, with a dilated last stage",
)
register(
    "model",
    "mask_rcnn_c4",
    "jaxvision.detection.mask_rcnn:MaskRCNN",
    smoke={**SMALL_TWO_STAGE, "mask_width": 8},
    **C4,
    proposals={**ONE_LEVEL_PROPOSALS, "border": 0.0},
    pooling=C4_POOLING,
    stage={"assigner": {"positive": 0.5, "negative": 0.5, "low_quality": "none"}},
    shared_stage=True,
    mask_pooling=C4_POOLING,
    mask_depth=0,
    doc="He et al. 2017",
)

register(
    "model",
    "localizer",
    "jaxvision.detection.localizer:Localizer",
    smoke={"hidden": 16},
    backbone={"name": "resnet50"},
    doc="one class and one box; Simonyan and Zisserman 2014",
)
register(
    "model",
    "sliding_window",
    "jaxvision.detection.sliding_window:SlidingWindow",
    smoke={"windows": {"sizes": ((32, 32), (48, 32)), "step": 0.5}, "crop": 32, "sampler": {"count": 4}},
    backbone={"name": "resnet18"},
    doc="a classifier of windows",
)
register(
    "backbone",
    "overfeat_fast",
    "jaxvision.detection.overfeat:OverFeatFeatures",
    smoke={"width": 4},
    fast=True,
    doc="Sermanet et al. 2014, table 1",
)
register(
    "backbone",
    "overfeat_accurate",
    "jaxvision.detection.overfeat:OverFeatFeatures",
    smoke={"width": 4},
    doc="Sermanet et al. 2014, table 3",
)
register(
    "model",
    "overfeat",
    "jaxvision.detection.overfeat:OverFeat",
    smoke={
        "backbone": {"name": "resnet18", "out_levels": ("c3",)},
        "pool": 2,
        "window": 2,
        "cell": None,
        "scales": (1.0, 1.5),
        "hidden": (16, 16),
        "box_hidden": (16, 16),
        "candidates": 32,
    },
    backbone={"name": "overfeat_accurate"},
    doc="Sermanet et al. 2014",
)

FEW_QUERIES = {"queries": 6, "encoder_layers": 1, "decoder_layers": 2, "heads": 2, "hidden": 16}
LAST_LEVEL = {"name": "channel_mapper", "in_levels": ("c5",)}
FOUR_LEVELS = {"name": "channel_mapper", "extra_levels": 1, "norm": {"name": "gn"}}
register(
    "neck", "channel_mapper", "jaxvision.necks.channel_mapper:ChannelMapper", smoke={"channels": 16}, doc="OpenMMLab"
)
register(
    "model",
    "detr",
    "jaxvision.detection.detr:DETR",
    smoke=FEW_QUERIES,
    backbone={"name": "resnet50"},
    neck=LAST_LEVEL,
    doc="Carion et al. 2020",
)
register(
    "model",
    "deformable_detr",
    "jaxvision.detection.deformable_detr:DeformableDETR",
    smoke={**FEW_QUERIES, "points": 2},
    backbone={"name": "resnet50"},
    neck={**FOUR_LEVELS, "bias": False},
    doc="Zhu et al. 2021",
)
register(
    "model",
    "huggingface/deformable_detr",
    "jaxvision.detection.deformable_detr:DeformableDETR",
    smoke={**FEW_QUERIES, "points": 2},
    backbone={"name": "resnet50"},
    neck=FOUR_LEVELS,
    matcher={"score": "focal", "class_weight": 1.0},
    class_weight=1.0,
    attention_dropout=0.0,
    doc="Zhu et al. 2021, with the numbers of transformers",
)
