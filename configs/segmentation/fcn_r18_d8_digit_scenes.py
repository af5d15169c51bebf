"""The dilated FCN, a narrow ResNet-18 at stride 8: the class of each pixel of composed scenes, from scratch."""

from configs.common import digit_scenes_segmentation


def get_config(arg=""):
    config = digit_scenes_segmentation.get_config(arg)
    config.model = dict(
        name="fcn",
        num_classes=digit_scenes_segmentation.CLASSES,
        backbone=dict(name="resnet18", width=32, output_stride=8),
        width=64,
        auxiliary=dict(width=32),
    )
    return digit_scenes_segmentation.complete(config)
