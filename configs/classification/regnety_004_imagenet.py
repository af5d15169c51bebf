"""RegNetY-400MF (Radosavovic et al. 2020), ImageNet-1k: the recipe of torchvision's IMAGENET1K_V1 weights (74.05%)."""

from configs.common import imagenet


def get_config(arg=""):
    config = imagenet.get_config(arg)
    config.model = dict(name="regnety_004", num_classes=imagenet.CLASSES)
    config.data.batch_size = 1024
    config.schedule = imagenet.torchvision_sgd(
        1024, dict(name="cosine", value=0.4, start=5.0, by="epochs"), epochs=100, weight_decay=5e-5
    )
    config.schedule.update(warmup=5.0, warmup_factor=0.1)
    return imagenet.complete(config)
