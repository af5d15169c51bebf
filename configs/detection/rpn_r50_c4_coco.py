"""Region proposal network on one level, ResNet-50 C4, COCO, 1x (Ren et al. 2015).

OpenMMLab's `rpn_r50-caffe-c4_1x_coco` has no published result; Detectron2's `rpn_R_50_C4_1x` reaches an AR1000 of 51.6.
Both start from a ResNet-50 of Detectron (`resnet50_caffe`); here it is torchvision's, with its normalisation.
"""

from configs.common import coco_detection


def get_config(arg=""):
    config = coco_detection.get_config(arg)
    config.task = dict(name="detection", protocols=("proposals",))
    config.model = dict(
        name="rpn_c4",
        num_classes=coco_detection.CLASSES,
        backbone=dict(name="resnet50", out_levels=("c4",), frozen_stages=1, norm="frozen_bn"),
    )
    config.schedule = coco_detection.schedule(learning_rate=0.02)
    config.pretrained = dict(backbone="torchvision:resnet50")
    config.checkpoint.best_metric = "proposal_ar1000"
    return coco_detection.complete(config)
