"""AlexNet (Krizhevsky 2014), ImageNet-1k: the recipe of torchvision's weights (56.52% top-1)."""

from configs.classification import vgg16_imagenet
from configs.common import imagenet


def get_config(arg=""):
    config = vgg16_imagenet.get_config(arg)
    config.model = dict(name="alexnet", num_classes=imagenet.CLASSES, backbone=dict(dropout=0.5))
    return imagenet.complete(config)
