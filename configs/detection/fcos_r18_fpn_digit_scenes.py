"""FCOS, a narrow ResNet-18 with FPN: finds the digits of composed scenes, from scratch, with no download.

The schedule is that of `retinanet_r18_fpn_digit_scenes`. Digits are 24 to 43 pixels high, so each level learns half the
usual distances.
"""

from configs.common import digit_scenes_detection


def get_config(arg=""):
    config = digit_scenes_detection.get_config(arg)
    config.task = "detection"
    config.model = dict(
        name="fcos",
        num_classes=10,
        backbone=dict(name="resnet18", width=32),
        neck=dict(channels=64),
        norm=dict(name="gn", groups=16),
        reach=4.0,
        depth=2,
    )
    return digit_scenes_detection.complete(config)
