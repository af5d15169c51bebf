"""A narrow ResNet-18 with three heads: which digit it is, whether it is even or odd, how many loops it has.

How many loops a 4 has is not known: these samples teach the other two heads alone.
"""

from configs.common import base


def get_config(arg=""):
    config = base.get_config(arg)
    config.task = dict(name="multi_task_classification", losses=(dict(head="parity", weight=0.5),))
    config.model = dict(
        name="multi_head",
        backbone=dict(name="resnet18", stem="cifar", width=16),
        heads=(
            dict(name="digit", num_classes=10),
            dict(name="parity", num_classes=2),
            dict(name="loops", num_classes=3),
        ),
    )
    config.data = dict(
        source="digit_attributes",
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
    return base.complete(config)
