"""EfficientNet-B0 (Tan and Le 2019), ImageNet-1k: timm's recipe of its RandAugment weights (77.7% top-1).

Windows of training are resampled by bicubic interpolation; timm draws bilinear or bicubic for each.
"""

from configs.common import imagenet


def get_config(arg=""):
    config = imagenet.get_config(arg, interpolation="bicubic")  # timm: 224 / 0.875
    config.task = dict(name="classification", label_smoothing=0.1)
    config.model = dict(
        name="efficientnet_b0", num_classes=imagenet.CLASSES, dropout=0.2, backbone=dict(drop_path_rate=0.2)
    )
    policy = imagenet.timm_policy(9, increasing=False, interpolation="random")
    imagenet.augmentation(config, policy=policy, erasing=0.2, erasing_mode="normal")
    config.data.batch_size = 768
    config.schedule = dict(
        epochs=450,
        optimizer=dict(name="rmsprop_tf", decay=0.9, eps=1e-3, momentum=0.9, weight_decay=1e-5),
        learning_rate=dict(name="exponential", value=0.048, gamma=0.97, every=2.4),
        warmup=3.0,
        warmup_factor=1e-6 / 0.048,
        no_weight_decay_on_norm_and_bias=True,
        ema=0.9999,
        base_batch_size=768,
    )
    return imagenet.complete(config)
