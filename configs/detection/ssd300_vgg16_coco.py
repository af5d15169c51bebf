"""SSD300, VGG-16, COCO (Liu et al. 2016); OpenMMLab's `ssd300_coco` reaches 25.5 AP.

Its schedule is 24 epochs of five passes over the images, written here as 120. OpenMMLab starts from Caffe's VGG-16,
for pixels of 0 to 255 without their mean; here torchvision's is at hand, for pixels divided by their deviation, too.
"""

from configs.common import ssd_coco


def get_config(arg=""):
    config = ssd_coco.get_config(arg, size=300)
    config.model = dict(name="ssd300", num_classes=ssd_coco.CLASSES)
    return ssd_coco.complete(config)
