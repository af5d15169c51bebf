"""What recipes for segmenters on CamVid share: road scenes of 11 classes at 128 x 160 pixels, from scratch.

CamVid (Brostow et al. 2009) in the form of the SegNet tutorial: 367, 101 and 233 images of 480 x 360 pixels in `train`,
`val` and `test`, their label maps in `trainannot`, `valannot` and `testannot`, where 11 is no class; small enough for
two CPU cores. Elsewhere than in `data/camvid`:
`--config.data.source.images=DIR/train`, `.masks`, `.eval_images`, `.eval_masks`.
"""

from configs.common import base, semantic_segmentation
from jaxvision.config import Config

complete = base.complete
CLASSES = semantic_segmentation.CAMVID
MEAN, STD = (0.41, 0.42, 0.43), (0.30, 0.31, 0.30)


def get_config(arg: str = "") -> Config:
    """Windows of half the picture or more, mirrored; 12 epochs of AdamW."""
    config = base.get_config(arg)
    config.task = "semantic_segmentation"
    config.data = dict(
        source=dict(name="image_mask", **semantic_segmentation.SOURCES["camvid"]),
        batch_size=8,
        image_size=(128, 160),
        channels=3,
        host_transforms=(dict(name="random_resized_crop", scale=(0.5, 1.0), ratio=(1.2, 1.5)),),
        eval_host_transforms=("resize",),
        augment=("random_flip",),
        eval_transforms=(dict(name="normalize", mean=MEAN, std=STD),),
    )
    config.schedule = dict(
        epochs=12,
        optimizer=dict(name="adamw", weight_decay=0.0),
        learning_rate=dict(name="cosine", value=1e-3),
        warmup=1.0,
        clip_norm=5.0,
    )
    config.evaluation.every_epochs = 4.0
    config.checkpoint.every_epochs = 4.0
    config.checkpoint.best_metric = "miou"
    config.log.every_steps = 15
    return config
