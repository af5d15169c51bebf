"""Semantic FPN, a narrow ResNet-18: the class of each pixel of composed scenes, from scratch."""

from configs.common import digit_scenes_segmentation


def get_config(arg=""):
    config = digit_scenes_segmentation.get_config(arg)
    config.model = dict(
        name="fpn",
        num_classes=digit_scenes_segmentation.CLASSES,
        backbone=dict(name="resnet18", width=16),
        pyramid_channels=64,
        branch_channels=32,
        branch_norm=dict(groups=8),
    )
    return digit_scenes_segmentation.complete(config)
