"""Cascade Mask R-CNN, a narrow ResNet-18 with FPN: finds and draws the digits of composed scenes, with no download.

What is not about the cascade is as in `mask_rcnn_r18_fpn_digit_scenes`.
"""

from configs.common import digit_scenes_detection


def get_config(arg=""):
    config = digit_scenes_detection.get_config(arg, annotations=("boxes", "masks"))
    config.task = dict(name="instance_segmentation", show_above=0.5)
    few = dict(candidates=200, max_detections=100)
    config.model = dict(
        name="cascade_mask_rcnn",
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
        suppression=dict(candidates=200, max_detections=20),
        mask_width=64,
        mask_depth=2,
    )
    config.checkpoint.best_metric = "mask_ap"
    return digit_scenes_detection.complete(config)
