"""Rows of semantic segmentation: its task, its losses and its networks, which take any registered backbone."""

from typing import Any

from jaxvision.registry.table import register, register_alias

register(
    "task",
    "semantic_segmentation",
    "jaxvision.segmentation.task:SemanticSegmentationTask",
    doc="a class for every pixel",
)

for name, attribute in (
    ("boundary", "Boundary"),
    ("cross_entropy", "CrossEntropy"),
    ("dice", "Dice"),
    ("focal", "Focal"),
    ("jaccard", "Jaccard"),
    ("lovasz", "Lovasz"),
    ("ohem", "OHEM"),
    ("tversky", "Tversky"),
):
    register("loss", name, f"jaxvision.losses.pixels:{attribute}")

SMALL_AUXILIARY = {"width": 8}
"""Of the tiny forms."""
SMALL_HEAD: dict[str, Any] = {"width": 16, "auxiliary": SMALL_AUXILIARY}

# Stride 8; OpenMMLab's segmenters have the stem of three 3x3 convolutions ("v1c").
DILATED_C: dict[str, Any] = {"name": "resnet50c", "output_stride": 8}
DILATED: dict[str, Any] = {"name": "resnet50", "output_stride": 8}
register(
    "model",
    "fcn",
    "jaxvision.segmentation.fcn:FCN",
    smoke=SMALL_HEAD,
    backbone=DILATED_C,
    auxiliary={},
    doc="Long et al. 2015, dilated",
)
for name, depth in (("fcn", 50), ("fcn_resnet101", 101)):
    register(
        "model",
        f"torchvision/{name}",
        "jaxvision.segmentation.fcn:FCN",
        smoke=SMALL_HEAD,
        backbone={**DILATED, "name": f"resnet{depth}"},
        depth=1,
        concat_input=False,
        auxiliary={"weight": 0.5},
        doc="Long et al. 2015, dilated, with torchvision's numbers",
    )

register(
    "model",
    "pspnet",
    "jaxvision.segmentation.pspnet:PSPNet",
    smoke=SMALL_HEAD,
    backbone=DILATED_C,
    auxiliary={},
    doc="Zhao et al. 2017",
)
register(
    "model",
    "deeplabv3",
    "jaxvision.segmentation.deeplabv3:DeepLabV3",
    smoke=SMALL_HEAD,
    backbone=DILATED_C,
    auxiliary={},
    doc="Chen et al. 2017",
)
DILATED_MOBILE: dict[str, Any] = {"name": "mobilenet_v3_large", "contract_dilation": False}
OF_TORCHVISION: dict[str, Any] = {"out_levels": ("c3", "c5"), "output_stride": 16, "first_levels": ("c3",)}
"""Its mobile segmenters' levels."""
for name, backbone, auxiliary in (
    ("deeplabv3", DILATED, {}),
    ("deeplabv3_resnet101", {**DILATED, "name": "resnet101"}, {}),
    ("deeplabv3_mobilenet_v3_large", {**DILATED_MOBILE, **OF_TORCHVISION}, {"level": "c3", "width": 10}),
):
    register(
        "model",
        f"torchvision/{name}",
        "jaxvision.segmentation.deeplabv3:DeepLabV3",
        smoke=SMALL_HEAD,
        backbone=backbone,
        width=256,
        project=True,
        dropout=0.5,
        auxiliary={**auxiliary, "weight": 0.5},
        doc="Chen et al. 2017, with torchvision's numbers",
    )
register(
    "model",
    "deeplabv3plus",
    "jaxvision.segmentation.deeplabv3plus:DeepLabV3Plus",
    smoke={**SMALL_HEAD, "low_width": 8},
    backbone=DILATED_C,
    auxiliary={},
    doc="Chen et al. 2018",
)
register(
    "model",
    "upernet",
    "jaxvision.segmentation.upernet:UPerNet",
    smoke=SMALL_HEAD,
    backbone={"name": "resnet50c"},
    auxiliary={},
    doc="Xiao et al. 2018",
)
register(
    "model",
    "segformer",
    "jaxvision.segmentation.segformer:SegFormer",
    smoke={"width": 16},
    backbone={"name": "openmmlab/mit_b0"},
    doc="Xie et al. 2021",
)
register(
    "model",
    "huggingface/segformer",
    "jaxvision.segmentation.segformer:SegFormer",
    smoke={"width": 16},
    backbone={"name": "huggingface/mit_b0"},
    linear=True,
    doc="Xie et al. 2021, with the numbers of transformers",
)
register(
    "model",
    "lraspp",
    "jaxvision.segmentation.lraspp:LRASPP",
    smoke={"width": 16, "branches": (8, 8), "pooling": (5, 2, 2)},
    backbone={**DILATED_MOBILE, "out_levels": ("c1", "c2", "c5"), "output_stride": 8, "padding": "same"},
    norm={"name": "bn", "epsilon": 1e-3},
    doc="Howard et al. 2019",
)
register(
    "model",
    "torchvision/lraspp",
    "jaxvision.segmentation.lraspp:LRASPP",
    smoke={"width": 16},
    backbone={**DILATED_MOBILE, **OF_TORCHVISION},
    early_levels=("c3",),
    branches=(),
    doc="Howard et al. 2019, with torchvision's numbers",
)
register(
    "model",
    "ocrnet",
    "jaxvision.segmentation.ocrnet:OCRNet",
    smoke={"width": 16, "key_width": 8},
    backbone={"name": "hrnet_w18", "upsample": "bilinear"},
    doc="Yuan et al. 2020",
)
for name, row in (
    ("fcn_resnet50", "fcn"),
    ("fcn_resnet101", "fcn_resnet101"),
    ("deeplabv3_resnet50", "deeplabv3"),
    ("deeplabv3_resnet101", "deeplabv3_resnet101"),
    ("deeplabv3_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large"),
    ("lraspp_mobilenet_v3_large", "lraspp"),
):
    register_alias("model", name, f"torchvision/{row}")

# The networks of segmentation-models (and OpenMMLab's U-Net), over any backbone.
FIVE_LEVELS = ("c1", "c2", "c3", "c4", "c5")
OF_FIVE_LEVELS: dict[str, Any] = {"backbone": {"name": "resnet34", "out_levels": FIVE_LEVELS}}
NARROW: dict[str, Any] = {"decoder_channels": (16, 8, 8, 8, 8)}
"""Of the tiny forms."""
register(
    "model",
    "unet",
    "jaxvision.segmentation.unet:UNet",
    smoke=NARROW,
    **OF_FIVE_LEVELS,
    doc="Ronneberger et al. 2015, as in segmentation-models",
)
register(
    "model",
    "unetplusplus",
    "jaxvision.segmentation.unetplusplus:UNetPlusPlus",
    smoke={**NARROW, "backbone": {"depth": 14, "width": 4}},
    **OF_FIVE_LEVELS,
    doc="Zhou et al. 2018, as in segmentation-models",
)
register(
    "model",
    "manet",
    "jaxvision.segmentation.manet:MANet",
    smoke={**NARROW, "attention_width": 8, "backbone": {"depth": 14, "width": 2}},
    **OF_FIVE_LEVELS,
    doc="Fan et al. 2020, as in segmentation-models",
)
register(
    "model",
    "linknet",
    "jaxvision.segmentation.linknet:LinkNet",
    smoke={"width": 8},
    **OF_FIVE_LEVELS,
    doc="Chaurasia and Culurciello 2017, as in segmentation-models",
)
register(
    "model",
    "fpn",
    "jaxvision.segmentation.fpn:FPN",
    smoke={"pyramid_channels": 16, "branch_channels": 8, "branch_norm": {"groups": 4}},
    backbone={"name": "resnet34"},
    doc="Kirillov et al. 2019, as in segmentation-models",
)
register(
    "model",
    "pan",
    "jaxvision.segmentation.pan:PAN",
    smoke={
        "width": 8,
        "backbone": {"depth": 14, "width": 8, "output_stride": 8},
    },  # its coarsest level is halved thrice
    backbone={"name": "resnet34", "output_stride": 16, "contract_dilation": False},
    doc="Li et al. 2018, as in segmentation-models",
)
register(
    "model",
    "smp/pspnet",
    "jaxvision.segmentation.smp_pspnet:SMPPSPNet",
    smoke={"width": 16},
    backbone={"name": "resnet34", "out_levels": ("c3",)},
    doc="Zhao et al. 2017, as in segmentation-models",
)
register(
    "model",
    "smp/deeplabv3",
    "jaxvision.segmentation.smp_deeplab:SMPDeepLabV3",
    smoke={"width": 16},
    backbone={"name": "resnet34", "output_stride": 8, "contract_dilation": False},
    doc="Chen et al. 2017, as in segmentation-models",
)
register(
    "model",
    "smp/deeplabv3plus",
    "jaxvision.segmentation.smp_deeplab:SMPDeepLabV3Plus",
    smoke={"width": 16, "low_width": 8},
    backbone={"name": "resnet34", "output_stride": 16, "contract_dilation": False},
    doc="Chen et al. 2018, as in segmentation-models",
)
register(
    "backbone",
    "unet_s5_d16",
    "jaxvision.backbones.unet:UNet",
    smoke={"width": 4},
    doc="Ronneberger et al. 2015, as in OpenMMLab",
)
register(
    "model",
    "openmmlab/unet",
    "jaxvision.segmentation.fcn:FCN",
    smoke={"width": 8, "auxiliary": SMALL_AUXILIARY},
    backbone={"name": "unet_s5_d16"},
    level="c0",
    width=64,
    depth=1,
    concat_input=False,
    auxiliary={"level": "c1", "width": 64},
    doc="Ronneberger et al. 2015, an FCN head on OpenMMLab's U-Net",
)

register(
    "backbone",
    "fcn_vgg16",
    "jaxvision.backbones.fcn_vgg:FCNVGG",
    smoke={"depth": 11, "width": 8, "hidden": 16, "window": 3, "pad": 32},
    doc="Long et al. 2015: VGG-16 of convolutions alone",
)
for stride in (8, 16, 32):
    # The last enlargement has up to 64 x 64 weights for each pair of classes, and is slow on CPU.
    register(
        "model",
        f"fcn{stride}s",
        "jaxvision.segmentation.fcn_skips:FCNSkips",
        smoke={"learned_upsampling": False},
        backbone={"name": "fcn_vgg16"},
        stride=stride,
        doc="Long et al. 2015",
    )
register(
    "backbone",
    "deeplab_vgg16",
    "jaxvision.backbones.deeplab_vgg:DeepLabVGG",
    smoke={"depth": 11, "width": 8},
    doc="Chen et al. 2015: VGG-16 with holes",
)
register(
    "model",
    "deeplab_v1",
    "jaxvision.segmentation.deeplab_v1:DeepLabV1",
    smoke={"width": 16},
    backbone={"name": "deeplab_vgg16", "averaged": True},
    doc="Chen et al. 2015, LargeFOV",
)
register(
    "model",
    "deeplab_v2",
    "jaxvision.segmentation.deeplab_v2:DeepLabV2",
    backbone={"name": "resnet101_caffe", "output_stride": 8, "contract_dilation": False},
    doc="Chen et al. 2016, ASPP-L on ResNet-101",
)
register(
    "model",
    "deeplab_v2_vgg16",
    "jaxvision.segmentation.deeplab_v2:DeepLabV2",
    smoke={"width": 8},
    backbone={"name": "deeplab_vgg16"},
    width=1024,
    scales=(1.0,),
    doc="Chen et al. 2016, ASPP-L on VGG-16",
)
