"""FCN, ResNet-50 at stride 8, ADE20K (Long et al. 2015, in the dilated form).

OpenMMLab's `fcn_r50-d8_4xb4-160k_ade20k-512x512` reaches 36.10 mIoU, with its own ResNet-50 of the same form.
"""

from configs.common import semantic_segmentation


def get_config(arg=""):
    config = semantic_segmentation.get_config(arg, dataset="ade20k", crop=(512, 512))
    config.model = dict(
        name="fcn",
        num_classes=len(semantic_segmentation.ADE20K),
        backbone=dict(norm="sync_bn"),
        norm="sync_bn",
        losses=semantic_segmentation.ALL_PIXELS,
    )
    config.schedule = semantic_segmentation.schedule(160_000, batch_size=16)
    config.pretrained = dict(backbone="openmmlab:resnet50c")
    return semantic_segmentation.complete(config)
