"""LR-ASPP, a MobileNetV3-Large of half the width: the class of each pixel of composed scenes, from scratch."""

from configs.common import digit_scenes_segmentation


def get_config(arg=""):
    config = digit_scenes_segmentation.get_config(arg)
    config.model = dict(
        name="lraspp",
        num_classes=digit_scenes_segmentation.CLASSES,
        backbone=dict(width=0.5),
        width=64,
    )
    return digit_scenes_segmentation.complete(config)
