"""Faster R-CNN on one level (C4), a narrow ResNet-18: finds the digits of composed scenes, from scratch, no download.

What is not about the one level is as in `faster_rcnn_r18_fpn_digit_scenes`. Regions are pooled to 8 x 8 cells.
Anchors are 16 pixels apart, so the best one of a thin digit may overlap it by less than the usual 0.3.
"""

from configs.common import digit_scenes_detection


def get_config(arg=""):
    config = digit_scenes_detection.get_config(arg)
    few = dict(candidates=200, max_detections=50)
    config.model = dict(
        name="faster_rcnn_c4",
        num_classes=10,
        backbone=dict(name="resnet18", width=32, out_levels=("c4",), norm=dict(name="gn", groups=8)),
        proposals=dict(
            anchors=dict(scales=(1.5, 2.25)),
            assigner=dict(least=0.1),
            sampler=dict(count=64),
            training=few,
            evaluation=few,
        ),
        pooling=dict(size=8),
        stage=dict(sampler=dict(count=16)),
        suppression=dict(candidates=200),
    )
    return digit_scenes_detection.complete(config)
