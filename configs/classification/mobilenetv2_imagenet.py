"""MobileNet v2 (Sandler et al. 2018), ImageNet-1k: the recipe of torchvision's IMAGENET1K_V1 weights (71.88% top-1)."""

from configs.common import imagenet


def get_config(arg=""):
    config = imagenet.get_config(arg)
    config.model = dict(name="mobilenetv2_100", num_classes=imagenet.CLASSES, dropout=0.2)
    config.data.batch_size = 256
    config.schedule = imagenet.torchvision_sgd(
        256, dict(name="exponential", value=0.045, gamma=0.98), epochs=300, weight_decay=4e-5
    )
    return imagenet.complete(config)
