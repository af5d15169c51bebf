"""ATSS, a narrow ResNet-18 with FPN: finds the digits of composed scenes, from scratch, with no download.

The schedule is that of `retinanet_r18_fpn_digit_scenes`. Digits are 24 to 43 pixels high, so the anchors are half the
usual ones.
"""

from configs.common import digit_scenes_detection


def get_config(arg=""):
    config = digit_scenes_detection.get_config(arg)
    config.task = "detection"
    config.model = dict(
        name="atss",
        num_classes=10,
        backbone=dict(name="resnet18", width=32),
        neck=dict(channels=64),
        norm=dict(name="gn", groups=16),
        anchors=dict(scales=(4.0,)),
        depth=2,
    )
    return digit_scenes_detection.complete(config)
