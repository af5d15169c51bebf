"""What recipes for CIFAR share: four pixels of padding, a random window, a flip (He et al. 2015, section 4.2)."""

from configs.common import base
from jaxvision.config import Config

complete = base.complete
# As kuangliu/pytorch-cifar has them: the deviations are means over images of that of each image.
MEAN_10, STD_10 = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
# OpenMMLab's configs/_base_/datasets/cifar100_bs16.py, in units of 255
MEAN_100, STD_100 = (129.304 / 255, 124.070 / 255, 112.434 / 255), (68.170 / 255, 65.392 / 255, 70.418 / 255)


def get_config(arg: str = "", *, classes: int = 10) -> Config:
    """CIFAR-10 or CIFAR-100 (tfds:cifar10, tfds:cifar100)."""
    config = base.get_config(arg)
    config.task = "classification"
    mean, std = (MEAN_10, STD_10) if classes == 10 else (MEAN_100, STD_100)
    config.data = dict(
        source=f"tfds:cifar{classes}",
        batch_size=128,
        channels=3,
        augment=(dict(name="random_crop_pad", padding=4), "random_flip"),
        eval_transforms=(dict(name="normalize", mean=mean, std=std),),
    )
    config.checkpoint.every_epochs = 5.0
    return config
