"""Faster R-CNN on one level (DC5), a narrow ResNet-18: finds the digits of composed scenes, from scratch, no download.

What is not about the one level is as in `faster_rcnn_r18_fpn_digit_scenes`; anchors may reach beyond the picture, which
is hardly larger than the digits, and are 16 pixels apart, so the best one of a thin digit may overlap it by less than
the usual 0.3.
"""

from configs.common import digit_scenes_detection


def get_config(arg=""):
    config = digit_scenes_detection.get_config(arg)
    few = dict(candidates=200, max_detections=100)
    config.model = dict(
        name="faster_rcnn_dc5",
        num_classes=10,
        backbone=dict(name="resnet18", width=32, out_levels=("c5",), output_stride=16, contract_dilation=False),
        proposals=dict(
            anchors=dict(scales=(1.5, 2.25)),
            assigner=dict(least=0.1),
            sampler=dict(count=64),
            training=few,
            evaluation=few,
            border=-1.0,
        ),
        width=256,
        stage=dict(sampler=dict(count=32)),
        suppression=dict(candidates=200),
    )
    return digit_scenes_detection.complete(config)
