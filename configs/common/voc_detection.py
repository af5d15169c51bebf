"""What the recipes for classical detectors on Pascal VOC share: pictures stretched to one square canvas, a flip.

tfds:voc/2007 is downloaded by TensorFlow Datasets; a folder of the original files: `--config.data.source=voc:DIR`
(Annotations, JPEGImages and ImageSets/Main).
"""

from typing import Any

from configs.common import base
from jaxvision.config import Config

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLASSES = 20

complete = base.complete


def get_config(arg: str = "", *, image_size: int) -> Config:
    """VOC 2007 boxes, scored as in 2007.

    Args:
      arg: of the config.
      image_size: side of the canvas.
    """
    config = base.get_config(arg)
    config.task = dict(name="detection", protocols=("voc07",))
    resize = dict(name="resize", mode="stretch")
    config.data = dict(
        source="tfds_records:voc/2007",
        batch_size=16,
        image_size=(image_size, image_size),
        channels=3,
        host_transforms=(resize,),
        eval_host_transforms=(resize,),
        augment=("random_flip",),
        eval_transforms=(dict(name="normalize", mean=MEAN, std=STD),),
    )
    config.checkpoint.best_metric = "voc07_ap"
    return config


def schedule(*, learning_rate: float) -> dict[str, Any]:
    """30 epochs of SGD; the rate, given for a batch of 16, falls to a tenth in epoch 20 and again in epoch 27."""
    return dict(
        epochs=30,
        optimizer=dict(name="sgd", momentum=0.9, weight_decay=1e-4),
        learning_rate=dict(name="step", value=learning_rate, milestones=(20, 27)),
        base_batch_size=16,
        warmup=100.0,
        warmup_unit="steps",
        clip_norm=10.0,
    )
