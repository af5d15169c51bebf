"""Panoptic FPN, a narrow ResNet-18: finds and draws the digits of composed scenes and their ground, from scratch.

What is not about stuff is as in `mask_rcnn_r18_fpn_digit_scenes`; the ground is the one class of it.
"""

from configs.common import digit_scenes_detection


def get_config(arg=""):
    config = digit_scenes_detection.get_config(arg, annotations=("panoptic",))
    config.task = dict(name="panoptic_segmentation", show_above=0.5)
    few = dict(candidates=200, max_detections=100)
    config.model = dict(
        name="panoptic_fpn",
        num_classes=11,
        num_stuff=1,
        backbone=dict(name="resnet18", width=32),
        neck=dict(channels=64),
        proposals=dict(anchors=dict(scales=(6.0, 9.0)), sampler=dict(count=64), training=few, evaluation=few),
        width=256,
        stage=dict(sampler=dict(count=32)),
        suppression=dict(score_threshold=0.5, candidates=200, max_detections=20),
        mask_width=64,
        mask_depth=2,
        semantic_width=64,
        semantic_norm=dict(groups=16),
        fusion=dict(least_stuff=256.0),
    )
    config.checkpoint.best_metric = "pq"
    return digit_scenes_detection.complete(config)
