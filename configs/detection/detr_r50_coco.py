"""DETR, ResNet-50, COCO, 150 epochs (Carion et al. 2020); OpenMMLab's `detr_r50_8xb2-150e_coco` reaches 39.9 AP."""

from configs.common import coco_detection


def get_config(arg=""):
    config = coco_detection.get_config(arg)
    config.model = dict(
        name="detr",
        num_classes=coco_detection.CLASSES,
        backbone=dict(name="resnet50", frozen_stages=1, norm="frozen_bn", out_levels=("c5",)),
    )
    config.data.host_transforms = coco_detection.ANY_SCALE
    config.schedule = dict(
        epochs=150,
        optimizer=dict(name="adamw", weight_decay=1e-4),
        learning_rate=dict(name="step", value=1e-4, milestones=(100,)),
        base_batch_size=16,
        clip_norm=0.1,
        rules=(dict(pattern="backbone/.*", learning_rate=0.1),),
    )
    config.pretrained = dict(backbone="torchvision:resnet50")
    return coco_detection.complete(config)
