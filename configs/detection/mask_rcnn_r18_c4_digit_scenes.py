"""Mask R-CNN on one level (C4), a narrow ResNet-18: finds and draws the digits of composed scenes, from scratch.

What is not about masks is as in `faster_rcnn_r18_c4_digit_scenes`; masks have 8 x 8 cells, and anchors may reach beyond
the picture, which is hardly larger than the digits.
"""

from configs.common import digit_scenes_detection


def get_config(arg=""):
    config = digit_scenes_detection.get_config(arg, annotations=("boxes", "masks"))
    config.task = dict(name="instance_segmentation", show_above=0.5)
    few = dict(candidates=200, max_detections=50)
    config.model = dict(
        name="mask_rcnn_c4",
        num_classes=10,
        backbone=dict(name="resnet18", width=32, out_levels=("c4",), norm=dict(name="gn", groups=8)),
        proposals=dict(
            anchors=dict(scales=(1.5, 2.25)),
            assigner=dict(least=0.1),
            sampler=dict(count=64),
            training=few,
            evaluation=few,
            border=-1.0,
        ),
        pooling=dict(size=8),
        stage=dict(sampler=dict(count=16)),
        suppression=dict(candidates=200, max_detections=20),
        mask_pooling=dict(size=8),
        mask_width=64,
    )
    config.checkpoint.best_metric = "mask_ap"
    return digit_scenes_detection.complete(config)
