"""YOLOX-S with half of its channels: finds the digits of composed scenes, from scratch, with no download.

The first six of eight epochs see mosaics, the closing two plain scenes and the L1 distance of boxes. Nothing is
mirrored or turned: digits have a direction. The average of weights is evaluated.
"""

from configs.common import digit_scenes_detection


def get_config(arg=""):
    config = digit_scenes_detection.get_config(arg)
    config.model = dict(
        name="yolox_s", num_classes=10, backbone=dict(name="cspdarknet_s", widen=0.25), neck=dict(channels=64)
    )
    config.data.batch_size = 32
    config.data.augment = (dict(name="mosaic", center=(0.2, 0.8), scale=(0.8, 1.2)),)
    config.schedule.closing_epochs = 2.0
    config.schedule.learning_rate = dict(name="cosine", value=2e-3)
    config.schedule.ema = 0.998
    config.schedule.ema_ramp = 100.0
    return digit_scenes_detection.complete(config)
