"""What recipes for segmenters on digit scenes share: the data and a short schedule for two CPU cores, from scratch.

Scenes are made from a seed, of other scans for validation than for training. Digits are 24 to 43 pixels high; they
turn by 15 degrees at most and have a direction, so nothing is mirrored. Classes are the ten digits and their ground.
"""

from configs.common import base
from jaxvision.config import Config

complete = base.complete
CLASSES = 11


def get_config(arg: str = "") -> Config:
    """2,000 scenes of 96 x 96 pixels, eight epochs."""
    config = base.get_config(arg)
    config.task = "semantic_segmentation"
    config.data = dict(
        source=dict(name="digit_scenes", preset="easy", num_examples=2000, annotations=("semantic",)),
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
    config.checkpoint.best_metric = "miou"
    config.log.every_steps = 25
    return config
