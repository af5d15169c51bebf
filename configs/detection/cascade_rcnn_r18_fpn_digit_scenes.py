"""Cascade R-CNN, a narrow ResNet-18 with FPN: finds the digits of composed scenes, from scratch, with no download.

What is not about the cascade is as in `faster_rcnn_r18_fpn_digit_scenes`.
"""

from configs.common import digit_scenes_detection


def get_config(arg=""):
    config = digit_scenes_detection.get_config(arg)
    few = dict(candidates=200, max_detections=100)
    config.model = dict(
        name="cascade_rcnn",
        num_classes=10,
        backbone=dict(name="resnet18", width=32),
        neck=dict(channels=64),
        proposals=dict(
            anchors=dict(scales=(6.0, 9.0)),
            sampler=dict(count=64),
            training=few,
            evaluation=few,
            border=-1.0,  # digits lie at the edges, too
        ),
        width=256,
        stage=dict(sampler=dict(count=32)),
        suppression=dict(candidates=200),
    )
    return digit_scenes_detection.complete(config)
