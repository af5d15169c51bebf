"""Cascade Mask R-CNN, ResNet-50 FPN, COCO, 1x (Cai & Vasconcelos 2019).

OpenMMLab's `cascade-mask-rcnn_r50_fpn_1x_coco` reaches 41.2 box AP and 35.9 mask AP. The data are read as in
`mask_rcnn_r50_fpn_coco`.
"""

from configs.common import coco_detection
from configs.detection import mask_rcnn_r50_fpn_coco


def get_config(arg=""):
    config = coco_detection.get_config(arg)
    config.task = "instance_segmentation"
    config.model = dict(
        name="cascade_mask_rcnn",
        num_classes=coco_detection.CLASSES,
        backbone=dict(name="resnet50", frozen_stages=1, norm="frozen_bn"),
    )
    config.data.source = mask_rcnn_r50_fpn_coco.SOURCE
    config.schedule = coco_detection.schedule(learning_rate=0.02)
    config.pretrained = dict(backbone="torchvision:resnet50")
    config.checkpoint.best_metric = "mask_ap"
    return coco_detection.complete(config)
