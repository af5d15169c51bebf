"""SSD on a narrow ResNet-18: finds the digits of composed scenes, from scratch, with no download.

The schedule is that of `retinanet_r18_fpn_digit_scenes`. VGG without norms learns too slowly for it. Four maps of 12,
6, 3 and 1 cells have default boxes around the sizes of digits, 24 to 43 pixels high.
"""

from configs.common import digit_scenes_detection


def get_config(arg=""):
    config = digit_scenes_detection.get_config(arg)
    config.model = dict(
        name="ssd300",
        num_classes=10,
        backbone=dict(name="resnet18", width=32, out_levels=("c3", "c4")),
        neck=dict(channels=(64, 64), down=(2, 1), padding=(1, 0)),
        anchors=dict(
            sizes=(20.0, 28.0, 38.0, 50.0, 70.0),
            ratios=((1.5, 2.0),) * 4,
            strides=(8, 16, 32, 96),
        ),
    )
    return digit_scenes_detection.complete(config)
