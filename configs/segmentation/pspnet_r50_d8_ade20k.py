"""PSPNet, ResNet-50 at stride 8, ADE20K (Zhao et al. 2017); OpenMMLab's
`pspnet_r50-d8_4xb4-160k_ade20k-512x512` reaches 42.48 mIoU.
"""

from configs.common import semantic_segmentation


def get_config(arg=""):
    config = semantic_segmentation.get_config(arg, dataset="ade20k", crop=(512, 512))
    config.model = dict(
        name="pspnet",
        num_classes=len(semantic_segmentation.ADE20K),
        backbone=dict(norm="sync_bn"),
        losses=semantic_segmentation.ALL_PIXELS,
    )
    config.schedule = semantic_segmentation.schedule(160_000, batch_size=16)
    config.pretrained = dict(backbone="openmmlab:resnet50c")
    return semantic_segmentation.complete(config)
