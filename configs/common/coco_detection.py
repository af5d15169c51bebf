"""What recipes for detectors on COCO share: images of 800 x 1333 pixels, a flip, the schedules "1x" and "2x".

The numbers are those of Detectron's and OpenMMLab's `*_1x_coco` configs: 12 epochs of SGD with batches of 16, the rate
a tenth from epoch 8 and a hundredth from epoch 11 on. What is done otherwise: images lie on a wide canvas of
800 x 1344 pixels or a tall one, in training on each with the same probability, where an image of the other orientation
becomes smaller; Detectron groups images by their orientation, as is done here in evaluation alone. Scales and biases of
the backbone's norms are constants, as in Detectron and torchvision; OpenMMLab trains them, on constant statistics.

tfds:coco/2017 is downloaded by TensorFlow Datasets; a folder of the original files:
`--config.data.source=coco:DIR`.
"""

from typing import Any

from configs.common import base
from jaxvision.config import Config

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLASSES = 80
ANY_SCALE = ("random_scaled_crop", dict(name="random_short_side", long=1333))
"""Shorter sides of 480 to 800 pixels, in every second picture after a random window was cut (DETR and its kin)."""


def complete(config: Config) -> Config:
    """`base.complete`; a recipe that chose other canvases for training has one for evaluation, its `image_size`."""
    if config.data.buckets != config.data.eval_buckets:
        config.data.eval_buckets = ()
    return base.complete(config)


def get_config(arg: str = "", *, short: int = 800, long: int = 1333) -> Config:
    """COCO 2017 boxes.

    Args:
      arg: of the config.
      short, long: the shorter side of images, unless the longer one would become longer than this.
    """
    config = base.get_config(arg)
    config.task = "detection"
    resize = dict(name="resize_side", short=short, long=long)
    high, wide = -(-short // 32) * 32, -(-long // 32) * 32
    config.data = dict(
        source="tfds_records:coco/2017",
        batch_size=16,
        image_size=(wide, wide),
        buckets=((high, wide), (wide, high)),
        eval_buckets=((high, wide), (wide, high)),
        channels=3,
        host_transforms=(resize,),
        eval_host_transforms=(resize,),
        augment=("random_flip",),
        eval_transforms=(dict(name="normalize", mean=MEAN, std=STD),),
    )
    config.checkpoint.best_metric = "ap"
    return config


def schedule(times: int = 1, *, learning_rate: float) -> dict[str, Any]:
    """The schedule "1x" (12 epochs), or a multiple of it; the rate is given for a batch of 16.

    Warm-up: 500 steps from a thousandth of the rate.
    """
    epochs = 12 * times
    milestones = (epochs - 4, epochs - 1) if times == 1 else (epochs - 8, epochs - 2)
    return dict(
        epochs=epochs,
        optimizer=dict(name="sgd", momentum=0.9, weight_decay=1e-4),
        learning_rate=dict(name="step", value=learning_rate, milestones=milestones),
        base_batch_size=16,
        warmup=500.0,
        warmup_unit="steps",
        warmup_factor=0.001,
    )
