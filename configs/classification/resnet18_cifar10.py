"""ResNet-18 with a 3x3 stem (He et al. 2015), CIFAR-10: the recipe of kuangliu/pytorch-cifar (93.02% top-1)."""

from configs.common import cifar


def get_config(arg=""):
    config = cifar.get_config(arg)
    config.model = dict(name="resnet18", num_classes=10, backbone=dict(stem="cifar"))
    config.schedule = dict(
        epochs=200,
        optimizer=dict(name="sgd", momentum=0.9, weight_decay=5e-4),
        learning_rate=dict(name="cosine", value=0.1, by="epochs"),
        base_batch_size=128,
    )
    return cifar.complete(config)
