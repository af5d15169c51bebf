"""DeepLabv3+ of segmentation-models, a narrow ResNet-18: the class of each pixel of composed scenes, from scratch."""

from configs.common import digit_scenes_segmentation


def get_config(arg=""):
    config = digit_scenes_segmentation.get_config(arg)
    config.model = dict(
        name="smp/deeplabv3plus",
        num_classes=digit_scenes_segmentation.CLASSES,
        backbone=dict(name="resnet18", width=32, output_stride=16),
        width=64,
        dilations=(1, 2, 3),
        inner_dropout=0.1,
    )
    return digit_scenes_segmentation.complete(config)
