"""DeepLab v2 with CRF, ResNet-101, VOC 2012 + SBD (Chen et al. 2016, table 4): 77.69 mIoU on val, 76.35 without CRF.

SGD on 10 windows of 321 pixels, 20,000 steps; the rate falls from 2.5e-4 with the power 0.9, ten times that for the
classifier. Norms keep their statistics. The authors also pretrain on COCO, which these figures include.
"""

from configs.common import semantic_segmentation


def get_config(arg=""):
    config = semantic_segmentation.get_config(arg, dataset="voc12aug", crop=(321, 321))
    config.data.augment = ("random_flip",)
    config.task = dict(name="semantic_segmentation", crf=semantic_segmentation.DEEPLAB_CRF)
    config.model = dict(
        name="deeplab_v2",
        num_classes=len(semantic_segmentation.VOC),
        backbone=dict(norm="frozen_bn"),
    )
    config.data.batch_size = 10
    config.schedule = dict(
        steps=20_000,
        optimizer=dict(name="sgd", momentum=0.9, weight_decay=5e-4),
        learning_rate=dict(name="polynomial", value=2.5e-4, power=0.9),
        rules=(
            dict(pattern="decode_head/.*kernel$", learning_rate=10.0),
            dict(pattern="decode_head/.*bias$", learning_rate=20.0, weight_decay=0.0),
        ),
    )
    return semantic_segmentation.complete(config)
