"""ResNet-18 with a 3x3 stem: which of the ten digits are in a composed scene; several labels, no download.

Scenes are made from a seed, of other scans for validation than for training. Digits turn freely, so the flip of
photographs is left out and the shift is small.
"""

from configs.common import base


def get_config(arg=""):
    config = base.get_config(arg)
    config.task = dict(name="classification", criterion="binary_cross_entropy", multi_label=True)
    config.model = dict(name="resnet18", num_classes=10, backbone=dict(stem="cifar", width=16))
    config.data = dict(
        source=dict(name="digit_scenes", preset="easy", num_examples=2000, annotations=("label",)),
        batch_size=64,
        image_size=(64, 64),
        channels=3,
        augment=(dict(name="random_crop_pad", padding=4),),
    )
    config.schedule = dict(
        epochs=15,
        optimizer=dict(name="adamw", weight_decay=0.05),
        learning_rate=dict(name="cosine", value=2e-3),
        warmup=1.0,
    )
    config.checkpoint.every_epochs = 5.0
    return base.complete(config)
