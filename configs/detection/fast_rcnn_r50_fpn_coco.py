"""Fast R-CNN, ResNet-50 FPN, COCO, 1x (Girshick 2015; Lin et al. 2017).

OpenMMLab's `fast-rcnn_r50_fpn_1x_coco`, of which no precision is published. The 2,000 (in evaluation 1,000) best
proposals of each image come from a trained `rpn_r50_fpn_coco`:

    python -m experiments.propose --config runs/rpn --split train --output data/proposals/rpn_r50_fpn_train2017.npz
    python -m experiments.propose --config runs/rpn --split validation --output data/proposals/rpn_r50_fpn_val2017.npz
"""

from configs.common import coco_detection


def get_config(arg=""):
    config = coco_detection.get_config(arg)
    config.model = dict(
        name="fast_rcnn",
        num_classes=coco_detection.CLASSES,
        backbone=dict(name="resnet50", frozen_stages=1, norm="frozen_bn"),
    )
    config.data.source = dict(
        name="with_proposals",
        path="data/proposals/rpn_r50_fpn_train2017.npz",
        eval_path="data/proposals/rpn_r50_fpn_val2017.npz",
        source="tfds_records:coco/2017",
    )
    config.schedule = coco_detection.schedule(learning_rate=0.02)
    config.pretrained = dict(backbone="torchvision:resnet50")
    return coco_detection.complete(config)
