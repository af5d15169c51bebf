"""A narrow ResNet-18 with a 3x3 stem on the digits 0 to 4, to be fine-tuned on others: resnet18_finetune_digits."""

from configs.common import base


def get_config(arg=""):
    config = base.get_config(arg)
    config.task = "classification"
    config.model = dict(name="resnet18", num_classes=5, backbone=dict(stem="cifar", width=16))
    config.data = dict(
        source=dict(name="digits", digits=(0, 1, 2, 3, 4)),
        batch_size=64,
        augment=(dict(name="random_crop_pad", padding=2),),
        eval_transforms=(dict(name="normalize", mean=(0.305,), std=(0.376,)),),
    )
    config.schedule = dict(
        epochs=15,
        optimizer=dict(name="sgd", momentum=0.9, weight_decay=5e-4),
        learning_rate=dict(name="cosine", value=0.05),
        warmup=1.0,
    )
    config.checkpoint.every_epochs = 5.0
    config.log.every_steps = 10
    return base.complete(config)
