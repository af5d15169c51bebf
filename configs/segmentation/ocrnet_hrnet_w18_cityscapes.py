"""OCRNet, HRNet-W18, Cityscapes (Yuan et al. 2020); OpenMMLab's `ocrnet_hr18_4xb2-160k_cityscapes-512x1024` reaches
79.47 mIoU.
"""

from configs.common import semantic_segmentation


def get_config(arg=""):
    config = semantic_segmentation.get_config(arg, dataset="cityscapes", crop=(512, 1024))
    config.model = dict(
        name="ocrnet",
        num_classes=len(semantic_segmentation.CITYSCAPES),
        backbone=dict(norm="sync_bn"),
        losses=semantic_segmentation.ALL_PIXELS,
    )
    config.schedule = semantic_segmentation.schedule(160_000, batch_size=8)
    config.pretrained = dict(backbone="openmmlab:hrnet_w18")
    return semantic_segmentation.complete(config)
