"""LeNet-5 on MNIST (LeCun et al. 1998)."""

from configs.common import base


def get_config(arg=""):
    config = base.get_config(arg)
    config.task = "classification"
    config.model = dict(name="lenet5", num_classes=10)
    config.data.source = "tfds:mnist"
    config.data.batch_size = 128
    config.schedule = dict(
        epochs=10,
        optimizer=dict(name="sgd", momentum=0.9),
        learning_rate=dict(name="constant", value=0.05),
    )
    return base.complete(config)
