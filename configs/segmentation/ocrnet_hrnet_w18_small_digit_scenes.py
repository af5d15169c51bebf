"""OCRNet, a small HRNet: the class of each pixel of composed scenes, from scratch."""

from configs.common import digit_scenes_segmentation


def get_config(arg=""):
    config = digit_scenes_segmentation.get_config(arg)
    config.model = dict(
        name="ocrnet",
        num_classes=digit_scenes_segmentation.CLASSES,
        backbone=dict(name="hrnet_w18_small", width=8, first_width=16),
        width=64,
        key_width=32,
    )
    return digit_scenes_segmentation.complete(config)
