"""Cascade R-CNN, ResNet-50 FPN, COCO, 1x (Cai & Vasconcelos 2018; Lin et al. 2017).

OpenMMLab's `cascade-rcnn_r50_fpn_1x_coco` reaches 40.3 AP.
"""

from configs.common import coco_detection


def get_config(arg=""):
    config = coco_detection.get_config(arg)
    config.model = dict(
        name="cascade_rcnn",
        num_classes=coco_detection.CLASSES,
        backbone=dict(name="resnet50", frozen_stages=1, norm="frozen_bn"),
    )
    config.schedule = coco_detection.schedule(learning_rate=0.02)
    config.pretrained = dict(backbone="torchvision:resnet50")
    return coco_detection.complete(config)
