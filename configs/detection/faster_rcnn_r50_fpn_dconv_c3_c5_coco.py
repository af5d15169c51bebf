"""Faster R-CNN, ResNet-50 FPN with deformable convolutions in c3 to c5, COCO, 1x (Dai et al. 2017).

OpenMMLab's `faster-rcnn_r50-dconv-c3-c5_fpn_1x_coco` reaches 41.3 AP, its modulated form (Zhu et al. 2019,
`faster-rcnn_r50-mdconv-c3-c5_fpn_1x_coco`) 41.4: `--config.model.backbone.modulated=True`, and with `deform_groups=4`
41.5. What is not about the backbone is as in `faster_rcnn_r50_fpn_coco`.
"""

from configs.common import coco_detection
from configs.detection import faster_rcnn_r50_fpn_coco


def get_config(arg=""):
    config = faster_rcnn_r50_fpn_coco.get_config(arg)
    config.model.backbone.deformable = ("c3", "c4", "c5")
    return coco_detection.complete(config)
