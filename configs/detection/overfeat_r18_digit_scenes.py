"""OverFeat with a narrow ResNet-18 as its convolutions: finds the digits of composed scenes, from scratch.

A window is 48 pixels at scale 1 and its core 36; digits are 24 to 43 pixels high. The schedule is that of
`retinanet_r18_fpn_digit_scenes`.
"""

from configs.common import digit_scenes_detection


def get_config(arg=""):
    config = digit_scenes_detection.get_config(arg)
    config.model = dict(
        name="overfeat",
        num_classes=10,
        backbone=dict(name="resnet18", width=32, out_levels=("c3",)),
        pool=2,
        window=3,
        cell=None,
        scales=(1.0, 1.375),
        hidden=(128, 128),
        box_hidden=(128, 128),
        candidates=100,
        max_detections=20,
    )
    return digit_scenes_detection.complete(config)
