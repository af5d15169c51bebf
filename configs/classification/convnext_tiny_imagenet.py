"""ConvNeXt-T (Liu et al. 2022), ImageNet-1k: the authors' recipe (82.1% top-1), for a batch of 4096."""

from configs.common import imagenet


def get_config(arg=""):
    config = imagenet.get_config(arg, interpolation="bicubic")
    config.task = dict(name="classification", label_smoothing=0.1)
    config.model = dict(name="convnext_tiny", num_classes=imagenet.CLASSES, backbone=dict(drop_path_rate=0.1))
    imagenet.augmentation(
        config, policy=imagenet.timm_policy(9), erasing=0.25, erasing_mode="normal", mixup=0.8, cutmix=1.0
    )
    config.data.batch_size = 4096
    config.schedule = dict(
        epochs=300,
        optimizer=dict(name="adamw", weight_decay=0.05),
        learning_rate=dict(name="cosine", value=4e-3, end=1e-6, start=20.0),
        warmup=20.0,
        no_weight_decay_on_norm_and_bias=True,
        ema=0.9999,
        base_batch_size=4096,
    )
    return imagenet.complete(config)
