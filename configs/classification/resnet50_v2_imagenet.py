"""ResNet-50, ImageNet-1k: the recipe of torchvision's IMAGENET1K_V2 weights (80.86% top-1).

Trained at 176 pixels and evaluated at 224 (Touvron et al. 2019); normalisation has no weight decay.
"""

from configs.common import imagenet


def get_config(arg=""):
    config = imagenet.get_config(arg, train_size=176, resize=232)
    config.task = dict(name="classification", label_smoothing=0.1)
    config.model = dict(name="resnet50", num_classes=imagenet.CLASSES)
    policy = dict(name="trivial_augment", interpolation="bilinear")
    imagenet.augmentation(config, policy=policy, erasing=0.1, mixup=0.2, cutmix=1.0)
    config.data.batch_size = 1024
    config.data.repeats = 4
    config.schedule = imagenet.torchvision_sgd(
        1024, dict(name="cosine", value=0.5, start=5.0, by="epochs"), epochs=600, weight_decay=2e-5
    )
    config.schedule.update(
        warmup=5.0,
        warmup_factor=0.01,
        rules=(dict(pattern="backbone/.*/(scale|bias)", weight_decay=0.0),),
        ema=imagenet.average(1024, 600),
    )
    return imagenet.complete(config)
