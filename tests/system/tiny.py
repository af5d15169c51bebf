"""A run of seconds whose state has everything: batch statistics, a moving average, momentum; dropout, augmentation."""

from configs.common import base


def get_config(arg=""):
    config = base.get_config(arg)
    config.imports = ("tests.system.parts",)
    config.task = "classification"
    config.model = dict(name="tiny", num_classes=6)
    config.data.source = dict(name="synthetic", num_examples=370, num_classes=6)  # an uneven last batch
    config.data.image_size = (8, 8)
    config.data.batch_size = 32
    config.data.augment = (dict(name="random_crop_pad", padding=1), "random_flip")
    config.data.eval_transforms = (dict(name="normalize", mean=(0.5,), std=(0.2,)),)
    config.schedule = dict(
        steps=60,
        optimizer=dict(name="sgd", momentum=0.9),
        learning_rate=dict(name="cosine", value=0.2),
        ema=0.9,
    )
    config.evaluation.every_steps = 20
    config.checkpoint.every_steps = 7
    config.log.every_steps = 4
    config.log.tensorboard = False
    return base.complete(config)
