"""ViT-B/16 (Dosovitskiy et al. 2020), ImageNet-1k from scratch: torchvision's IMAGENET1K_V1 recipe (81.07% top-1)."""

from configs.common import imagenet


def get_config(arg=""):
    config = imagenet.get_config(arg)
    config.task = dict(name="classification", label_smoothing=0.11)
    config.model = dict(name="vit_base_patch16_224", num_classes=imagenet.CLASSES)
    policy = dict(name="torchvision/randaugment", interpolation="bilinear")
    imagenet.augmentation(config, policy=policy, mixup=0.2, cutmix=1.0)
    config.data.batch_size = 4096
    config.data.repeats = 3
    config.schedule = dict(
        epochs=300,
        optimizer=dict(name="adamw", weight_decay=0.3),
        learning_rate=dict(name="cosine", value=3e-3, start=30.0, by="epochs"),
        warmup=30.0,
        warmup_factor=0.033,
        clip_norm=1.0,
        ema=imagenet.average(4096, 300),
        base_batch_size=4096,
    )
    return imagenet.complete(config)
