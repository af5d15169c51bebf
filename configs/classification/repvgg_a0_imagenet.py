"""RepVGG-A0 (Ding et al. 2021), ImageNet-1k: 120 epochs as OpenMMLab's repvgg-A0_8xb32_in1k (72.4% top-1).

Biases and the normalisation of both convolutions have no weight decay; the scale of the identity's has.
"""

from configs.common import imagenet


def get_config(arg=""):
    config = imagenet.get_config(arg)
    config.model = dict(name="repvgg_a0", num_classes=imagenet.CLASSES)
    config.data.batch_size = 256
    config.schedule = imagenet.torchvision_sgd(256, dict(name="cosine", value=0.1), epochs=120)
    config.schedule.rules = (
        dict(pattern=".*bias", weight_decay=0.0),
        dict(pattern="backbone/.*conv_(kxk|1x1)/bn/scale", weight_decay=0.0),
    )
    return imagenet.complete(config)
