"""Panoptic FPN, ResNet-50, COCO panoptic, 1x (Kirillov et al. 2019).

OpenMMLab's `panoptic-fpn_r50_fpn_1x_coco` reaches a panoptic quality of 40.2 (47.8 of things, 28.9 of stuff). The
original files are read, from `data/coco` unless `--config.data.source.images` and its like say otherwise: 80 classes of
things and 53 of stuff.
"""

from configs.common import coco_detection


def get_config(arg=""):
    config = coco_detection.get_config(arg)
    config.task = "panoptic_segmentation"
    config.model = dict(
        name="panoptic_fpn",
        num_classes=133,
        num_stuff=53,
        backbone=dict(name="resnet50", frozen_stages=1, norm="frozen_bn"),
    )
    config.data.source = dict(
        name="coco_panoptic",
        images="data/coco/train2017",
        annotations="data/coco/annotations/panoptic_train2017.json",
        eval_images="data/coco/val2017",
        eval_annotations="data/coco/annotations/panoptic_val2017.json",
    )
    config.schedule = coco_detection.schedule(learning_rate=0.02)
    config.pretrained = dict(backbone="torchvision:resnet50")
    config.checkpoint.best_metric = "pq"
    return coco_detection.complete(config)
