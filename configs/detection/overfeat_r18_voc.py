"""OverFeat (Sermanet et al. 2014) with ResNet-18 as its convolutions, Pascal VOC 2007.

A starting point, not the published recipe: the paper's network, which is the row's default, was trained on ImageNet,
and its weights are not published in a form that is read here. A window is 224 pixels: at scale 0.5 the whole canvas of
448, at scale 2 a quarter of its sides.
"""

from configs.common import voc_detection


def get_config(arg=""):
    config = voc_detection.get_config(arg, image_size=448)
    config.model = dict(
        name="overfeat",
        num_classes=voc_detection.CLASSES,
        backbone=dict(name="resnet18", out_levels=("c4",), frozen_stages=1, norm="frozen_bn"),
        pool=2,
        window=7,
        cell=None,
        scales=(0.5, 0.75, 1.0, 1.5, 2.0),
        hidden=(1024, 1024),
        box_hidden=(1024, 1024),
        dropout=0.5,
    )
    config.schedule = voc_detection.schedule(learning_rate=0.01)
    config.pretrained = dict(backbone="torchvision:resnet18")
    return voc_detection.complete(config)
