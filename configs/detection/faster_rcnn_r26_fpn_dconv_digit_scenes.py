"""Faster R-CNN, a narrow ResNet-26 with FPN and modulated deformable convolutions in c3 to c5, on composed scenes.

It learns from scratch, with no download. What is not about the backbone is as in `faster_rcnn_r18_fpn_digit_scenes`.
"""

from configs.common import digit_scenes_detection
from configs.detection import faster_rcnn_r18_fpn_digit_scenes


def get_config(arg=""):
    config = faster_rcnn_r18_fpn_digit_scenes.get_config(arg)
    config.model.backbone = dict(name="resnet26", width=16, deformable=("c3", "c4", "c5"), modulated=True)
    return digit_scenes_detection.complete(config)
