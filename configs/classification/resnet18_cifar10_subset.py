"""ResNet-18 with a 3x3 stem (He et al. 2015, section 4.2) on 5,000 images of CIFAR-10 in one npz file.

Augmentation of the paper: four pixels of padding, a random crop, a horizontal flip.
`--config.data.source.path=FILE` names the archive with x_train, y_train, x_test and y_test.
"""

from configs.common import base

# Of the pixels of CIFAR-10's training images, by channel.
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def get_config(arg=""):
    config = base.get_config(arg)
    config.task = "classification"
    config.model = dict(name="resnet18", num_classes=10, backbone=dict(stem="cifar"))
    config.data = dict(
        source="npz:data/cifar10_subset/cifar10_subset.npz",
        batch_size=128,
        channels=3,
        augment=(dict(name="random_crop_pad", padding=4), "random_flip"),
        eval_transforms=(dict(name="normalize", mean=MEAN, std=STD),),
    )
    config.schedule = dict(
        epochs=30,
        optimizer=dict(name="sgd", momentum=0.9, weight_decay=5e-4),
        learning_rate=dict(name="cosine", value=0.1),
        warmup=1.0,
    )
    config.checkpoint.every_epochs = 5.0
    return base.complete(config)
