"""FCN, ResNet-50 at stride 8, Pascal VOC 2012 with the additional maps (Long et al. 2015, in the dilated form).

OpenMMLab's `fcn_r50-d8_4xb4-40k_voc12aug-512x512` reaches 66.97 mIoU, with its own ResNet-50 of the same form.
"""

from configs.common import semantic_segmentation


def get_config(arg=""):
    config = semantic_segmentation.get_config(arg, dataset="voc12aug", crop=(512, 512))
    config.model = dict(
        name="fcn",
        num_classes=len(semantic_segmentation.VOC),
        backbone=dict(norm="sync_bn"),
        norm="sync_bn",
        losses=semantic_segmentation.ALL_PIXELS,
    )
    config.schedule = semantic_segmentation.schedule(40_000, batch_size=16)
    config.pretrained = dict(backbone="openmmlab:resnet50c")
    return semantic_segmentation.complete(config)
