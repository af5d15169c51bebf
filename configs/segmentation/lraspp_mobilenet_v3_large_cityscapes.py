"""LR-ASPP, MobileNetV3-Large at stride 8, Cityscapes (Howard et al. 2019); OpenMMLab's
`mobilenet-v3-d8_lraspp_4xb4-320k_cityscapes-512x1024` reaches 69.54 mIoU.

The rate falls over all 320,000 steps, as when those weights were made (version 0 of MMSegmentation). Since version 1
nothing reads the `runner` of that file, which leaves the 160,000 steps of its schedule.
"""

from configs.common import semantic_segmentation


def get_config(arg=""):
    config = semantic_segmentation.get_config(arg, dataset="cityscapes", crop=(512, 1024))
    config.data.batch_size = 16
    config.model = dict(
        name="lraspp",
        num_classes=len(semantic_segmentation.CITYSCAPES),
        backbone=dict(norm=dict(name="sync_bn", epsilon=1e-3)),
        norm=dict(name="sync_bn", epsilon=1e-3),
        losses=semantic_segmentation.ALL_PIXELS,
    )
    config.schedule = semantic_segmentation.schedule(320_000, batch_size=16)
    config.pretrained = dict(backbone="openmmlab:mobilenet_v3_large")
    return semantic_segmentation.complete(config)
