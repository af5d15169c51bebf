"""DeiT-S with a distillation token (Touvron et al. 2021), ImageNet-1k: taught by RegNetY-16GF (81.2% top-1).

The authors' recipe: half of the loss is the cross-entropy with the teacher's decisions. Their teacher is
https://dl.fbaipublicfiles.com/deit/regnety_160-a5fe301d.pth: `--config.pretrained.teacher=FILE`; torchvision's
RegNetY-16GF is the same network with other weights.
"""

from configs.classification import deit_small_patch16_224_imagenet
from configs.common import imagenet


def get_config(arg=""):
    config = deit_small_patch16_224_imagenet.get_config(arg)
    config.model = dict(
        name="deit_small_distilled_patch16_224", num_classes=imagenet.CLASSES, backbone=dict(drop_path_rate=0.1)
    )
    config.task = dict(
        name="distillation",
        label_smoothing=0.1,
        teacher=dict(name="regnety_160", num_classes=imagenet.CLASSES),
        form="hard",
        weight=0.5,
    )
    config.pretrained = dict(teacher="torchvision:regnet_y_16gf")
    return imagenet.complete(config)
