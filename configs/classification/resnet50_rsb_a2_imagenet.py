"""ResNet-50, ImageNet-1k: procedure A2 of "ResNet strikes back" (Wightman et al. 2021; 79.8% top-1).

Binary cross-entropy against every class that a mixed image shows (in more than a fifth of it), LAMB, repeated
augmentation, 300 epochs. Numbers are those of OpenMMLab's resnet50_8xb256-rsb-a2-300e_in1k; that one has soft targets.
"""

from configs.common import imagenet


def recipe(arg=""):
    """The config before it is completed."""
    config = imagenet.get_config(arg, resize=236, interpolation="bicubic")  # 224 / 0.95
    config.task = dict(name="classification", criterion="binary_cross_entropy", target_threshold=0.2)
    config.model = dict(name="resnet50", num_classes=imagenet.CLASSES, backbone=dict(drop_path_rate=0.05))
    imagenet.augmentation(config, policy=imagenet.timm_policy(7), mixup=0.1, cutmix=1.0)
    config.data.batch_size = 2048
    config.data.repeats = 3
    config.schedule = dict(
        epochs=300,
        optimizer=dict(name="lamb", weight_decay=0.02),
        learning_rate=dict(name="cosine", value=5e-3, end=1e-6, start=5.0),
        warmup=5.0,
        warmup_factor=1e-4,
        clip_norm=1.0,  # built into timm's Lamb
        no_weight_decay_on_norm_and_bias=True,
        base_batch_size=2048,
    )
    return config


def get_config(arg=""):
    return imagenet.complete(recipe(arg))
