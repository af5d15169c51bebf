"""Recipes of detectors: what each config for COCO resolves to equals the published one."""

import dataclasses
from pathlib import Path

import pytest

from tests.detection.recipes import FROZEN, DetectorRecipe, check
from tests.recipes import ADAMW, FLIP, SGD

CONFIGS = Path(__file__).parents[2] / "configs"
MMDET = "github.com/open-mmlab/mmdetection configs/"
ONE = " with _base_/schedules/schedule_1x.py and _base_/datasets/coco_detection.py"


def model(name: str, **fields) -> dict:
    """A detector with a ResNet-50, whose norms are frozen as Detectron's and torchvision's.

    OpenMMLab trains their scales and biases where this table does not say otherwise (`requires_grad=True`), on frozen
    statistics.
    """
    return {"name": name, "backbone": FROZEN, **fields}


def fcos_factor(path: str) -> float:
    """bias_lr_mult=2 of `paramwise_cfg`, which is for convolutions."""
    named = ("cls_logits", "bbox_reg", "bbox_ctrness")
    return 2.0 if path.endswith("/bias") and (path.startswith("neck/") or path.split("/")[-2] in named) else 1.0


def vectors(path: str, dimensions: int) -> bool:
    """norm_decay_mult=0 and bias_decay_mult=0."""
    return dimensions <= 1


def backbone_tenth(path: str) -> float:
    return 0.1 if path.startswith("backbone/") else 1.0


def deformable_factor(path: str) -> float:
    """custom_keys of deformable-detr_r50_16xb2-50e_coco.py."""
    slow = path.startswith("backbone/") or "sampling_offsets" in path or "reference_points" in path
    return 0.1 if slow else 1.0


PROPOSALS = {"name": "detection", "protocols": ("proposals",)}
MASKS = {"name": "instance_segmentation", "protocols": ("coco", "coco_masks")}
RECIPES = {
    "retinanet_r50_fpn_coco": DetectorRecipe(
        MMDET + "retinanet/retinanet_r50_fpn_1x_coco.py" + ONE, model("retinanet"), 0.01
    ),
    "atss_r50_fpn_coco": DetectorRecipe(MMDET + "atss/atss_r50_fpn_1x_coco.py" + ONE, model("atss"), 0.01),
    "fcos_r50_fpn_coco": DetectorRecipe(
        MMDET + "fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py (backbone and normalisation are ours)" + ONE,
        model("fcos"),
        0.01,
        warmup={0: 1 / 3, 499: 1 / 3, 500: 1.0},
        clip_norm=35.0,
        factor=fcos_factor,
        undecayed=lambda path, n: fcos_factor(path) == 2.0,
    ),
    "rpn_r50_fpn_coco": DetectorRecipe(
        MMDET + "rpn/rpn_r50_fpn_1x_coco.py" + ONE,
        model("rpn"),
        0.02,
        task=PROPOSALS,
    ),
    "faster_rcnn_r50_fpn_coco": DetectorRecipe(
        MMDET + "faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py" + ONE, model("faster_rcnn"), 0.02
    ),
    "mask_rcnn_r50_fpn_coco": DetectorRecipe(
        MMDET + "mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py with _base_/datasets/coco_instance.py",
        model("mask_rcnn"),
        0.02,
        task=MASKS,
    ),
}

DECAYED = SGD | {"weight_decay": 5e-4}
OURS = " (weights that it starts from and normalisation are ours)"
LARGE_AND_CUT = ({"name": "expand"}, {"name": "iou_crop"}, "resize")
FLIP_AND_DISTORT = (FLIP, "photo_metric_distortion")


def nothing(path: str, dimensions: int) -> bool:
    return False


def ssd(size: int) -> DetectorRecipe:
    return DetectorRecipe(
        MMDET + f"ssd/ssd{size}_coco.py, _base_/schedules/schedule_2x.py{OURS}; 24 epochs of data repeated 5 times",
        {"name": f"ssd{size}"},
        2e-3,
        steps_down=(80, 110),
        epochs=120,
        batch=64,
        optimizer=DECAYED,
        frozen=nothing,
        canvas=(size, size),
        buckets=(),
        host=LARGE_AND_CUT,
        eval_host=("resize",),
        augment=FLIP_AND_DISTORT,
        pretrained="torchvision:vgg16",
    )


TWO_STAGE = {
    "cascade_rcnn_r50_fpn_coco": ("cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py", "cascade_rcnn"),
    "fast_rcnn_r50_fpn_coco": ("fast_rcnn/fast-rcnn_r50_fpn_1x_coco.py", "fast_rcnn"),
    "faster_rcnn_r50_pafpn_coco": ("pafpn/faster-rcnn_r50_pafpn_1x_coco.py", "faster_rcnn"),
    "faster_rcnn_r50_fpn_dconv_c3_c5_coco": ("dcn/faster-rcnn_r50-dconv-c3-c5_fpn_1x_coco.py", "faster_rcnn"),
    "faster_rcnn_r50_c4_coco": ("faster_rcnn/faster-rcnn_r50-caffe-c4_1x_coco.py" + OURS, "faster_rcnn_c4"),
    "faster_rcnn_r50_dc5_coco": ("faster_rcnn/faster-rcnn_r50-caffe-dc5_1x_coco.py" + OURS, "faster_rcnn_dc5"),
}

RECIPES |= {
    **{name: DetectorRecipe(MMDET + file + ONE, model(kind), 0.02) for name, (file, kind) in TWO_STAGE.items()},
    "rpn_r50_c4_coco": DetectorRecipe(
        MMDET + "rpn/rpn_r50-caffe-c4_1x_coco.py" + OURS, model("rpn_c4"), 0.02, task=PROPOSALS
    ),
    "mask_rcnn_r50_c4_coco": DetectorRecipe(
        MMDET + "mask_rcnn/mask-rcnn_r50-caffe-c4_1x_coco.py" + OURS, model("mask_rcnn_c4"), 0.02, task=MASKS
    ),
    "cascade_mask_rcnn_r50_fpn_coco": DetectorRecipe(
        MMDET + "cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py", model("cascade_mask_rcnn"), 0.02, task=MASKS
    ),
    "panoptic_fpn_r50_fpn_coco": DetectorRecipe(
        MMDET + "panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py with _base_/datasets/coco_panoptic.py",
        model("panoptic_fpn", num_classes=133),
        0.02,
        task={"name": "panoptic_segmentation"},
    ),
    "ssd300_vgg16_coco": ssd(300),
    "ssd512_vgg16_coco": ssd(512),
    "yolov3_d53_coco": DetectorRecipe(
        MMDET + "yolo/yolov3_d53_8xb8-ms-608-273e_coco.py (a size for each image, not for each step)",
        {"name": "yolov3"},
        1e-3,
        steps_down=(218, 246),
        warmup={0: 0.1, 2000: 1.0},
        epochs=273,
        batch=64,
        optimizer=DECAYED,
        clip_norm=35.0,
        frozen=nothing,
        canvas=(608, 608),
        buckets=tuple((size, size) for size in range(320, 609, 32)),
        eval_buckets=(),
        host=(
            {"name": "expand", "sides": (1.0, 2.0), "fill": 0},
            {"name": "iou_crop", "overlaps": (0.0, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)},
            {"name": "resize", "mode": "fit"},
        ),
        eval_host=({"name": "resize", "mode": "fit"},),
        augment=FLIP_AND_DISTORT,
        normalize={"mean": (0.0,), "std": (1.0,)},
        pretrained=None,
    ),
    "yolox_s_coco": DetectorRecipe(
        MMDET + "yolox/yolox_s_8xb8-300e_coco.py (cosine between the epochs 5 and 285 down to a twentieth)",
        {"name": "yolox_s"},
        0.01,
        steps_down=None,
        rates={0: 0.0, 2.5: 0.0025, 5: 0.01, 145: 0.00525, 285: 0.0005, 299: 0.0005},
        warmup={},
        epochs=300,
        batch=64,
        optimizer=SGD | {"weight_decay": 5e-4, "nesterov": True},
        ema=0.9999,
        undecayed=vectors,
        frozen=nothing,
        canvas=(640, 640),
        buckets=tuple((size, size) for size in range(480, 801, 32)),
        eval_buckets=(),
        host=None,  # mosaic and blends of our own form
        eval_host=None,
        augment=None,
        normalize={"mean": (0.0,), "std": (1 / 255,), "bgr": True},
        pretrained=None,
    ),
    "detr_r50_coco": DetectorRecipe(
        MMDET + "detr/detr_r50_8xb2-150e_coco.py",
        model("detr"),
        1e-4,
        steps_down=None,
        rates={0: 1e-4, 99.9: 1e-4, 100: 1e-5, 149: 1e-5},
        warmup={},
        epochs=150,
        optimizer=ADAMW | {"weight_decay": 1e-4},
        clip_norm=0.1,
        factor=backbone_tenth,
        host=None,  # one of eleven sizes, half of the images after a window
    ),
    "deformable_detr_r50_coco": DetectorRecipe(
        MMDET + "deformable_detr/deformable-detr_r50_16xb2-50e_coco.py",
        model("deformable_detr"),
        2e-4,
        steps_down=None,
        rates={0: 2e-4, 39.9: 2e-4, 40: 2e-5, 49: 2e-5},
        warmup={},
        epochs=50,
        batch=32,
        optimizer=ADAMW | {"weight_decay": 1e-4},
        clip_norm=0.1,
        factor=deformable_factor,
        host=None,
    ),
}


def configs() -> dict[str, Path]:
    return {path.stem: path for path in CONFIGS.glob("*/*_coco.py") if path.parent.name != "common"}


def test_every_config_for_coco_has_a_row():
    assert set(configs()) == set(RECIPES)


@pytest.mark.parametrize("name", sorted(configs()))
def test_the_resolved_config_is_the_published_recipe(name):
    check(str(configs()[name]), RECIPES[name])


def test_a_wrong_number_in_a_recipe_is_found():
    name = "fcos_r50_fpn_coco"
    wrong = [
        {"learning_rate": 0.02},
        {"steps_down": (9, 11)},
        {"warmup": {0: 0.001}},
        {"clip_norm": None},
        {"factor": None},
        {"undecayed": None},
        {"frozen": lambda path, dimensions: False},
        {"augment": ()},
        {"buckets": ()},
        {"pretrained": "torchvision:resnet18"},
        {"task": MASKS},
    ]
    for change in wrong:
        with pytest.raises(AssertionError):
            check(str(configs()[name]), dataclasses.replace(RECIPES[name], **change))
