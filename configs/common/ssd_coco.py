"""What the recipes for SSD on COCO share: stretched images, strong augmentation, 120 passes over the images.

Numbers are those of OpenMMLab's `ssd300_coco` and `ssd512_coco`, and the augmentation that of section 2.2 of the paper:
images are put on a larger ground, cut by their overlap with an object, mirrored and distorted in colour. As OpenMMLab
does, a crop is of at least 0.3 of each side.
"""

from configs.common import coco_detection
from jaxvision.config import Config

CLASSES = coco_detection.CLASSES
REPEATS = 5
"""Passes over the images in one epoch of OpenMMLab's."""

complete = coco_detection.complete


def get_config(arg: str = "", *, size: int) -> Config:
    """COCO 2017 boxes, on square canvases.

    Args:
      arg: of the config.
      size: of the canvas in pixels.
    """
    config = coco_detection.get_config(arg)
    config.data.batch_size = 64
    config.data.image_size = (size, size)
    config.data.buckets = ()
    config.data.host_transforms = ("expand", "iou_crop", "resize")
    config.data.eval_host_transforms = ("resize",)
    config.data.augment = ("random_flip", "photo_metric_distortion")
    config.schedule = dict(
        epochs=24 * REPEATS,
        optimizer=dict(name="sgd", momentum=0.9, weight_decay=5e-4),
        learning_rate=dict(name="step", value=2e-3, milestones=(16 * REPEATS, 22 * REPEATS)),
        base_batch_size=64,
        warmup=500.0,
        warmup_unit="steps",
        warmup_factor=0.001,
    )
    config.pretrained = dict(backbone="torchvision:vgg16")
    return config
