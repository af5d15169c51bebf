"""Faster R-CNN on one level, ResNet-50 C4, COCO, 1x (Ren et al. 2015; He et al. 2016, appendix A).

OpenMMLab's `faster-rcnn_r50-caffe-c4_1x_coco` reaches 35.6 AP. It starts from a ResNet-50 of Detectron
(`resnet50_caffe`, pixels of 0 to 255 in the order blue, green, red); here it is torchvision's, with its normalisation.
The stage that is run on regions starts from the same file.
"""

from configs.common import coco_detection


def get_config(arg=""):
    config = coco_detection.get_config(arg)
    config.model = dict(
        name="faster_rcnn_c4",
        num_classes=coco_detection.CLASSES,
        backbone=dict(name="resnet50", out_levels=("c4",), frozen_stages=1, norm="frozen_bn"),
    )
    config.schedule = coco_detection.schedule(learning_rate=0.02)
    config.pretrained = dict(backbone="torchvision:resnet50", shared_head="torchvision:resnet50")
    return coco_detection.complete(config)
