"""DeepLab v2, a narrow VGG-11 with norms: the class of each pixel of composed scenes, from scratch."""

from configs.common import digit_scenes_segmentation


def get_config(arg=""):
    config = digit_scenes_segmentation.get_config(arg)
    config.model = dict(
        name="deeplab_v2_vgg16",
        num_classes=digit_scenes_segmentation.CLASSES,
        backbone=dict(depth=11, width=16, norm="bn"),
        width=64,
        dilations=(1, 2, 4),
        dropout=0.1,
    )
    return digit_scenes_segmentation.complete(config)
