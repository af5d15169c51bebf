"""U-Net, a narrow ResNet-18 encoder: the class of each pixel of composed scenes, from scratch."""

from configs.common import digit_scenes_segmentation


def get_config(arg=""):
    config = digit_scenes_segmentation.get_config(arg)
    config.model = dict(
        name="unet",
        num_classes=digit_scenes_segmentation.CLASSES,
        backbone=dict(name="resnet18", width=16, out_levels=("c1", "c2", "c3", "c4", "c5")),
        decoder_channels=(64, 48, 32, 24, 16),
    )
    return digit_scenes_segmentation.complete(config)
