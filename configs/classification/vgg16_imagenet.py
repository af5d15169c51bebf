"""VGG-16 (Simonyan and Zisserman 2014), ImageNet-1k: the recipe of torchvision's weights (71.59% top-1)."""

from configs.common import imagenet


def get_config(arg=""):
    config = imagenet.get_config(arg)
    config.model = dict(name="vgg16", num_classes=imagenet.CLASSES, dropout=0.5, backbone=dict(dropout=0.5))
    config.data.batch_size = 256
    config.schedule = imagenet.torchvision_sgd(256, dict(name="step", value=0.01, milestones=(30, 60)), epochs=90)
    return imagenet.complete(config)
