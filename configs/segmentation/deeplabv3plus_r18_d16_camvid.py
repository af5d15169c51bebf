"""DeepLabv3+, ResNet-18 at stride 16, on CamVid, from scratch, on CPU cores (Chen et al. 2018, arXiv:1802.02611).

The pyramid sees 8 x 10 places, so its rates are smaller than the paper's 6, 12 and 18 on 33 x 33. A training step
costs 72 GFLOPs, that of the U-Net beside it 76.
"""

from configs.common import camvid


def get_config(arg=""):
    config = camvid.get_config(arg)
    config.model = dict(
        name="deeplabv3plus",
        num_classes=len(camvid.CLASSES),
        backbone=dict(name="resnet18", output_stride=16),
        width=256,
        dilations=(1, 2, 4, 6),
        auxiliary=dict(width=64),
    )
    return camvid.complete(config)
