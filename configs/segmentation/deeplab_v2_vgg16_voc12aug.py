"""DeepLab v2 with CRF, VGG-16, VOC 2012 + SBD (Chen et al. 2016, table 3, ASPP-L): 71.57 mIoU on val, 68.96 without.

The rate is that of VGG-16, 1e-3 (section 4.1.1), and weights are those of ImageNet; the rest is as in
`deeplab_v2_r101_voc12aug`.
"""

from configs.common import semantic_segmentation
from configs.segmentation import deeplab_v2_r101_voc12aug


def get_config(arg=""):
    config = deeplab_v2_r101_voc12aug.get_config(arg)
    config.model = dict(name="deeplab_v2_vgg16", num_classes=len(semantic_segmentation.VOC))
    config.schedule.learning_rate.value = 1e-3
    config.pretrained = dict(backbone="torchvision:vgg16")
    return semantic_segmentation.complete(config)
