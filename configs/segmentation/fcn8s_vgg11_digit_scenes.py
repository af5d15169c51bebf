"""FCN-8s, a narrow VGG-11 with norms: the class of each pixel of composed scenes, from scratch."""

from configs.common import digit_scenes_segmentation


def get_config(arg=""):
    config = digit_scenes_segmentation.get_config(arg)
    config.model = dict(
        name="fcn8s",
        num_classes=digit_scenes_segmentation.CLASSES,
        backbone=dict(depth=11, width=16, hidden=128, window=3, pad=32, dropout=0.1, norm="bn"),
        skip_scales=(1.0, 1.0),
    )
    return digit_scenes_segmentation.complete(config)
