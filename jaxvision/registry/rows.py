"""Rows of everything but the families of backbones, the detectors and the segmenters, kind by kind."""

from jaxvision.registry.table import CLASSIFIER, register

register("task", "classification", "jaxvision.classification.task:ClassificationTask")
register("task", "distillation", "jaxvision.classification.distillation:DistillationTask")
register("task", "multi_task_classification", "jaxvision.classification.multi_task:MultiTaskClassification")

register("model", "multi_head", "jaxvision.classification.multi_task:MultiHeadClassifier")
register("model", "linear", CLASSIFIER, backbone={"name": "flatten"}, doc="softmax regression on pixels")
register("model", "lenet5", CLASSIFIER, backbone={"name": "lenet5"}, doc="LeCun et al. 1998")
register("backbone", "flatten", "jaxvision.classification.linear:Flatten")
register("backbone", "lenet5", "jaxvision.backbones.lenet:LeNet5")

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

register(
    "source",
    "random_proposals",
    "jaxvision.data.proposals:random_proposals",
    smoke={"source": {"name": "synthetic"}, "count": 16},
)
register(
    "source",
    "with_proposals",
    "jaxvision.data.proposals:with_proposals",
    smoke={"name": "random_proposals"},
)

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
    ("random_scale", "RandomScale"),
    ("random_scaled_crop", "RandomScaledCrop"),
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
