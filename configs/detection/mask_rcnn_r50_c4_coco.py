"""Mask R-CNN on one level, ResNet-50 C4, COCO, 1x (He et al. 2017).

OpenMMLab's `mask-rcnn_r50-caffe-c4_1x_coco` has no published result; Detectron2's `mask_rcnn_R_50_C4_1x` reaches 36.8
box AP and 32.2 mask AP. What is about weights is as in `faster_rcnn_r50_c4_coco`, what is about data as in
`mask_rcnn_r50_fpn_coco`.
"""

from configs.common import coco_detection
from configs.detection import mask_rcnn_r50_fpn_coco


def get_config(arg=""):
    config = mask_rcnn_r50_fpn_coco.get_config(arg)
    config.model = dict(
        name="mask_rcnn_c4",
        num_classes=coco_detection.CLASSES,
        backbone=dict(name="resnet50", out_levels=("c4",), frozen_stages=1, norm="frozen_bn"),
    )
    config.pretrained = dict(backbone="torchvision:resnet50", shared_head="torchvision:resnet50")
    return coco_detection.complete(config)
