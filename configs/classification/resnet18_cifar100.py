"""ResNet-18 with a 3x3 stem (He et al. 2015), CIFAR-100: the schedule of OpenMMLab's resnet50_8xb16_cifar100."""

from configs.common import cifar


def get_config(arg=""):
    config = cifar.get_config(arg, classes=100)
    config.model = dict(name="resnet18", num_classes=100, backbone=dict(stem="cifar"))
    config.schedule = dict(
        epochs=200,
        optimizer=dict(name="sgd", momentum=0.9, weight_decay=5e-4),
        learning_rate=dict(name="step", value=0.1, milestones=(60, 120, 160), gamma=0.2),
        base_batch_size=128,
    )
    return cifar.complete(config)
