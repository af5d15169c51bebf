"""OCRNet, HRNet-W48, Cityscapes (Yuan et al. 2020); OpenMMLab's `ocrnet_hr48_4xb2-160k_cityscapes-512x1024` reaches
81.35 mIoU. What is not about the width is as in `ocrnet_hrnet_w18_cityscapes`.
"""

from configs.common import semantic_segmentation
from configs.segmentation import ocrnet_hrnet_w18_cityscapes


def get_config(arg=""):
    config = ocrnet_hrnet_w18_cityscapes.get_config(arg)
    config.model = dict(
        name="ocrnet",
        num_classes=len(semantic_segmentation.CITYSCAPES),
        backbone=dict(name="hrnet_w48", upsample="bilinear", norm="sync_bn"),
        losses=semantic_segmentation.ALL_PIXELS,
    )
    config.pretrained = dict(backbone="openmmlab:hrnet_w48")
    return semantic_segmentation.complete(config)
