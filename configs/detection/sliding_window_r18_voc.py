"""A sliding window with ResNet-18 as its classifier, Pascal VOC 2007: the baseline to compare detectors with.

A starting point, not a published recipe. The 1,083 windows of an image are classified one by one.
"""

from configs.common import voc_detection


def get_config(arg=""):
    config = voc_detection.get_config(arg, image_size=448)
    config.model = dict(
        name="sliding_window",
        num_classes=voc_detection.CLASSES,
        backbone=dict(name="resnet18", norm="frozen_bn"),
        windows=dict(
            sizes=((64, 64), (96, 96), (96, 192), (192, 96), (192, 192), (192, 384), (384, 192), (320, 320), (448, 448))
        ),
        crop=96,
    )
    config.schedule = voc_detection.schedule(learning_rate=0.01)
    config.pretrained = dict(backbone="torchvision:resnet18")
    return voc_detection.complete(config)
