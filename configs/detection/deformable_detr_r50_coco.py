"""Deformable DETR, ResNet-50, COCO, 50 epochs (Zhu et al. 2021).

OpenMMLab's `deformable-detr_r50_16xb2-50e_coco` reaches 44.3 AP.
"""

from configs.common import coco_detection

SLOW = r"backbone/.*|.*/sampling_offsets/.*|reference_points_fc/.*"


def get_config(arg=""):
    config = coco_detection.get_config(arg)
    config.model = dict(
        name="deformable_detr",
        num_classes=coco_detection.CLASSES,
        backbone=dict(name="resnet50", frozen_stages=1, norm="frozen_bn", out_levels=("c3", "c4", "c5")),
    )
    config.data.batch_size = 32
    config.data.host_transforms = coco_detection.ANY_SCALE
    config.schedule = dict(
        epochs=50,
        optimizer=dict(name="adamw", weight_decay=1e-4),
        learning_rate=dict(name="step", value=2e-4, milestones=(40,)),
        base_batch_size=32,
        clip_norm=0.1,
        rules=(dict(pattern=SLOW, learning_rate=0.1),),
    )
    config.pretrained = dict(backbone="torchvision:resnet50")
    return coco_detection.complete(config)
