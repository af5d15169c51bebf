"""PSPNet of segmentation-models, half a ResNet-18: the class of each pixel of composed scenes, from scratch."""

from configs.common import digit_scenes_segmentation


def get_config(arg=""):
    config = digit_scenes_segmentation.get_config(arg)
    config.model = dict(
        name="smp/pspnet",
        num_classes=digit_scenes_segmentation.CLASSES,
        backbone=dict(name="resnet18", width=32, out_levels=("c3",)),
        width=64,
    )
    return digit_scenes_segmentation.complete(config)
