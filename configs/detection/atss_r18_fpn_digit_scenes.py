"""ATSS, a narrow ResNet-18 with FPN: finds the digits of composed scenes, from scratch, with no download.

The schedule is that of `retinanet_r18_fpn_digit_scenes`. Digits are 24 to 43 pixels high, so the anchors are half the
usual ones.
"""

from configs.common import base


def get_config(arg=""):
    config = base.get_config(arg)
    config.task = "detection"
    config.model = dict(
        name="atss",
        num_classes=10,
        backbone=dict(name="resnet18", width=32),
        neck=dict(channels=64),
        norm=dict(name="gn", groups=16),
        anchors=dict(scales=(4.0,)),
        depth=2,
    )
    config.data = dict(
        source=dict(name="digit_scenes", preset="easy", num_examples=2000, annotations=("boxes",)),
        batch_size=16,
        image_size=(96, 96),
        channels=3,
    )
    config.schedule = dict(
        epochs=8,
        optimizer=dict(name="adamw", weight_decay=0.05),
        learning_rate=dict(name="cosine", value=1e-3),
        warmup=0.5,
        clip_norm=5.0,
    )
    config.evaluation.every_epochs = 4.0
    config.checkpoint.every_epochs = 4.0
    config.checkpoint.best_metric = "ap"
    config.log.every_steps = 25
    return base.complete(config)
