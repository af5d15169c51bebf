"""DeepLabv3 of segmentation-models at stride 8, a narrow ResNet-18: the class of each pixel of composed scenes."""

from configs.common import digit_scenes_segmentation


def get_config(arg=""):
    config = digit_scenes_segmentation.get_config(arg)
    config.model = dict(
        name="smp/deeplabv3",
        num_classes=digit_scenes_segmentation.CLASSES,
        backbone=dict(name="resnet18", width=32, output_stride=8),
        width=64,
        dilations=(2, 4, 6),
        inner_dropout=0.1,
    )
    return digit_scenes_segmentation.complete(config)
