"""FCN, a narrow ResNet-18 at stride 8, on CamVid, from scratch, on CPU cores (Long et al. 2015, in the dilated form).

A training step costs 72 GFLOPs, that of the U-Net beside it 76.
"""

from configs.common import camvid


def get_config(arg=""):
    config = camvid.get_config(arg)
    config.model = dict(
        name="fcn",
        num_classes=len(camvid.CLASSES),
        backbone=dict(name="resnet18", width=40, output_stride=8),
        width=128,
        auxiliary=dict(width=64),
    )
    return camvid.complete(config)
