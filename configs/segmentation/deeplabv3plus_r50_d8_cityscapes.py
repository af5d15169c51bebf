"""DeepLabv3+, ResNet-50 at stride 8, Cityscapes (Chen et al. 2018); OpenMMLab's
`deeplabv3plus_r50-d8_4xb2-80k_cityscapes-512x1024` reaches 80.09 mIoU.
"""

from configs.common import semantic_segmentation


def get_config(arg=""):
    config = semantic_segmentation.get_config(arg, dataset="cityscapes", crop=(512, 1024))
    config.model = dict(
        name="deeplabv3plus",
        num_classes=len(semantic_segmentation.CITYSCAPES),
        backbone=dict(norm="sync_bn"),
        losses=semantic_segmentation.ALL_PIXELS,
    )
    config.schedule = semantic_segmentation.schedule(80_000, batch_size=8)
    config.pretrained = dict(backbone="openmmlab:resnet50c")
    return semantic_segmentation.complete(config)
