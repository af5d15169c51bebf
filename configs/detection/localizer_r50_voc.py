"""Single-object localisation, ResNet-50, Pascal VOC 2007: the class and the box of the largest object of a photograph.

A starting point, not a published recipe: ImageNet's localisation task (Russakovsky et al. 2015, section 4.2) on a small
data set with boxes. Pictures are stretched to the canvas, in pixels of which the box is learned.
"""

from configs.common import voc_detection


def get_config(arg=""):
    config = voc_detection.get_config(arg, image_size=224)
    config.task = dict(name="detection", protocols=("localization", "voc07"))
    config.model = dict(
        name="localizer", num_classes=voc_detection.CLASSES, guesses=5, backbone=dict(name="resnet50", frozen_stages=1)
    )
    config.schedule = voc_detection.schedule(learning_rate=0.01)
    config.pretrained = dict(backbone="torchvision:resnet50")
    config.checkpoint.best_metric = "localization_top1"
    return voc_detection.complete(config)
