"""FCN-8s at once, VGG-16, VOC 2012 + SBD (Long et al. 2015, section 4.3): 62.7 mIoU on 736 images of VOC 2011 val.

SGD with momentum 0.9 on 20 images at a fixed rate of 1e-4, twice that for biases, weight decay 5e-4; the net starts
from the whole classifier. The authors train whole pictures, for at least 175 passes; here 100,000 steps on windows.
"""

from configs.common import semantic_segmentation


def get_config(arg=""):
    config = semantic_segmentation.get_config(arg, dataset="voc12aug", crop=(384, 384))
    config.data.augment = ("random_flip",)
    config.model = dict(name="fcn8s", num_classes=len(semantic_segmentation.VOC))
    config.data.batch_size = 20
    config.schedule = dict(
        steps=100_000,
        optimizer=dict(name="sgd", momentum=0.9, weight_decay=5e-4),
        learning_rate=dict(name="constant", value=1e-4),
        rules=(dict(pattern=".*/bias", learning_rate=2.0, weight_decay=0.0),),
    )
    config.pretrained = dict(backbone="torchvision:vgg16")
    return semantic_segmentation.complete(config)
