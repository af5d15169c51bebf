"""U-Net with a ResNet-18 encoder, the form of segmentation-models, on CamVid, from scratch, on CPU cores.

`tests/parity/camvid_unet.py` trains segmentation-models' own network on the same batches. U-Net: Ronneberger et al.
2015 (arXiv:1505.04597).
"""

from configs.common import camvid


def get_config(arg=""):
    config = camvid.get_config(arg)
    levels = ("c1", "c2", "c3", "c4", "c5")
    config.model = dict(name="unet", num_classes=len(camvid.CLASSES), backbone=dict(name="resnet18", out_levels=levels))
    return camvid.complete(config)
