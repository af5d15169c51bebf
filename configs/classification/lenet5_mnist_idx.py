"""LeNet-5 on MNIST from its four IDX files: `--config.data.source.directory=DIR`; no TensorFlow."""

from configs.classification import lenet5_mnist
from configs.common import base


def get_config(arg=""):
    config = lenet5_mnist.get_config(arg)
    config.data.source = dict(name="idx", directory="data/mnist")
    # mean and standard deviation of the training pixels
    config.data.eval_transforms = (dict(name="normalize", mean=(0.1307,), std=(0.3081,)),)
    return base.complete(config)
