"""LeNet-5 (LeCun et al. 1998) on the 1,797 scanned digits of scikit-learn; no download, no TensorFlow.

The shift by up to two pixels (half a pixel of the 8x8 scans) was chosen by cross-validation within the training part.
"""

from configs.common import base


def get_config(arg=""):
    config = base.get_config(arg)
    config.task = "classification"
    config.model = dict(name="lenet5", num_classes=10)
    config.data.source = "digits"
    config.data.batch_size = 64
    config.data.augment = (dict(name="random_crop_pad", padding=2),)
    config.data.eval_transforms = (dict(name="normalize", mean=(0.305,), std=(0.376,)),)
    config.schedule = dict(
        epochs=40,
        optimizer=dict(name="sgd", momentum=0.9),
        learning_rate=dict(name="cosine", value=0.05),
    )
    config.checkpoint.every_epochs = 5.0
    config.log.every_steps = 10
    return base.complete(config)
