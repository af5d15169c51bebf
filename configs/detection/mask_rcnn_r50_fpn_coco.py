"""Mask R-CNN, ResNet-50 FPN, COCO, 1x (He et al. 2017).

OpenMMLab's `mask-rcnn_r50_fpn_1x_coco` reaches 38.2 box AP and 34.7 mask AP. TensorFlow Datasets has no masks of COCO:
the original files are read, from `data/coco` unless `--config.data.source.images` and its like say otherwise.
"""

from configs.common import coco_detection

SOURCE = dict(
    name="coco",
    images="data/coco/train2017",
    annotations="data/coco/annotations/instances_train2017.json",
    eval_images="data/coco/val2017",
    eval_annotations="data/coco/annotations/instances_val2017.json",
    masks=True,
)


def get_config(arg=""):
    config = coco_detection.get_config(arg)
    config.task = "instance_segmentation"
    config.model = dict(
        name="mask_rcnn",
        num_classes=coco_detection.CLASSES,
        backbone=dict(name="resnet50", frozen_stages=1, norm="frozen_bn"),
    )
    config.data.source = SOURCE
    config.schedule = coco_detection.schedule(learning_rate=0.02)
    config.pretrained = dict(backbone="torchvision:resnet50")
    config.checkpoint.best_metric = "mask_ap"
    return coco_detection.complete(config)
