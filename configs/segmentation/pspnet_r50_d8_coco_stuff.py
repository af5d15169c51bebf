"""PSPNet, ResNet-50 at stride 8, COCO-Stuff 164k (Zhao et al. 2017); OpenMMLab's
`pspnet_r50-d8_4xb4-80k_coco-stuff164k-512x512` reaches 38.80 mIoU.
"""

from configs.common import semantic_segmentation


def get_config(arg=""):
    config = semantic_segmentation.get_config(arg, dataset="coco_stuff", crop=(512, 512))
    config.model = dict(
        name="pspnet",
        num_classes=len(semantic_segmentation.COCO_STUFF),
        backbone=dict(norm="sync_bn"),
        losses=semantic_segmentation.ALL_PIXELS,
    )
    config.schedule = semantic_segmentation.schedule(80_000, batch_size=16)
    config.pretrained = dict(backbone="openmmlab:resnet50c")
    return semantic_segmentation.complete(config)
