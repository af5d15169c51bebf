"""DeiT-S (Touvron et al. 2021), ImageNet-1k: the authors' recipe (79.9% top-1), 5e-4 for a batch of 512."""

from configs.common import imagenet


def get_config(arg=""):
    config = imagenet.get_config(arg, interpolation="bicubic")
    config.task = dict(name="classification", label_smoothing=0.1)
    config.model = dict(name="deit_small_patch16_224", num_classes=imagenet.CLASSES, backbone=dict(drop_path_rate=0.1))
    imagenet.augmentation(
        config, policy=imagenet.timm_policy(9), erasing=0.25, erasing_mode="normal", mixup=0.8, cutmix=1.0
    )
    config.data.batch_size = 1024
    config.data.repeats = 3
    config.schedule = dict(
        epochs=300,
        optimizer=dict(name="adamw", weight_decay=0.05),
        learning_rate=dict(name="cosine", value=5e-4, end=5e-6, by="epochs"),  # at 1024: 1e-3 to 1e-5
        warmup=5.0,
        warmup_factor=1e-3,  # from 1e-6
        no_weight_decay_on_norm_and_bias=True,
        ema=0.99996,
        base_batch_size=512,
    )
    return imagenet.complete(config)
