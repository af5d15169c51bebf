"""Faster R-CNN, ResNet-50 with PAFPN, COCO, 1x (Ren et al. 2015; Liu et al. 2018).

OpenMMLab's `faster-rcnn_r50_pafpn_1x_coco` reaches 37.5 AP.
"""

from configs.common import coco_detection


def get_config(arg=""):
    config = coco_detection.get_config(arg)
    config.model = dict(
        name="faster_rcnn",
        num_classes=coco_detection.CLASSES,
        backbone=dict(name="resnet50", frozen_stages=1, norm="frozen_bn"),
        neck=dict(name="pafpn", extra_levels=1),
    )
    config.schedule = coco_detection.schedule(learning_rate=0.02)
    config.pretrained = dict(backbone="torchvision:resnet50")
    return coco_detection.complete(config)
