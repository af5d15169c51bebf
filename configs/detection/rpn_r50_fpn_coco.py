"""Region proposal network, ResNet-50 FPN, COCO, 1x (Ren et al. 2015; Lin et al. 2017).

OpenMMLab's `rpn_r50_fpn_1x_coco` reaches an AR1000 of 58.2.
"""

from configs.common import coco_detection


def get_config(arg=""):
    config = coco_detection.get_config(arg)
    config.task = dict(name="detection", protocols=("proposals",))
    config.model = dict(
        name="rpn",
        num_classes=coco_detection.CLASSES,
        backbone=dict(name="resnet50", frozen_stages=1, norm="frozen_bn"),
    )
    config.schedule = coco_detection.schedule(learning_rate=0.02)
    config.pretrained = dict(backbone="torchvision:resnet50")
    config.checkpoint.best_metric = "proposal_ar1000"
    return coco_detection.complete(config)
