"""DeepLab v2 at two scales, a narrow ResNet-18: the class of each pixel of composed scenes, from scratch."""

from configs.common import digit_scenes_segmentation


def get_config(arg=""):
    config = digit_scenes_segmentation.get_config(arg)
    config.model = dict(
        name="deeplab_v2",
        num_classes=digit_scenes_segmentation.CLASSES,
        backbone=dict(name="resnet18", width=32, output_stride=8),
        dilations=(1, 2, 4),
        scales=(1.0, 0.5),
    )
    return digit_scenes_segmentation.complete(config)
