"""Rows of everything but the families of backbones, kind by kind."""

from typing import Any

from jaxvision.registry.table import CLASSIFIER, register

register("task", "classification", "jaxvision.classification.task:ClassificationTask")
register("task", "distillation", "jaxvision.classification.distillation:DistillationTask")
register("task", "multi_task_classification", "jaxvision.classification.multi_task:MultiTaskClassification")

register("task", "detection", "jaxvision.detection.task:DetectionTask")
register(
    "task",
    "instance_segmentation",
    "jaxvision.detection.task:DetectionTask",
    protocols=("coco", "coco_masks"),
    doc="boxes and masks of objects",
)

register("model", "multi_head", "jaxvision.classification.multi_task:MultiHeadClassifier")
register("model", "linear", CLASSIFIER, backbone={"name": "flatten"}, doc="softmax regression on pixels")
register("model", "lenet5", CLASSIFIER, backbone={"name": "lenet5"}, doc="LeCun et al. 1998")
register("backbone", "flatten", "jaxvision.classification.linear:Flatten")
register("backbone", "lenet5", "jaxvision.backbones.lenet:LeNet5")

FPN_FROM_C3 = {"name": "fpn", "in_levels": ("c3", "c4", "c5"), "extra_levels": 2}
register("neck", "fpn", "jaxvision.necks.fpn:FPN", smoke={"channels": 16}, doc="Lin et al. 2017")
register(
    "model",
    "retinanet",
    "jaxvision.detection.retinanet:RetinaNet",
    smoke={"depth": 1},
    backbone={"name": "resnet50"},
    neck={**FPN_FROM_C3, "extra": "input"},
    doc="Lin et al. 2017",
)
register(
    "model",
    "torchvision/retinanet",
    "jaxvision.detection.retinanet:RetinaNet",
    smoke={"depth": 1},
    backbone={"name": "resnet50", "norm": {"name": "frozen_bn", "epsilon": 0.0}},
    neck={**FPN_FROM_C3, "extra": "output", "relu_before_extra": True},
    anchors={"whole": True},
    assigner={"low_quality": "anchor"},
    suppression={"max_detections": 300, "min_size": -1.0},
    doc="Lin et al. 2017, with torchvision's numbers",
)

register(
    "model",
    "fcos",
    "jaxvision.detection.fcos:FCOS",
    smoke={"depth": 1},
    backbone={"name": "resnet50_caffe"},
    neck={**FPN_FROM_C3, "extra": "output", "relu_before_extra": True},
    doc="Tian et al. 2019",
)
register(
    "model",
    "torchvision/fcos",
    "jaxvision.detection.fcos:FCOS",
    smoke={"depth": 1},
    backbone={"name": "resnet50", "norm": {"name": "frozen_bn"}},
    neck={**FPN_FROM_C3, "extra": "output", "relu_before_extra": True},
    points={"offset": 0.0, "whole": True},
    center_radius=1.5,
    conv_bias=True,
    factors=False,
    centerness_with_boxes=True,
    activation="relu",
    box_loss="giou",
    centerness_weights=False,
    score="geometric_mean",
    suppression={"score_threshold": 0.2, "iou_threshold": 0.6, "min_size": -1.0},
    doc="Tian et al. 2019, with torchvision's numbers",
)

register(
    "model",
    "atss",
    "jaxvision.detection.atss:ATSS",
    smoke={"depth": 1},
    backbone={"name": "resnet50"},
    neck={**FPN_FROM_C3, "extra": "output"},
    doc="Zhang et al. 2020",
)

FPN_FROM_C2 = {"name": "fpn", "extra_levels": 1}
TORCHVISION_RESNET = {"name": "resnet50", "norm": {"name": "frozen_bn", "epsilon": 0.0}}
EVERY_SCORE = {"score_threshold": -1.0, "iou_threshold": 0.7, "min_size": 1e-3}
TORCHVISION_TWO_STAGE: dict[str, Any] = {
    "proposals": {
        "anchors": {"scales": (8.0,), "whole": True},
        "assigner": {"positive": 0.7, "negative": 0.3, "low_quality": "anchor", "least": 0.0},
        "beta": 1 / 9,
        "training": {**EVERY_SCORE, "candidates": 2000, "max_detections": 2000},
        "evaluation": {**EVERY_SCORE, "candidates": 1000, "max_detections": 1000},
    },
    "pooling": {"sampling_ratio": 2, "aligned": False, "finest_scale": None},
    "stage": {"beta": 1 / 9},
    "suppression": {"candidates": 5000, "min_size": 1e-2},
}
FEW_PROPOSALS = {
    "sampler": {"count": 16},
    "training": {"candidates": 32, "max_detections": 16},
    "evaluation": {"candidates": 32, "max_detections": 16},
}
SMALL_TWO_STAGE = {"proposals": FEW_PROPOSALS, "width": 16, "stage": {"sampler": {"count": 16}}}
register(
    "model",
    "rpn",
    "jaxvision.detection.rpn:RPN",
    smoke={"proposals": FEW_PROPOSALS},
    backbone={"name": "resnet50"},
    neck=FPN_FROM_C2,
    doc="Ren et al. 2015, Lin et al. 2017",
)
register(
    "model",
    "faster_rcnn",
    "jaxvision.detection.faster_rcnn:FasterRCNN",
    smoke=SMALL_TWO_STAGE,
    backbone={"name": "resnet50"},
    neck=FPN_FROM_C2,
    doc="Ren et al. 2015, Lin et al. 2017",
)
register(
    "model",
    "torchvision/faster_rcnn",
    "jaxvision.detection.faster_rcnn:FasterRCNN",
    smoke=SMALL_TWO_STAGE,
    backbone=TORCHVISION_RESNET,
    neck=FPN_FROM_C2,
    **TORCHVISION_TWO_STAGE,
    doc="Ren et al. 2015, Lin et al. 2017, with torchvision's numbers",
)

SMALL_MASKS = {**SMALL_TWO_STAGE, "mask_width": 16, "mask_depth": 1}
register(
    "model",
    "mask_rcnn",
    "jaxvision.detection.mask_rcnn:MaskRCNN",
    smoke=SMALL_MASKS,
    backbone={"name": "resnet50"},
    neck=FPN_FROM_C2,
    doc="He et al. 2017",
)
register(
    "model",
    "torchvision/mask_rcnn",
    "jaxvision.detection.mask_rcnn:MaskRCNN",
    smoke=SMALL_MASKS,
    backbone=TORCHVISION_RESNET,
    neck=FPN_FROM_C2,
    **TORCHVISION_TWO_STAGE,
    mask_pooling={"size": 14, "sampling_ratio": 2, "aligned": False, "finest_scale": None},
    binary=False,
    doc="He et al. 2017, with torchvision's numbers",
)

for kind in ("bn", "sync_bn", "frozen_bn", "gn", "ln"):
    few = {"groups": 4} if kind == "gn" else {}  # the tiny forms are narrow
    register("norm", kind, "jaxvision.layers.norm:Norm", fixed={"kind": kind}, smoke=few)

for name, attribute in (("digits", "Digits"), ("idx", "Idx"), ("npz", "Npz"), ("tfds", "Tfds")):
    register("source", name, f"jaxvision.data.sources:{attribute}", smoke={"name": "synthetic"})
register("source", "digit_attributes", "jaxvision.data.sources:DigitAttributes", smoke={"num_examples": 20})
register("source", "presence", "jaxvision.data.presence:presence", supplied=("split",), smoke={"name": "synthetic"})
register("source", "synthetic", "jaxvision.data.sources:Synthetic", smoke={"num_examples": 20})
few = {"num_examples": 20, "validation_examples": 20}
register("source", "digit_scenes", "jaxvision.data.sources:DigitScenes", smoke=few)
register("source", "digit_clips", "jaxvision.data.sources:DigitClips", smoke=few)
for name in ("coco", "coco_panoptic", "image_csv", "image_folder", "image_mask", "tfds_records", "voc", "yolo"):
    target = f"jaxvision.data.sources.{name}:{name}"
    register("source", name, target, supplied=("split",), smoke={"name": "synthetic"})
for name in ("class_balanced", "concatenate", "k_fold", "repeat", "subset"):
    target = f"jaxvision.data.wrappers:{name}"
    nested = {"split": "train"} if name == "k_fold" else {}
    register("source", name, target, supplied=("split",), nested=nested, smoke={"name": "synthetic"})

for name, attribute in (
    ("color_jitter", "ColorJitter"),
    ("normalize", "Normalize"),
    ("random_crop_pad", "RandomCropPad"),
    ("random_flip", "RandomFlip"),
):
    register("augment", name, f"jaxvision.augment:{attribute}")

for name, attribute in (
    ("center_crop", "CenterCrop"),
    ("expand", "Expand"),
    ("iou_crop", "IouCrop"),
    ("letterbox", "Letterbox"),
    ("random_crop", "RandomCrop"),
    ("random_resized_crop", "RandomResizedCrop"),
    ("random_short_side", "RandomShortSide"),
    ("resize", "Resize"),
    ("resize_side", "ResizeSide"),
):
    register("host_transform", name, f"jaxvision.data.transforms:{attribute}")
for direction in ("horizontal", "vertical"):
    register("augment", f"random_{direction}_flip", "jaxvision.augment:RandomFlip", fixed={"direction": direction})
for name, attribute in (
    ("copy_paste", "CopyPaste"),
    ("cutmix", "CutMix"),
    ("detection_mixup", "DetectionMixup"),
    ("large_scale_jitter", "LargeScaleJitter"),
    ("mixup", "Mixup"),
    ("mixup_cutmix", "MixupCutMix"),
    ("mosaic", "Mosaic"),
    ("random_affine", "RandomAffine"),
    ("random_perspective", "RandomPerspective"),
    ("random_rot90", "RandomRot90"),
    ("random_rotate", "RandomRotate"),
    ("random_shear", "RandomShear"),
):
    register("augment", name, f"jaxvision.augment:{attribute}")

for name, attribute in (
    ("gaussian_blur", "GaussianBlur"),
    ("gaussian_noise", "GaussianNoise"),
    ("photo_metric_distortion", "PhotoMetricDistortion"),
    ("random_autocontrast", "RandomAutocontrast"),
    ("random_equalize", "RandomEqualize"),
    ("random_erasing", "RandomErasing"),
    ("random_grayscale", "RandomGrayscale"),
    ("random_hsv", "RandomHSV"),
    ("random_invert", "RandomInvert"),
    ("random_posterize", "RandomPosterize"),
    ("random_sharpness", "RandomSharpness"),
    ("random_solarize", "RandomSolarize"),
):
    register("augment", name, f"jaxvision.augment:{attribute}")

for name, attribute in (
    ("augmix", "AugMix"),
    ("autoaugment", "AutoAugment"),
    ("randaugment", "RandAugment"),
    ("timm/randaugment", "TimmRandAugment"),
    ("torchvision/randaugment", "RandAugment"),
    ("trivial_augment", "TrivialAugmentWide"),
):
    register("host_transform", name, f"jaxvision.data.transforms.policies:{attribute}")

for name in ("sgd", "adam", "adamw", "lamb", "lars", "lion", "rmsprop", "rmsprop_tf", "lbfgs"):
    register("optimizer", name, f"jaxvision.engine.optimizers:{name}")
for name in (
    *("constant", "step", "cosine", "polynomial", "linear", "one_cycle"),
    *("exponential", "reduce_on_plateau", "restarts"),
):
    register("learning_rate", name, f"jaxvision.engine.schedules:{name}")

for name, fixed in (
    ("views", {}),
    ("hflip", {"flips": ("horizontal",)}),
    ("flip", {"flips": ("horizontal", "vertical")}),
    ("d4", {"flips": ("horizontal",), "rotations": (90, 180, 270)}),
):
    register("tta", name, "jaxvision.engine.tta:TTA", fixed=fixed)
register("tta", "multiscale", "jaxvision.engine.tta:TTA", scales=(0.75, 1.0, 1.25))
for name in ("five_crop", "ten_crop"):
    register("tta", name, f"jaxvision.engine.tta:{name}")
