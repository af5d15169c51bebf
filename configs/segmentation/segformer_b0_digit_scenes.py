"""SegFormer with a narrow encoder: the class of each pixel of composed scenes, from scratch."""

from configs.common import digit_scenes_segmentation


def get_config(arg=""):
    config = digit_scenes_segmentation.get_config(arg)
    config.model = dict(
        name="segformer",
        num_classes=digit_scenes_segmentation.CLASSES,
        backbone=dict(widths=(16, 32, 80, 128)),
        width=64,
    )
    return digit_scenes_segmentation.complete(config)
