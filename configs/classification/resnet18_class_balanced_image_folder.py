"""A folder of images with rare classes: each class is seen as often as the largest (`class_balanced`).

`--config.data.source.source.path=FOLDER --config.model.num_classes=N`; the validation part stays as it is.
"""

from configs.classification import resnet50_finetune_image_folder
from configs.common import base


def get_config(arg=""):
    config = resnet50_finetune_image_folder.get_config(arg)
    config.model = dict(name="resnet18", num_classes=1000, backbone=dict(frozen_stages=1))
    config.pretrained = dict(backbone="torchvision:resnet18")
    config.data.source = dict(name="class_balanced", source=dict(name="image_folder", path="data/images"))
    return base.complete(config)
