"""FCN-32s, VGG-16, VOC 2012 + SBD (Long et al. 2015, table 2): 59.4 mIoU on 736 images of VOC 2011 val.

What is not about the stride is as in `fcn8s_vgg16_voc12aug`.
"""

from configs.common import semantic_segmentation
from configs.segmentation import fcn8s_vgg16_voc12aug


def get_config(arg=""):
    config = fcn8s_vgg16_voc12aug.get_config(arg)
    config.model = dict(name="fcn32s", num_classes=len(semantic_segmentation.VOC))
    return semantic_segmentation.complete(config)
