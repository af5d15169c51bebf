"""FCOS, ResNet-50 FPN, COCO, 1x (Tian et al. 2019); OpenMMLab's `fcos_r50-caffe_fpn_gn-head_1x_coco` reaches 36.6 AP.

It starts from a ResNet-50 of Detectron (`resnet50_caffe`, pixels of 0 to 255 in the order blue, green, red); here it is
torchvision's, with its normalisation.
"""

from configs.common import coco_detection

BIASES = r"neck/.*/bias|head/(cls_logits|bbox_reg|bbox_ctrness)/bias"
"""Of all convolutions that are trained and have one."""


def get_config(arg=""):
    config = coco_detection.get_config(arg)
    config.model = dict(
        name="fcos",
        num_classes=coco_detection.CLASSES,
        backbone=dict(name="resnet50", frozen_stages=1, norm="frozen_bn"),
    )
    config.schedule = coco_detection.schedule(learning_rate=0.01) | dict(
        warmup_factor=1 / 3,
        warmup_kind="constant",
        clip_norm=35.0,
        rules=(dict(pattern=BIASES, learning_rate=2.0, weight_decay=0.0),),
    )
    config.pretrained = dict(backbone="torchvision:resnet50")
    return coco_detection.complete(config)
