"""YOLOX-S, COCO, 300 epochs from scratch (Ge et al. 2021); OpenMMLab's `yolox_s_8xb8-300e_coco` reaches 40.5 AP.

Mosaic, affine maps, blends of two and the average of weights; in the last 15 epochs plain pictures, at a constant rate,
and the L1 distance of boxes beside the other losses. Networks see pixels of 0 to 255: blue, green, red.

What is done otherwise: the four pictures of a mosaic, and the two of a blend, are neighbours of the batch, so a batch
is made of its own 64 pictures (there each result draws partners from the whole data set, and the partner of a blend is
a single picture, scaled by 0.8 to 1.6); turning and shearing come after the mosaic and leave grey corners; saturation
and value get a factor, not a summand; the side of the canvas, 480 to 800, is drawn for each step, not for ten.
Evaluation always has 640. A step has one program for each side: eleven of them.
"""

from configs.common import base

SIDE = 640
GREY = 114
RATE = 0.01
EPOCHS, CLOSING, WARMUP = 300, 15, 5


def get_config(arg=""):
    config = base.get_config(arg)
    config.task = "detection"
    config.model = dict(name="yolox_s", num_classes=80)
    fit = dict(name="letterbox", fill=GREY, centered=False)
    simple = (dict(name="random_hsv", hue=5 / 180, saturation=30 / 255, value=30 / 255), "random_flip")
    config.data = dict(
        source="tfds_records:coco/2017",
        batch_size=64,
        image_size=(SIDE, SIDE),
        buckets=tuple((side, side) for side in range(480, 801, 32)),
        channels=3,
        max_instances=120,
        host_transforms=(fit,),
        eval_host_transforms=(fit,),
        augment=(
            dict(name="mosaic", center=(0.0, 1.0), scale=(0.1, 2.0), fill=GREY),
            dict(name="random_affine", degrees=10.0, translate=(0.1, 0.1), shear=(-2.0, 2.0, -2.0, 2.0), fill=GREY),
            "detection_mixup",
            *simple,
        ),
        closing_augment=simple,
        eval_transforms=(dict(name="normalize", mean=(0.0,), std=(1 / 255,), bgr=True),),
    )
    config.schedule = dict(
        epochs=EPOCHS,
        closing_epochs=CLOSING,
        optimizer=dict(name="sgd", momentum=0.9, nesterov=True, weight_decay=5e-4),
        learning_rate=dict(name="cosine", value=RATE, end=0.05 * RATE, start=WARMUP, stop=EPOCHS - CLOSING),
        base_batch_size=64,
        warmup=WARMUP,
        warmup_kind="quadratic",
        no_weight_decay_on_norm_and_bias=True,
        ema=0.9999,
        ema_ramp=2000.0,
    )
    config.evaluation.every_epochs = 10.0
    config.checkpoint.every_epochs = 10.0
    config.checkpoint.best_metric = "ap"
    return base.complete(config)
