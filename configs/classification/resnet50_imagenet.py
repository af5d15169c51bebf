"""ResNet-50 (He et al. 2015), ImageNet-1k: the recipe of torchvision's IMAGENET1K_V1 weights (76.13% top-1)."""

from configs.common import imagenet


def get_config(arg=""):
    config = imagenet.get_config(arg)
    config.model = dict(name="resnet50", num_classes=imagenet.CLASSES)
    config.data.batch_size = 256
    config.schedule = imagenet.torchvision_sgd(256, dict(name="step", value=0.1, milestones=(30, 60)), epochs=90)
    return imagenet.complete(config)
