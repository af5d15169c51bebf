"""A sliding window with a narrow ResNet-18 as its classifier: finds the digits of composed scenes, from scratch.

Windows have the heights and shapes of digits, 24 to 43 pixels high; each digit has one of an IoU above 0.5. The
schedule is that of `retinanet_r18_fpn_digit_scenes`.
"""

from configs.common import digit_scenes_detection


def get_config(arg=""):
    config = digit_scenes_detection.get_config(arg)
    config.model = dict(
        name="sliding_window",
        num_classes=10,
        backbone=dict(name="resnet18", width=16, out_levels=("c4",)),
        windows=dict(sizes=((28, 14), (28, 22), (38, 18), (38, 30)), step=0.25),
        crop=32,
        sampler=dict(count=64),
        suppression=dict(candidates=200, max_detections=20, iou_threshold=0.2),
    )
    return digit_scenes_detection.complete(config)
