"""A region proposal network, a narrow ResNet-18 with FPN: where the digits of composed scenes are, whatever they are.

What is not about classes is as in `faster_rcnn_r18_fpn_digit_scenes`; what counts is the recall of its proposals.
"""

from configs.common import digit_scenes_detection


def get_config(arg=""):
    config = digit_scenes_detection.get_config(arg)
    config.task = dict(name="detection", show_above=0.9, protocols=("proposals",))
    few = dict(candidates=200, max_detections=100)
    config.model = dict(
        name="rpn",
        num_classes=10,
        backbone=dict(name="resnet18", width=32),
        neck=dict(channels=64),
        proposals=dict(anchors=dict(scales=(6.0, 9.0)), sampler=dict(count=64), training=few, evaluation=few),
    )
    config.checkpoint.best_metric = "proposal_ar100"
    return digit_scenes_detection.complete(config)
