"""Softmax regression on the pixels of scikit-learn's scanned digits: the smallest model there is."""

from configs.classification import lenet5_digits
from configs.common import base


def get_config(arg=""):
    config = lenet5_digits.get_config(arg)
    config.model = dict(name="linear", num_classes=10)
    config.data.image_size = (8, 8)  # as they are stored, where a shift of two pixels would be far
    config.data.augment = ()
    return base.complete(config)
