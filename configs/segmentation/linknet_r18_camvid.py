"""LinkNet with a ResNet-18 encoder on CamVid (Chaurasia and Culurciello 2017, arXiv:1707.03718), on CPU cores.

The paper's encoder, data set and 68.3 mIoU (table 4); there 960 x 720 pixels, weights of ImageNet, RMSProp at 5e-4 and
weights of classes, here the small canvas and schedule of `configs/common/camvid.py`.
"""

from configs.common import camvid


def get_config(arg=""):
    config = camvid.get_config(arg)
    levels = ("c1", "c2", "c3", "c4", "c5")
    config.model = dict(
        name="linknet", num_classes=len(camvid.CLASSES), backbone=dict(name="resnet18", out_levels=levels)
    )
    return camvid.complete(config)
