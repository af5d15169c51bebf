"""Recipes: what each config resolves to equals the published table."""

import dataclasses
import re

import pytest

from tests.recipes import ADAMW, CROP, FLIP, FOLDER, IMAGES, SGD, TIMM_ERASING, Recipe, check, vectors

IMAGENET = "tfds_records:imagenet2012"
TORCHVISION = "github.com/pytorch/vision references/classification/"
MMPRETRAIN = "github.com/open-mmlab/mmpretrain configs/"
RSB = (
    MMPRETRAIN + "resnet/resnet50_8xb256-rsb-{} with _base_/datasets/imagenet_bs256_rsb_{}.py (augmentation, bicubic) "
    "and _base_/schedules/imagenet_bs2048_rsb.py (LAMB); clipping at 1: timm/optim/lamb.py's max_grad_norm; sizes: "
    "timm/models/resnet.py, resnet50.{}; targets above 0.2: the README of ML-Decoder (Ridnik et al. 2021), "
    "leondgarse/keras_cv_attention_models train_script.py (timm's train.py has no threshold unless told)"
)
POLICY = {"name": "timm/randaugment", "policy": "rand-m9-mstd0.5-inc1", "interpolation": "bicubic"}
DEIT_MIXING = {"name": "mixup_cutmix", "mixup_alpha": 0.8, "cutmix_alpha": 1.0, "switch_probability": 0.5}
SMOOTHED = {"criterion": "cross_entropy", "label_smoothing": 0.1}
COSINE = 1e-5 + (1e-3 - 1e-5) / 2
"""Of DeiT and Swin, in the middle of the descent."""


def norms(path: str, dimensions: int) -> bool:
    """torchvision's `--norm-weight-decay 0`: what normalisation layers have; the classifier's bias is decayed."""
    return path.startswith("backbone/") and dimensions <= 1


def vit(path: str, dimensions: int) -> bool:
    """DeiT's and timm's no_weight_decay: vectors, the position embedding and the tokens."""
    return dimensions <= 1 or path.split("/")[-1] in ("pos_embed", "cls_token", "dist_token")


def mae(path: str) -> float:
    """util/lr_decay.py: 0.65 to the number of layers behind; the stem is layer 0, block i is i + 1, the rest 13."""
    block = re.match(r"backbone/blocks_(\d+)/", path)
    stem = re.match("backbone/(patch_embed/|pos_embed$|cls_token$)", path)
    return 0.65 ** (12 - int(block[1]) if block else 13 if stem else 0)


def repvgg(path: str, dimensions: int) -> bool:
    return path.endswith("bias") or ("/conv_" in path and path.endswith("/bn/scale"))


def model(name: str, **fields) -> dict:
    return {"name": name, "num_classes": 1000, **fields}


RECIPES = {
    "resnet50_imagenet": Recipe(
        TORCHVISION + "README.md, the table of parameters and ResNet (8 GPUs of 32 images)",
        IMAGENET,
        {"name": "resnet50", "num_classes": 1000},
        epochs=90,
        batch=256,
        optimizer=SGD | {"weight_decay": 1e-4},
        rates={0: 0.1, 29.9: 0.1, 30: 0.01, 60: 0.001, 89: 0.001},
    ),
    "resnet50_v2_imagenet": Recipe(
        TORCHVISION + "README.md, ShuffleNet V2: the command of ResNet50_Weights.IMAGENET1K_V2, see pull requests "
        "#4964, #5084 and #5201 (repeats 4); presets.py (interpolation of the policy), train.py (average, "
        "warm-up from 0.01)",
        IMAGENET,
        {"name": "resnet50", "num_classes": 1000},
        epochs=600,
        batch=1024,
        optimizer=SGD | {"weight_decay": 2e-5},
        # CosineAnnealingLR over 595 epochs after 5 of LinearLR from 0.01, both stepped once per epoch
        rates={0: 0.005, 5: 0.5, 302: 0.25066, 302.5: 0.25066, 599: 3.4845e-06},
        undecayed=norms,
        host=(CROP, {"name": "trivial_augment", "num_bins": 31, "interpolation": "bilinear"}),
        augment=(
            FLIP,
            {"name": "random_erasing", "probability": 0.1, "mode": "constant", "area": (0.02, 0.33)},
            {"name": "mixup_cutmix", "mixup_alpha": 0.2, "cutmix_alpha": 1.0, "switch_probability": 0.5},
        ),
        sizes=(176, 232, 224),
        loss={"criterion": "cross_entropy", "label_smoothing": 0.1},
        repeats=4,
        # 0.99998 every 32 steps, adjusted by 1024 * 32 / 600 (train.py)
        ema=(1 - 2e-5 * 1024 * 32 / 600) ** (1 / 32),
    ),
    "resnet50_rsb_a2_imagenet": Recipe(
        RSB.format("a2-300e_in1k.py", "a12", "a2_in1k"),
        IMAGENET,
        {"name": "resnet50", "num_classes": 1000, "backbone": {"drop_path_rate": 0.05}},
        epochs=300,
        batch=2048,
        optimizer={"name": "lamb", "b1": 0.9, "b2": 0.999, "eps": 1e-6, "weight_decay": 0.02},
        rates={0: 5e-7, 5: 5e-3, 152.5: 0.0025005, 299.999: 1e-6},
        undecayed=vectors,
        host=(CROP, {"name": "timm/randaugment", "policy": "rand-m7-mstd0.5-inc1", "interpolation": "bicubic"}),
        augment=(FLIP, {"name": "mixup_cutmix", "mixup_alpha": 0.1, "cutmix_alpha": 1.0, "num_classes": 1000}),
        sizes=(224, 236, 224),
        loss={"criterion": "binary_cross_entropy", "target_threshold": 0.2, "label_smoothing": 0.0},
        repeats=3,
        clip_norm=1.0,
        interpolation="bicubic",
    ),
    "resnet50_rsb_a3_imagenet": Recipe(
        RSB.format("a3-100e_in1k.py", "a3", "a3_in1k (160 pixels; OpenMMLab's has 224)"),
        IMAGENET,
        {"name": "resnet50", "num_classes": 1000, "backbone": {"drop_path_rate": 0.0}},
        epochs=100,
        batch=2048,
        optimizer={"name": "lamb", "b1": 0.9, "b2": 0.999, "eps": 1e-6, "weight_decay": 0.02},
        rates={0: 8e-7, 5: 8e-3, 52.5: 0.0040005, 99.999: 1e-6},
        undecayed=vectors,
        host=(CROP, {"name": "timm/randaugment", "policy": "rand-m6-mstd0.5-inc1", "interpolation": "bicubic"}),
        augment=(FLIP, {"name": "mixup_cutmix", "mixup_alpha": 0.1, "cutmix_alpha": 1.0}),
        sizes=(160, 236, 224),
        loss={"criterion": "binary_cross_entropy", "target_threshold": 0.2, "label_smoothing": 0.0},
        clip_norm=1.0,
        interpolation="bicubic",
    ),
    "resnet18_cifar10": Recipe(
        "github.com/kuangliu/pytorch-cifar main.py and README.md (accuracy)",
        "tfds:cifar10",
        {"name": "resnet18", "num_classes": 10, "backbone": {"stem": "cifar"}},
        epochs=200,
        batch=128,
        optimizer=SGD | {"weight_decay": 5e-4},
        rates={0: 0.1, 0.99: 0.1, 100: 0.05, 199: 6.1684e-06},
        augment=({"name": "random_crop_pad", "padding": 4}, FLIP),
        sizes=(32, None, 32),
    ),
    "resnet18_cifar100": Recipe(
        MMPRETRAIN + "resnet/resnet50_8xb16_cifar100.py, _base_/schedules/cifar10_bs128.py, datasets/cifar100_bs16.py",
        "tfds:cifar100",
        {"name": "resnet18", "num_classes": 100, "backbone": {"stem": "cifar"}},
        epochs=200,
        batch=128,
        optimizer=SGD | {"weight_decay": 5e-4},
        rates={0: 0.1, 59.9: 0.1, 60: 0.02, 120: 0.004, 160: 0.0008, 199: 0.0008},
        augment=({"name": "random_crop_pad", "padding": 4}, FLIP),
        sizes=(32, None, 32),
    ),
    "vgg16_imagenet": Recipe(
        TORCHVISION + "README.md, AlexNet and VGG; dropout: torchvision/models/vgg.py",
        IMAGENET,
        model("vgg16", dropout=0.5, backbone={"dropout": 0.5}),
        epochs=90,
        batch=256,
        optimizer=SGD | {"weight_decay": 1e-4},
        rates={0: 0.01, 30: 0.001, 60: 0.0001},
    ),
    "alexnet_imagenet": Recipe(
        TORCHVISION + "README.md, AlexNet and VGG; dropout: torchvision/models/alexnet.py",
        IMAGENET,
        model("alexnet", dropout=0.0, backbone={"dropout": 0.5}),
        epochs=90,
        batch=256,
        optimizer=SGD | {"weight_decay": 1e-4},
        rates={0: 0.01, 30: 0.001, 60: 0.0001},
    ),
    "mobilenetv2_imagenet": Recipe(
        TORCHVISION + "README.md, MobileNetV2; dropout: torchvision/models/mobilenetv2.py",
        IMAGENET,
        model("mobilenetv2_100", dropout=0.2),
        epochs=300,
        batch=256,
        optimizer=SGD | {"weight_decay": 4e-5},
        rates={0: 0.045, 0.9: 0.045, 1: 0.0441, 100: 0.045 * 0.98**100},
    ),
    "mobilenetv3_imagenet": Recipe(
        TORCHVISION + "README.md, MobileNetV3 Large & Small; train.py (eps=0.0316, alpha=0.9), presets.py "
        "(interpolation); dropout: torchvision/models/mobilenetv3.py",
        IMAGENET,
        model("mobilenet_v3_large", dropout=0.2),
        epochs=600,
        batch=1024,
        optimizer={"name": "rmsprop", "decay": 0.9, "eps": 0.0316, "momentum": 0.9, "weight_decay": 1e-5},
        rates={0: 0.064, 1.9: 0.064, 2: 0.064 * 0.973, 200: 0.064 * 0.973**100},
        host=(CROP, {"name": "autoaugment", "policy": "imagenet", "interpolation": "bilinear"}),
        augment=(FLIP, {"name": "random_erasing", "probability": 0.2, "mode": "constant"}),
    ),
    "efficientnet_b0_imagenet": Recipe(
        "github.com/huggingface/pytorch-image-models docs/training_hparam_examples.md, EfficientNet-B0 with "
        "RandAugment; train.py at 004fb5f (warm-up of 3 epochs, smoothing 0.1, windows of random interpolation), "
        "timm/models/efficientnet.py, efficientnet_b0.ra_in1k (evaluation)",
        IMAGENET,
        model("efficientnet_b0", dropout=0.2, backbone={"drop_path_rate": 0.2}),
        epochs=450,
        batch=768,
        optimizer={"name": "rmsprop_tf", "decay": 0.9, "eps": 1e-3, "momentum": 0.9, "weight_decay": 1e-5},
        rates={0: 1e-6, 24: 0.048 * 0.97**10, 240.1: 0.048 * 0.97**100},
        undecayed=vectors,
        host=(CROP, {"name": "timm/randaugment", "policy": "rand-m9-mstd0.5", "interpolation": "random"}),
        augment=(FLIP, TIMM_ERASING | {"probability": 0.2}),
        loss=SMOOTHED,
        ema=0.9999,
        interpolation="bicubic",
    ),
    "regnety_004_imagenet": Recipe(
        TORCHVISION + "README.md, RegNet, small models (0.4 for regnet_y_400mf)",
        IMAGENET,
        model("regnety_004"),
        epochs=100,
        batch=1024,
        optimizer=SGD | {"weight_decay": 5e-5},
        rates={0: 0.04, 5: 0.4, 52: 0.203307, 99: 0.4 * 2.73371e-4},
    ),
    "convnext_tiny_imagenet": Recipe(
        "github.com/facebookresearch/ConvNeXt TRAINING.md (ConvNeXt-T) and the defaults of main.py, utils.py (rates), "
        "datasets.py (bicubic), optim_factory.py (undecayed)",
        IMAGENET,
        model("convnext_tiny", backbone={"drop_path_rate": 0.1}),
        epochs=300,
        batch=4096,
        optimizer=ADAMW | {"weight_decay": 0.05},
        rates={0: 0.0, 10: 2e-3, 20: 4e-3, 160: 0.0020005, 299.999: 1e-6},
        undecayed=vectors,
        host=(CROP, POLICY),
        augment=(FLIP, TIMM_ERASING, DEIT_MIXING),
        loss=SMOOTHED,
        ema=0.9999,
        interpolation="bicubic",
    ),
    "vit_base_patch16_224_imagenet": Recipe(
        TORCHVISION + "README.md, vit_b_16; train.py (repeats 3, average), presets.py (policy)",
        IMAGENET,
        model("vit_base_patch16_224"),
        epochs=300,
        batch=4096,
        optimizer=ADAMW | {"weight_decay": 0.3},
        rates={0: 9.9e-5, 30: 3e-3, 165: 1.5e-3},
        host=(CROP, {"name": "torchvision/randaugment", "num_ops": 2, "magnitude": 9, "interpolation": "bilinear"}),
        augment=(FLIP, {"name": "mixup_cutmix", "mixup_alpha": 0.2, "cutmix_alpha": 1.0}),
        loss={"criterion": "cross_entropy", "label_smoothing": 0.11},
        repeats=3,
        clip_norm=1.0,
        ema=(1 - 2e-5 * 4096 * 32 / 300) ** (1 / 32),
    ),
    "deit_small_patch16_224_imagenet": Recipe(
        "github.com/facebookresearch/deit README_deit.md (4 GPUs of 256 images) and the defaults of main.py, "
        "samplers.py (repeats 3), datasets.py (bicubic)",
        IMAGENET,
        model("deit_small_patch16_224", backbone={"drop_path_rate": 0.1}),
        epochs=300,
        batch=1024,
        optimizer=ADAMW | {"weight_decay": 0.05},
        rates={0: 1e-6, 150: COSINE, 299: 1.0027e-05},
        undecayed=vit,
        host=(CROP, POLICY),
        augment=(FLIP, TIMM_ERASING, DEIT_MIXING),
        loss=SMOOTHED,
        repeats=3,
        ema=0.99996,
        interpolation="bicubic",
    ),
    "deit_small_distilled_patch16_224_imagenet": Recipe(
        "github.com/facebookresearch/deit README_deit.md (the command of DeiT-B, hard distillation by regnety_160), "
        "the defaults of main.py (alpha 0.5), losses.py",
        IMAGENET,
        model("deit_small_distilled_patch16_224", backbone={"drop_path_rate": 0.1}),
        epochs=300,
        batch=1024,
        optimizer=ADAMW | {"weight_decay": 0.05},
        rates={0: 1e-6, 150: COSINE, 299: 1.0027e-05},
        undecayed=vit,
        host=(CROP, POLICY),
        augment=(FLIP, TIMM_ERASING, DEIT_MIXING),
        loss=SMOOTHED | {"name": "distillation", "form": "hard", "weight": 0.5, "teacher": model("regnety_160")},
        repeats=3,
        ema=0.99996,
        interpolation="bicubic",
    ),
    "swin_tiny_patch4_window7_224_imagenet": Recipe(
        MMPRETRAIN + "swin_transformer/swin-tiny_16xb64_in1k.py, _base_/schedules/imagenet_bs1024_adamw_swin.py, "
        "datasets/imagenet_bs64_swin_224.py, models/swin_transformer/tiny_224.py; the same in "
        "github.com/microsoft/Swin-Transformer config.py, configs/swin/swin_tiny_patch4_window7_224.yaml, "
        "data/build.py, lr_scheduler.py, optimizer.py",
        IMAGENET,
        model("swin_tiny_patch4_window7_224", backbone={"drop_path_rate": 0.2}),
        epochs=300,
        batch=1024,
        optimizer=ADAMW | {"weight_decay": 0.05},
        rates={0: 1e-6, 20: 1e-3, 160: COSINE, 299.999: 1e-5},
        undecayed=lambda path, n: n <= 1 or path.endswith("/relative_position_bias_table"),
        host=(CROP, POLICY),
        augment=(FLIP, TIMM_ERASING, DEIT_MIXING),
        loss=SMOOTHED,
        clip_norm=5.0,
        interpolation="bicubic",
    ),
    "repvgg_a0_imagenet": Recipe(
        MMPRETRAIN + "repvgg/repvgg-A0_8xb32_in1k.py, _base_/schedules/imagenet_bs256_coslr.py, "
        "datasets/imagenet_bs32_pil_resize.py; the same in github.com/DingXiaoH/RepVGG README.md",
        IMAGENET,
        model("repvgg_a0"),
        epochs=120,
        batch=256,
        optimizer=SGD | {"weight_decay": 1e-4},
        rates={0: 0.1, 60: 0.05, 119.999: 0.0},
        undecayed=repvgg,
    ),
    "vit_base_patch16_224_finetune_image_folder": Recipe(
        "github.com/facebookresearch/mae FINETUNE.md, ViT-Base, and the defaults of main_finetune.py (Mixup and CutMix "
        "left out), util/lr_decay.py, util/lr_sched.py, util/datasets.py; the batch is ours",
        FOLDER,
        model("vit_base_patch16_224", backbone={"drop_path_rate": 0.1}),
        epochs=100,
        batch=128,
        optimizer=ADAMW | {"weight_decay": 0.05},
        rates={0: 0.0, 2.5: 1.25e-4, 5: 2.5e-4, 52.5: 1.255e-4, 99.999: 1e-6},
        undecayed=vit,
        factor=mae,
        host=(CROP, POLICY),
        augment=(FLIP, TIMM_ERASING),
        loss=SMOOTHED,
        interpolation="bicubic",
    ),
}


@pytest.mark.parametrize("name", RECIPES)
def test_the_resolved_config_is_the_published_recipe(name):
    check(f"configs/classification/{name}.py", RECIPES[name])


def test_a_wrong_number_in_a_recipe_is_found():
    recipe = RECIPES["resnet50_imagenet"]
    wrong = [
        {"epochs": 91},
        {"rates": {30: 0.1}},
        {"optimizer": SGD | {"weight_decay": 2e-4}},
        {"undecayed": vectors},
        {"factor": lambda path: 0.5},
        {"repeats": 2},
        {"sizes": (224, 232, 224)},
        {"augment": ()},
        {"interpolation": "bicubic"},
    ]
    for change in wrong:
        with pytest.raises(AssertionError):
            check("configs/classification/resnet50_imagenet.py", dataclasses.replace(recipe, **change))


def test_the_data_sets_of_the_table_are_those_of_the_configs():
    assert {recipe.data for recipe in RECIPES.values()} == set(IMAGES)
