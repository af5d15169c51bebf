"""DeepLab-LargeFOV with CRF, VGG-16, VOC 2012 + SBD (Chen et al. 2015, table 1): 67.64 mIoU on val, 62.25 without CRF.

SGD on 20 windows of 321 pixels, 6,000 steps; the rate is 1e-3, ten times that for the classifier, a tenth after each
2,000 steps. The CRF is that of the authors' script.
"""

from configs.common import semantic_segmentation


def get_config(arg=""):
    config = semantic_segmentation.get_config(arg, dataset="voc12aug", crop=(321, 321))
    config.data.augment = ("random_flip",)
    config.task = dict(name="semantic_segmentation", crf=semantic_segmentation.DEEPLAB_CRF)
    config.model = dict(name="deeplab_v1", num_classes=len(semantic_segmentation.VOC))
    config.data.batch_size = 20
    config.schedule = dict(
        steps=6000,
        optimizer=dict(name="sgd", momentum=0.9, weight_decay=5e-4),
        learning_rate=dict(name="step", value=1e-3, milestones=(2000, 4000), unit="steps"),
        rules=(
            dict(pattern="decode_head/fc8/kernel$", learning_rate=10.0),
            dict(pattern="decode_head/fc8/bias$", learning_rate=20.0, weight_decay=0.0),
        ),
    )
    config.pretrained = dict(backbone="torchvision:vgg16")
    return semantic_segmentation.complete(config)
