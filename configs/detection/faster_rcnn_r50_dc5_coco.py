"""Faster R-CNN on one level, ResNet-50 whose last stage dilates (DC5), COCO, 1x (Ren et al. 2015).

OpenMMLab's `faster-rcnn_r50-caffe-dc5_1x_coco` reaches 37.2 AP. It starts from a ResNet-50 of Detectron
(`resnet50_caffe`, pixels of 0 to 255 in the order blue, green, red); here it is torchvision's, with its normalisation.
"""

from configs.common import coco_detection


def get_config(arg=""):
    config = coco_detection.get_config(arg)
    config.model = dict(
        name="faster_rcnn_dc5",
        num_classes=coco_detection.CLASSES,
        backbone=dict(
            name="resnet50",
            out_levels=("c5",),
            output_stride=16,
            contract_dilation=False,
            frozen_stages=1,
            norm="frozen_bn",
        ),
    )
    config.schedule = coco_detection.schedule(learning_rate=0.02)
    config.pretrained = dict(backbone="torchvision:resnet50")
    return coco_detection.complete(config)
