"""MobileNet v3 large (Howard et al. 2019), ImageNet-1k: the recipe of torchvision's IMAGENET1K_V1 weights (74.04%).

Those are the mean of the last three checkpoints whose accuracy was the best so far; the mean is not taken here.
"""

from configs.common import imagenet


def get_config(arg=""):
    config = imagenet.get_config(arg)
    config.model = dict(name="mobilenet_v3_large", num_classes=imagenet.CLASSES, dropout=0.2)
    imagenet.augmentation(config, policy=dict(name="autoaugment", interpolation="bilinear"), erasing=0.2)
    config.data.batch_size = 1024
    config.schedule = dict(
        epochs=600,
        optimizer=dict(name="rmsprop", decay=0.9, eps=0.0316, momentum=0.9, weight_decay=1e-5),
        learning_rate=dict(name="exponential", value=0.064, gamma=0.973, every=2.0),
        base_batch_size=1024,
    )
    return imagenet.complete(config)
