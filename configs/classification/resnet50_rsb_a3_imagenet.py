"""ResNet-50, ImageNet-1k: procedure A3 of "ResNet strikes back" (Wightman et al. 2021; 78.1% top-1).

100 epochs at 160 pixels, without stochastic depth and repeated augmentation. Numbers are those of OpenMMLab's
resnet50_8xb256-rsb-a3-100e_in1k, which trains at 224 pixels (78.3%).
"""

from configs.classification import resnet50_rsb_a2_imagenet
from configs.common import imagenet


def get_config(arg=""):
    config = resnet50_rsb_a2_imagenet.recipe(arg)
    config.model["backbone"] = dict(drop_path_rate=0.0)
    imagenet.augmentation(config, policy=imagenet.timm_policy(6), mixup=0.1, cutmix=1.0)
    config.data.update(buckets=((160, 160),), repeats=1)
    config.schedule.epochs = 100
    config.schedule.learning_rate.value = 8e-3
    return imagenet.complete(config)
