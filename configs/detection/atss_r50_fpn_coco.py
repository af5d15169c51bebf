"""ATSS, ResNet-50 FPN, COCO, 1x (Zhang et al. 2020); OpenMMLab's `atss_r50_fpn_1x_coco` reaches 39.4 AP."""

from configs.common import coco_detection


def get_config(arg=""):
    config = coco_detection.get_config(arg)
    config.model = dict(
        name="atss",
        num_classes=coco_detection.CLASSES,
        backbone=dict(name="resnet50", frozen_stages=1, norm="frozen_bn"),
    )
    config.schedule = coco_detection.schedule(learning_rate=0.01)
    config.pretrained = dict(backbone="torchvision:resnet50")
    return coco_detection.complete(config)
