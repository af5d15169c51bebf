"""Rows of the families of backbones: each size is a backbone and, with a classifier, a model of that name."""

from jaxvision.registry.table import register_family

register_family(
    "resnet",
    "jaxvision.backbones.resnet:ResNet",
    (
        *("resnet18", "resnet26", "resnet34", "resnet50", "resnet101", "resnet152", "resnet200"),
        *("resnet50c", "resnet101c", "resnet152c", "resnet50s", "resnet101s", "resnet152s"),
        *("resnet18d", "resnet26d", "resnet34d", "resnet50d", "resnet101d", "resnet152d", "resnet200d"),
        *("resnet10t", "resnet14t", "resnet26t", "resnet50t", "resnet50_gn"),
        *("resnet50_caffe", "resnet101_caffe", "wide_resnet50_2", "wide_resnet101_2"),
        *("resnet18_cifar", "resnet34_cifar", "resnet50_cifar", "resnet101_cifar", "resnet152_cifar"),
        *("resnext50_32x4d", "resnext50d_32x4d", "resnext101_32x4d", "resnext101_32x8d", "resnext101_32x16d"),
        *("resnext101_32x32d", "resnext101_64x4d", "resnext152_32x4d"),
    ),
    smoke={"depth": 14, "width": 8},
    aliases={
        **{f"resnetv1c{depth}": f"resnet{depth}c" for depth in (50, 101, 152)},
        **{f"resnetv1d{depth}": f"resnet{depth}d" for depth in (50, 101, 152)},
        "wide-resnet50": "wide_resnet50_2",
    },
    doc="He et al. 2015",
)
register_family(
    "senet",
    "jaxvision.backbones.senet:SENet",
    (
        *("seresnet18", "seresnet34", "seresnet50", "seresnet101", "seresnet152", "seresnet50t"),
        *("seresnet152d", "seresnet200d", "seresnet269d", "seresnext26d_32x4d", "seresnext26t_32x4d"),
        *("seresnext50_32x4d", "seresnext101_32x4d", "seresnext101_32x8d", "seresnext101_64x4d"),
        *("seresnext101d_32x8d", "senet154", "legacy_senet154", "legacy_seresnet18", "legacy_seresnet34"),
        *("legacy_seresnet50", "legacy_seresnet101", "legacy_seresnet152", "legacy_seresnext26_32x4d"),
        *("legacy_seresnext50_32x4d", "legacy_seresnext101_32x4d"),
    ),
    smoke={"depth": 14, "width": 8},
    doc="Hu et al. 2018",
)
register_family(
    "resnest",
    "jaxvision.backbones.resnest:ResNeSt",
    (
        *("resnest14d", "resnest26d", "resnest50d", "resnest101e", "resnest200e", "resnest269e"),
        *("resnest50d_4s2x40d", "resnest50d_1s4x24d"),
    ),
    smoke={"depth": 14, "width": 8},
    aliases={
        **{f"resnest{depth}": f"resnest{depth}{stem}" for depth, stem in ((50, "d"), (101, "e"), (200, "e"))},
        "resnest269": "resnest269e",
    },
    doc="Zhang et al. 2022",
)
register_family(
    "vit",
    "jaxvision.backbones.vit:VisionTransformer",
    (
        *("vit_tiny_patch16_224", "vit_tiny_patch16_384"),
        *(f"vit_{size}_patch{patch}_{side}" for size in ("small", "base") for patch in (32, 16) for side in (224, 384)),
        *("vit_small_patch8_224", "vit_base_patch8_224", "vit_base_patch16_224_miil"),
        *(f"vit_large_patch{patch}_{side}" for patch in (32, 16) for side in (224, 384)),
        *("vit_large_patch14_224", "vit_huge_patch14_224"),
        *("vit_base_patch32_plus_256", "vit_base_patch16_plus_240", "vit_small_patch16_36x1_224"),
        *("vit_medium_patch16_gap_240", "vit_medium_patch16_gap_256", "vit_medium_patch16_gap_384"),
        *("vit_betwixt_patch16_gap_256", "vit_base_patch16_gap_224"),
        *(f"vit_{size}_patch16_reg1_gap_256" for size in ("wee", "little", "medium", "betwixt")),
        *(f"vit_{size}_patch16_reg4_gap_256" for size in ("little", "medium", "mediumd", "betwixt", "base")),
        *("vit_mediumd_patch16_reg4_gap_384", "vit_betwixt_patch16_reg4_gap_384"),
        *("vit_xsmall_patch16_clip_224", "vit_medium_patch32_clip_224", "vit_medium_patch16_clip_224"),
        *("vit_betwixt_patch32_clip_224", "vit_base_patch32_clip_224", "vit_base_patch32_clip_256"),
        *("vit_base_patch32_clip_384", "vit_base_patch32_clip_448", "vit_base_patch16_clip_224"),
        *("vit_base_patch16_clip_384", "vit_base_patch16_plus_clip_240"),
        *("vit_large_patch14_clip_224", "vit_large_patch14_clip_336", "eva_large_patch14_196", "eva_large_patch14_336"),
        *("flexivit_small", "flexivit_base", "flexivit_large"),
        *(f"vit_{size}_patch14_{form}dinov2" for form in ("", "reg4_") for size in ("small", "base", "large")),
        *("deit_tiny_patch16_224", "deit_small_patch16_224", "deit_base_patch16_224", "deit_base_patch16_384"),
        *("deit3_small_patch16_224", "deit3_small_patch16_384", "deit3_medium_patch16_224", "deit3_base_patch16_224"),
        *("deit3_base_patch16_384", "deit3_large_patch16_224", "deit3_large_patch16_384", "deit3_huge_patch14_224"),
    ),
    smoke={"image_size": 64, "patch_size": 16, "width": 16, "depth": 2, "heads": 2},
    pooled=True,
    aliases={
        **{
            f"vit_{size[0]}_{patch}": f"vit_{size}_patch{patch}_224" for size in ("base", "large") for patch in (16, 32)
        },
        "vit_h_14": "vit_huge_patch14_224",
        **{f"vit-{size}-p{patch}": f"vit_{size}_patch{patch}_224" for size in ("base", "large") for patch in (16, 32)},
        **{f"deit-{size}": f"deit_{size}_patch16_224" for size in ("tiny", "small", "base")},
        **{f"deit3-{size}-p16": f"deit3_{size}_patch16_224" for size in ("small", "medium", "base", "large")},
        "deit3-huge-p14": "deit3_huge_patch14_224",
        **{f"vit-{size}-p14_dinov2": f"vit_{size}_patch14_dinov2" for size in ("small", "base", "large")},
        **{f"dinov2_vit{size[0]}14": f"vit_{size}_patch14_dinov2" for size in ("small", "base", "large")},
    },
    doc="Dosovitskiy et al. 2021",
)
register_family(
    "deit_distilled",
    "jaxvision.backbones.vit:DistilledVisionTransformer",
    (
        *("deit_tiny_distilled_patch16_224", "deit_small_distilled_patch16_224"),
        *("deit_base_distilled_patch16_224", "deit_base_distilled_patch16_384"),
    ),
    smoke={"image_size": 64, "width": 16, "depth": 2, "heads": 2},
    classifier="jaxvision.classification.distilled:DistilledClassifier",
    aliases={f"deit-{size}-distilled": f"deit_{size}_distilled_patch16_224" for size in ("tiny", "small", "base")},
    doc="Touvron et al. 2021",
)
register_family(
    "convnext",
    "jaxvision.backbones.convnext:ConvNeXt",
    (
        *("convnext_atto", "convnext_atto_ols", "convnext_femto", "convnext_femto_ols", "convnext_pico"),
        *("convnext_pico_ols", "convnext_nano", "convnext_nano_ols", "convnext_tiny", "convnext_tiny_hnf"),
        *("convnext_small", "convnext_base", "convnext_large", "convnext_large_mlp", "convnext_xlarge"),
        *("convnext_xxlarge", "convnextv2_atto", "convnextv2_femto", "convnextv2_pico", "convnextv2_nano"),
        *("convnextv2_tiny", "convnextv2_small", "convnextv2_base", "convnextv2_large", "convnextv2_huge"),
    ),
    smoke={"widths": (8, 16, 24, 32), "depths": (1, 1, 1, 1)},
    pooled=True,
    aliases={
        **{f"convnext-{size}": f"convnext_{size}" for size in ("tiny", "small", "base", "large", "xlarge")},
        **{
            f"convnext-v2-{size}": f"convnextv2_{size}"
            for size in ("atto", "femto", "pico", "nano", "tiny", "base", "large", "huge")
        },
    },
    doc="Liu et al. 2022, Woo et al. 2023",
)
register_family(
    "mlp_mixer",
    "jaxvision.backbones.mlp_mixer:MlpMixer",
    (
        *("mixer_s32_224", "mixer_s16_224", "mixer_b32_224", "mixer_b16_224", "mixer_l32_224", "mixer_l16_224"),
        *("openmmlab/mixer_b16_224", "openmmlab/mixer_l16_224"),
    ),
    smoke={"width": 32, "depth": 2, "image_size": 64},
    aliases={
        "mlp-mixer-base-p16": "openmmlab/mixer_b16_224",
        "mlp-mixer-large-p16": "openmmlab/mixer_l16_224",
    },
    doc="Tolstikhin et al. 2021",
)
register_family(
    "mit",
    "jaxvision.backbones.mit:MixVisionTransformer",
    (
        *("mit_b0", "mit_b1", "mit_b2", "mit_b3", "mit_b4", "mit_b5"),
        *(f"{source}/mit_b{i}" for source in ("openmmlab", "huggingface") for i in range(6)),
    ),
    smoke={"widths": (16, 32, 40, 64), "depths": (1, 1, 1, 1)},
    aliases={f"mit-b{i}": f"openmmlab/mit_b{i}" for i in range(6)},
    doc="Xie et al. 2021",
)
register_family(
    "mobilenetv2",
    "jaxvision.backbones.mobilenet_v2:MobileNetV2",
    (
        *("mobilenetv2_035", "mobilenetv2_050", "mobilenetv2_075", "mobilenetv2_100", "mobilenetv2_140"),
        *("mobilenetv2_110d", "mobilenetv2_120d", "huggingface/mobilenetv2_035", "huggingface/mobilenetv2_075"),
        *("huggingface/mobilenetv2_100", "huggingface/mobilenetv2_140"),
    ),
    smoke={"width": 0.25, "depth": 0.25},
    pooled=True,
    aliases={"mobilenet_v2": "mobilenetv2_100", "mobilenet-v2": "mobilenetv2_100"},
    doc="Sandler et al. 2018",
)
register_family(
    "mobilenetv3",
    "jaxvision.backbones.mobilenet_v3:MobileNetV3",
    (
        *("mobilenetv3_large_075", "mobilenetv3_large_100", "mobilenetv3_large_150d", "mobilenetv3_small_050"),
        *("mobilenetv3_small_075", "mobilenetv3_small_100", "mobilenetv3_rw", "tf_mobilenetv3_large_075"),
        *("tf_mobilenetv3_large_100", "tf_mobilenetv3_large_minimal_100", "tf_mobilenetv3_small_075"),
        *("tf_mobilenetv3_small_100", "tf_mobilenetv3_small_minimal_100"),
        *("mobilenet_v3_large", "mobilenet_v3_small"),
    ),
    smoke={"width": 0.25, "depth": 0.25, "hidden": 128},
    pooled=True,
    aliases={
        **{f"mobilenet-v3-{form}": f"mobilenet_v3_{form}" for form in ("large", "small")},
        **{f"mobilenet-v3-small-{width}": f"mobilenetv3_small_{width}" for width in ("050", "075")},
        **{
            f"{source}/mobilenetv3_{form}_100": f"mobilenet_v3_{form}"
            for source in ("torchvision", "openmmlab")
            for form in ("large", "small")
        },
    },
    doc="Howard et al. 2019",
)
register_family(
    "efficientnet",
    "jaxvision.backbones.efficientnet:EfficientNet",
    (
        *(f"{prefix}efficientnet_b{i}" for prefix in ("", "tf_") for i in range(9)),
        *(f"torchvision/efficientnet_b{i}" for i in (5, 6, 7)),
    ),
    smoke={"width": 0.25, "depth": 0.25},
    pooled=True,
    aliases={
        **{f"efficientnet-b{i}": f"tf_efficientnet_b{i}" for i in range(9)},
        **{f"openmmlab/efficientnet_b{i}": f"tf_efficientnet_b{i}" for i in range(9)},
        **{f"huggingface/efficientnet_b{i}": f"tf_efficientnet_b{i}" for i in range(8)},
    },
    doc="Tan and Le 2019",
)
register_family(
    "swin",
    "jaxvision.backbones.swin:SwinTransformer",
    (
        *("swin_tiny_patch4_window7_224", "swin_small_patch4_window7_224", "swin_base_patch4_window7_224"),
        *("swin_base_patch4_window12_384", "swin_large_patch4_window7_224", "swin_large_patch4_window12_384"),
        *("swin_s3_tiny_224", "swin_s3_small_224", "swin_s3_base_224"),
    ),
    smoke={"width": 16, "depths": (2, 1, 1, 1), "heads": (1, 2, 2, 4), "window_size": (4, 4, 2, 2)},
    pooled=True,
    aliases={
        **{f"swin_{name[0]}": f"swin_{name}_patch4_window7_224" for name in ("tiny", "small", "base")},
        **{f"swin-{name}": f"swin_{name}_patch4_window7_224" for name in ("tiny", "small", "base", "large")},
    },
    doc="Liu et al. 2021",
)
register_family(
    "swin_v2",
    "jaxvision.backbones.swin_v2:SwinTransformerV2",
    (
        *(f"swinv2_{size}_window{window}_256" for size in ("tiny", "small", "base") for window in (8, 16)),
        *(
            f"swinv2_{size}_window12{form}"
            for size in ("base", "large")
            for form in ("_192", "to16_192to256", "to24_192to384")
        ),
    ),
    smoke={"width": 16, "depths": (2, 1, 1, 1), "heads": (1, 2, 2, 4), "window_size": (4, 4, 2, 2)},
    pooled=True,
    aliases={f"swin_v2_{name[0]}": f"swinv2_{name}_window8_256" for name in ("tiny", "small", "base")},
    doc="Liu et al. 2022",
)
register_family(
    "regnet",
    "jaxvision.backbones.regnet:RegNet",
    (
        *("regnetx_002", "regnetx_004", "regnetx_004_tv", "regnetx_006", "regnetx_008", "regnetx_016", "regnetx_032"),
        *("regnetx_040", "regnetx_064", "regnetx_080", "regnetx_120", "regnetx_160", "regnetx_320"),
        *("regnety_002", "regnety_004", "regnety_006", "regnety_008", "regnety_008_tv", "regnety_016", "regnety_032"),
        *("regnety_040", "regnety_064", "regnety_080", "regnety_080_tv", "regnety_120", "regnety_160", "regnety_320"),
        *("regnety_640", "regnety_1280", "regnety_2560"),
    ),
    smoke={"depth": 6, "w0": 8, "wa": 8.0, "wm": 2.0, "group_width": 4, "stem_width": 8},
    aliases={
        "regnet_x_400mf": "regnetx_004_tv",
        "regnet_x_800mf": "regnetx_008",
        "regnet_x_1_6gf": "regnetx_016",
        "regnet_x_3_2gf": "regnetx_032",
        "regnet_x_8gf": "regnetx_080",
        "regnet_x_16gf": "regnetx_160",
        "regnet_x_32gf": "regnetx_320",
        "regnet_y_400mf": "regnety_004",
        "regnet_y_800mf": "regnety_008_tv",
        "regnet_y_1_6gf": "regnety_016",
        "regnet_y_3_2gf": "regnety_032",
        "regnet_y_8gf": "regnety_080_tv",
        "regnet_y_16gf": "regnety_160",
        "regnet_y_32gf": "regnety_320",
        "regnet_y_128gf": "regnety_1280",
        "regnetx_400mf": "regnetx_004",
        "regnetx_800mf": "regnetx_008",
        "regnetx_1.6gf": "regnetx_016",
        "regnetx_3.2gf": "regnetx_032",
        "regnetx_4.0gf": "regnetx_040",
        "regnetx_6.4gf": "regnetx_064",
        "regnetx_8.0gf": "regnetx_080",
        "regnetx_12gf": "regnetx_120",
    },
    doc="Radosavovic et al. 2020",
)
register_family(
    "repvgg",
    "jaxvision.backbones.repvgg:RepVGG",
    (
        *("repvgg_a0", "repvgg_a1", "repvgg_a2", "repvgg_b0", "repvgg_b1", "repvgg_b1g2", "repvgg_b1g4", "repvgg_b2"),
        *("repvgg_b2g2", "repvgg_b2g4", "repvgg_b3", "repvgg_b3g2", "repvgg_b3g4", "repvgg_d2se"),
    ),
    smoke={"depths": (1, 2, 1, 1), "widths": (8, 8, 16, 16), "stem_width": 8},
    aliases={
        f"repvgg-{size}": f"repvgg_{size.lower()}"
        for size in (
            *("A0", "A1", "A2", "B0", "B1", "B1g2", "B1g4", "B2", "B2g2", "B2g4", "B3", "B3g2", "B3g4", "D2se"),
        )
    },
    doc="Ding et al. 2021",
)
register_family(
    "darknet",
    "jaxvision.backbones.darknet:Darknet",
    ("darknet17", "darknet21", "sedarknet21", "darknet53", "darknet53_yolov3", "darknetaa53", "cspdarknet53"),
    smoke={"depths": (1, 1, 1, 1, 1), "width": 4},
    doc="Redmon and Farhadi 2018",
)
register_family(
    "csp_darknet",
    "jaxvision.backbones.csp_darknet:CSPDarknet",
    tuple(f"cspdarknet_{size}" for size in ("nano", "tiny", "s", "m", "l", "x")),
    smoke={"deepen": 0.0, "widen": 0.0625},
    doc="Ge et al. 2021",
)
register_family(
    "hrnet",
    "jaxvision.backbones.hrnet:HRNet",
    (
        *("hrnet_w18_small", "hrnet_w18_small_v2", "hrnet_w18", "hrnet_w18_ssld", "hrnet_w30", "hrnet_w32"),
        *("hrnet_w40", "hrnet_w44", "hrnet_w48", "hrnet_w48_ssld", "hrnet_w64"),
    ),
    smoke={
        "width": 4,
        "first_width": 4,
        "blocks": (1, 1, 1, 1),
        "modules": (1, 1, 1),
        "stem_width": 8,
        "head_width": 1,
    },
    pooled=True,
    aliases={f"hrnet-w{width}": f"hrnet_w{width}" for width in (18, 30, 32, 40, 44, 48, 64)},
    doc="Wang et al. 2020",
)
register_family(
    "alexnet",
    "jaxvision.backbones.alexnet:AlexNet",
    ("alexnet",),
    smoke={"width": 8, "hidden": 16},
    pooled=True,
    doc="Krizhevsky 2014",
)
register_family(
    "vgg",
    "jaxvision.backbones.vgg:VGG",
    ("vgg11", "vgg13", "vgg16", "vgg19", "vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn"),
    smoke={"depth": 11, "width": 8, "hidden": 16},
    pooled=True,
    aliases={f"vgg{depth}bn": f"vgg{depth}_bn" for depth in (11, 13, 16, 19)},
    doc="Simonyan and Zisserman 2015",
)
register_family(
    "googlenet",
    "jaxvision.backbones.googlenet:GoogLeNet",
    ("googlenet",),
    smoke={"width": 0.125},
    doc="Szegedy et al. 2015",
)
register_family(
    "densenet",
    "jaxvision.backbones.densenet:DenseNet",
    ("densenet121", "densenet161", "densenet169", "densenet201", "densenet264d"),
    smoke={"depths": (1, 2, 1, 1), "growth_rate": 8},
    doc="Huang et al. 2017",
)
register_family(
    "shufflenet_v1",
    "jaxvision.backbones.shufflenet_v1:ShuffleNetV1",
    (
        *("shufflenet_v1_x0_25", "shufflenet_v1_x0_5", "shufflenet_v1_x1_0", "shufflenet_v1_x1_5"),
        *("shufflenet_v1_x2_0", "shufflenet_v1_x1_0_g1", "shufflenet_v1_x1_0_g2", "shufflenet_v1_x1_0_g4"),
        "shufflenet_v1_x1_0_g8",
    ),
    smoke={"groups": 3, "width": 0.25, "depths": (1, 2, 1)},
    aliases={"shufflenet-v1-1x": "shufflenet_v1_x1_0"},
    doc="Zhang et al. 2018",
)
register_family(
    "shufflenet_v2",
    "jaxvision.backbones.shufflenet_v2:ShuffleNetV2",
    ("shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "shufflenet_v2_x1_5", "shufflenet_v2_x2_0"),
    smoke={"widths": (8, 16, 16, 16, 32), "depths": (1, 2, 1)},
    pooled=True,
    aliases={"shufflenet-v2-1x": "shufflenet_v2_x1_0"},
    doc="Ma et al. 2018",
)
