"""U-Net with an FCN head on DRIVE, vessels of the retina: OpenMMLab's `unet-s5-d16_fcn_4xb4-40k_drive-64x64`.

Published: 88.38 mDice, 78.67 Dice of the vessels, with sliding windows of 64 pixels every 42. U-Net: Ronneberger et al.
2015 (arXiv:1505.04597). DRIVE has to be asked for; its pictures (584 x 565) and label maps with the values 0 and 1, as
OpenMMLab's converter writes them: `--config.data.source.images=DIR` and its kin.
"""

from configs.common import base, semantic_segmentation


def get_config(arg=""):
    config = base.get_config(arg)
    config.task = dict(name="semantic_segmentation", window=(64, 64), window_stride=(42, 42), windows_at_once=8)
    config.model = dict(name="openmmlab/unet", num_classes=2, losses=semantic_segmentation.ALL_PIXELS)
    config.data = dict(
        source=dict(
            name="image_mask",
            images="data/drive/images/training",
            masks="data/drive/annotations/training",
            eval_images="data/drive/images/validation",
            eval_masks="data/drive/annotations/validation",
            mask_suffix="_manual1",
            class_names=("background", "vessel"),
        ),
        batch_size=16,
        eval_batch_size=8,
        image_size=(584, 565),
        buckets=((64, 64),),
        eval_buckets=((584, 565),),
        channels=3,
        host_transforms=(
            dict(name="random_scale", short=565, long=584),
            dict(name="random_crop", fill=semantic_segmentation.GROUND),
        ),
        augment=("random_flip", "photo_metric_distortion"),
        eval_transforms=(dict(name="normalize", mean=semantic_segmentation.MEAN, std=semantic_segmentation.STD),),
    )
    config.schedule = semantic_segmentation.schedule(40_000, batch_size=16)
    config.evaluation = dict(every_epochs=None, every_steps=4000)
    config.checkpoint = dict(every_epochs=None, every_steps=4000, best_metric="mdice")
    return base.complete(config)
