"""Fast R-CNN, a narrow ResNet-18 with FPN: the digits of composed scenes, from made-up regions, with no download.

Half of the regions of a scene lie near its digits. What is not about regions is as in
`faster_rcnn_r18_fpn_digit_scenes`.
"""

from configs.common import digit_scenes_detection


def get_config(arg=""):
    config = digit_scenes_detection.get_config(arg)
    config.model = dict(
        name="fast_rcnn",
        num_classes=10,
        backbone=dict(name="resnet18", width=32),
        neck=dict(channels=64),
        width=256,
        stage=dict(sampler=dict(count=32)),
        suppression=dict(candidates=200),
    )
    config.data.source = dict(name="random_proposals", count=60, source=config.data.source)
    config.data.max_instances = 8
    return digit_scenes_detection.complete(config)
