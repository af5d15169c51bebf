"""What recipes for detectors on digit scenes share: the data and a short schedule for two CPU cores, from scratch.

Scenes are made from a seed, of other scans for validation than for training. Digits are 24 to 43 pixels high; they
turn by 15 degrees at most and have a direction, so nothing is mirrored.
"""

from configs.common import base
from jaxvision.config import Config

complete = base.complete


def get_config(arg: str = "", *, annotations: tuple[str, ...] = ("boxes",)) -> Config:
    """2,000 scenes of 96 x 96 pixels, eight epochs.

    Args:
      arg: of the config.
      annotations: of the scenes.
    """
    config = base.get_config(arg)
    config.task = dict(name="detection", show_above=0.5)
    config.data = dict(
        source=dict(name="digit_scenes", preset="easy", num_examples=2000, annotations=annotations),
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
    return config
