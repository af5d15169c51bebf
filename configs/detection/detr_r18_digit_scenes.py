"""DETR, a narrow ResNet-18: finds the digits of composed scenes, from scratch, with no download.

The transformer has a quarter of the usual width and two layers on each side, and sees cells of 16 pixels. Four scenes
are learned by heart in 150 steps (AP50 1.0; batches of 4). DETR learns slowly, hence 40 epochs; how well it does on
held-out scenes was not measured.
"""

from configs.common import digit_scenes_detection


def get_config(arg=""):
    config = digit_scenes_detection.get_config(arg)
    config.model = dict(
        name="detr",
        num_classes=10,
        backbone=dict(name="resnet18", width=32, out_levels=("c4",)),
        neck=dict(channels=64, in_levels=("c4",)),
        queries=20,
        encoder_layers=2,
        decoder_layers=2,
        heads=4,
        hidden=128,
        dropout=0.0,
        attention_dropout=0.0,
        max_detections=20,
    )
    config.schedule.update(
        epochs=40,
        optimizer=dict(name="adamw", weight_decay=1e-4),
        learning_rate=dict(name="cosine", value=5e-4),
        clip_norm=1.0,
    )
    return digit_scenes_detection.complete(config)
