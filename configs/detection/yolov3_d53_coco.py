"""YOLOv3, Darknet-53, COCO (Redmon and Farhadi 2018); OpenMMLab's `yolov3_d53_8xb8-ms-608-273e_coco` reaches 33.7 AP.

In training each step has one of ten canvases from 320 to 608 pixels, as in Darknet; OpenMMLab draws the size of each
image. A crop overlaps an object by at least 0.4. OpenMMLab starts from Darknet's weights of ImageNet, for which no card
is known here.
"""

from configs.common import coco_detection

SIZES = tuple(range(320, 609, 32))
OVERLAPS = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


def get_config(arg=""):
    config = coco_detection.get_config(arg)
    fit = dict(name="resize", mode="fit")
    config.data.batch_size = 64
    config.data.image_size = (SIZES[-1], SIZES[-1])
    config.data.buckets = tuple((size, size) for size in SIZES)
    config.data.host_transforms = (
        dict(name="expand", sides=(1.0, 2.0), fill=0),
        dict(name="iou_crop", overlaps=(0.0, *OVERLAPS)),
        fit,
    )
    config.data.eval_host_transforms = (fit,)
    config.data.augment = ("random_flip", "photo_metric_distortion")
    config.data.eval_transforms = (dict(name="normalize", mean=(0.0,), std=(1.0,)),)
    config.model = dict(name="yolov3", num_classes=coco_detection.CLASSES)
    config.schedule = dict(
        epochs=273,
        optimizer=dict(name="sgd", momentum=0.9, weight_decay=5e-4),
        learning_rate=dict(name="step", value=1e-3, milestones=(218, 246)),
        base_batch_size=64,
        warmup=2000.0,
        warmup_unit="steps",
        warmup_factor=0.1,
        clip_norm=35.0,
    )
    return coco_detection.complete(config)
