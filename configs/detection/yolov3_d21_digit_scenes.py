"""YOLOv3 on a narrow Darknet-21: finds the digits of composed scenes, from scratch, with no download.

The schedule is that of `retinanet_r18_fpn_digit_scenes`. Digits are 24 to 43 pixels high, and so are the anchors of the
two finer levels, where most of them lie.
"""

from configs.common import digit_scenes_detection


def get_config(arg=""):
    config = digit_scenes_detection.get_config(arg)
    config.model = dict(
        name="yolov3",
        num_classes=10,
        backbone=dict(name="darknet21", width=12, slope=0.1),
        neck=dict(channels=32),
        shapes=(
            ((12.0, 24.0), (18.0, 26.0), (24.0, 26.0)),
            ((18.0, 34.0), (26.0, 32.0), (32.0, 36.0)),
            ((24.0, 42.0), (34.0, 42.0), (44.0, 44.0)),
        ),
    )
    return digit_scenes_detection.complete(config)
