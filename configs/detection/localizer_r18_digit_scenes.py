"""Single-object localisation, a narrow ResNet-18: the one digit of composed scenes and its box, from scratch.

A scene has exactly one digit, and a prediction is one detection. The schedule is that of
`retinanet_r18_fpn_digit_scenes`.
"""

from configs.common import digit_scenes_detection


def get_config(arg=""):
    config = digit_scenes_detection.get_config(arg)
    config.task = dict(name="detection", protocols=("localization", "coco"), show_above=0.5)
    config.data.source.objects = (1, 1)
    config.model = dict(name="localizer", num_classes=10, backbone=dict(name="resnet18", width=32))
    config.checkpoint.best_metric = "localization_top1"
    return digit_scenes_detection.complete(config)
