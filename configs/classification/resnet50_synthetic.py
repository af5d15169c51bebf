"""ResNet-50 (He et al. 2015) at 224 pixels on images made from a seed, to measure speed: no data set is read.

The schedule is the paper's: SGD 0.1 for a batch of 256, decay 1e-4, divided by ten. bf16: `--config.precision=bf16`.
"""

from configs.common import base

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def get_config(arg=""):
    config = base.get_config(arg)
    config.task = "classification"
    config.model = dict(name="resnet50", num_classes=1000)
    config.data = dict(
        source=dict(name="synthetic", num_examples=1024, num_classes=1000),
        batch_size=256,
        image_size=(224, 224),
        channels=3,
        augment=("random_flip",),
        eval_transforms=(dict(name="normalize", mean=IMAGENET_MEAN, std=IMAGENET_STD),),
    )
    config.schedule = dict(
        epochs=90,
        optimizer=dict(name="sgd", momentum=0.9, weight_decay=1e-4),
        learning_rate=dict(name="step", value=0.1, milestones=(30, 60, 80)),
        base_batch_size=256,
    )
    return base.complete(config)
