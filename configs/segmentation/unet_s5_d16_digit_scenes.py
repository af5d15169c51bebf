"""The U-Net of OpenMMLab, narrow: the class of each pixel of composed scenes, from scratch."""

from configs.common import digit_scenes_segmentation


def get_config(arg=""):
    config = digit_scenes_segmentation.get_config(arg)
    config.model = dict(
        name="openmmlab/unet",
        num_classes=digit_scenes_segmentation.CLASSES,
        backbone=dict(width=16),
        width=16,
        auxiliary=dict(width=16),
    )
    return digit_scenes_segmentation.complete(config)
