"""Fine-tuning, the whole of it in seconds: digits 5 to 9 from 25 PNG files, after digits 0 to 4 (the README says how).

The backbone of the run `runs/resnet18_digits_pretrain`, a new classifier, the stem and the first stage frozen, and a
learning rate that falls by 0.75 from each block to the one before it. Set against it: `:scratch`, the same without.
"""

from configs.common import base


def get_config(arg=""):
    config = base.get_config(arg, args=("scratch",))
    scratch = "scratch" in arg.split(",")
    config.task = "classification"
    config.model = dict(
        name="resnet18",
        num_classes=5,
        backbone=dict(stem="cifar", width=16, frozen_stages=0 if scratch else 1),
    )
    config.pretrained = None if scratch else dict(backbone="runs/resnet18_digits_pretrain")
    config.data = dict(
        source=dict(name="subset", examples=25, source=dict(name="image_folder", path="data/digits_5_to_9")),
        batch_size=8,
        augment=(dict(name="random_crop_pad", padding=2),),
        eval_transforms=(dict(name="normalize", mean=(0.305,), std=(0.376,)),),
    )
    config.schedule = dict(
        epochs=15,
        optimizer=dict(name="sgd", momentum=0.9, weight_decay=5e-4),
        learning_rate=dict(name="cosine", value=0.02),
        warmup=1.0,
        layer_decay=None if scratch else 0.75,
    )
    config.checkpoint.every_epochs = 5.0
    config.log.every_steps = 3
    return base.complete(config)
