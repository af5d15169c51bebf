"""FCN, ResNet-50 at stride 8, Cityscapes (Long et al. 2015, in the dilated form).

OpenMMLab's `fcn_r50-d8_4xb2-40k_cityscapes-512x1024` reaches 72.25 mIoU, with its own ResNet-50 of the same form.
"""

from configs.common import semantic_segmentation


def get_config(arg=""):
    config = semantic_segmentation.get_config(arg, dataset="cityscapes", crop=(512, 1024))
    config.model = dict(
        name="fcn",
        num_classes=len(semantic_segmentation.CITYSCAPES),
        backbone=dict(norm="sync_bn"),
        norm="sync_bn",
        losses=semantic_segmentation.ALL_PIXELS,
    )
    config.schedule = semantic_segmentation.schedule(40_000, batch_size=8)
    config.pretrained = dict(backbone="openmmlab:resnet50c")
    return semantic_segmentation.complete(config)
