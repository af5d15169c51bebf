"""Swin-T (Liu et al. 2021), ImageNet-1k: the authors' recipe, as OpenMMLab's swin-tiny_16xb64_in1k (81.2% top-1)."""

from configs.common import imagenet


def get_config(arg=""):
    config = imagenet.get_config(arg, interpolation="bicubic")
    config.task = dict(name="classification", label_smoothing=0.1)
    config.model = dict(
        name="swin_tiny_patch4_window7_224", num_classes=imagenet.CLASSES, backbone=dict(drop_path_rate=0.2)
    )
    imagenet.augmentation(
        config, policy=imagenet.timm_policy(9), erasing=0.25, erasing_mode="normal", mixup=0.8, cutmix=1.0
    )
    config.data.batch_size = 1024
    config.schedule = dict(
        epochs=300,
        optimizer=dict(name="adamw", weight_decay=0.05),
        learning_rate=dict(name="cosine", value=5e-4, end=5e-6, start=20.0),  # at 1024: 1e-3 to 1e-5
        warmup=20.0,
        warmup_factor=1e-3,
        clip_norm=5.0,
        no_weight_decay_on_norm_and_bias=True,
        base_batch_size=512,
    )
    return imagenet.complete(config)
