"""The nine networks of segmentation-models-pytorch: logits over a ResNet, levels of other encoders, names of all.

Each decoder is computed over one encoder, whose program all share, and each kind of encoder once by itself; names,
values and shapes are compared for all.
"""

import functools
import re

import jax
import numpy as np
import pytest

from jaxvision import config
from jaxvision.pretrained import keymaps
from jaxvision.trees import flatten
from tests.conftest import quickly_compiled, strict
from tests.parity.semantic import levels_of
from tests.parity.torch_weights import error, load, load_tool, nchw, nhwc

pytestmark = [
    pytest.mark.parity,
    pytest.mark.filterwarnings("ignore:`timm-` encoders are deprecated:DeprecationWarning"),
]
torch = pytest.importorskip("torch")
calibrate = load_tool("calibrate").calibrate
FIVE = ("c1", "c2", "c3", "c4", "c5")
CLASSES = 5
SIZE = (64, 64)
TF = {"name": "tf_efficientnet_b0", "first_levels": ("c1",), "first_of_width": ("c4",)}
TIMM = {"name": "efficientnet_b0", "first_levels": ("c1",)}

NETWORKS = {
    "unet": ("Unet", "unet"),
    "unetplusplus": ("UnetPlusPlus", "unetplusplus"),
    "manet": ("MAnet", "manet"),
    "linknet": ("Linknet", "linknet"),
    "fpn": ("FPN", "fpn"),
    "pspnet": ("PSPNet", "smp/pspnet"),
    "pan": ("PAN", "pan"),
    "deeplabv3": ("DeepLabV3", "smp/deeplabv3"),
    "deeplabv3plus": ("DeepLabV3Plus", "smp/deeplabv3plus"),
}
"""Name -> their class and our row."""

LEVELS = {"unet": FIVE, "unetplusplus": FIVE, "manet": FIVE, "linknet": FIVE, "pspnet": ("c3",), "deeplabv3": ("c5",)}
"""Of the encoder; "c2" to "c5" else."""


def case(network, theirs, ours, levels=None, size=SIZE, source=None, fields=None, **options):
    encoder = {"name": ours} if isinstance(ours, str) else ours
    model = {"backbone": {**encoder, "out_levels": levels or LEVELS.get(network, FIVE[1:])}, **(fields or {})}
    return network, {"encoder_name": theirs, **options}, model, size, source


DILATED = {"name": "resnet18", "contract_dilation": False}
DECODERS = {
    "unet": case("unet", "resnet18", "resnet18", size=(64, 80)),
    "unetplusplus": case(
        "unetplusplus", "resnet18", "resnet18", fields={"attention": "scse"}, decoder_attention_type="scse"
    ),
    "manet": case("manet", "resnet18", "resnet18"),
    "linknet": case("linknet", "resnet18", "resnet18"),
    "fpn": case("fpn", "resnet18", "resnet18"),
    "pspnet": case("pspnet", "resnet18", "resnet18"),
    "pan": case("pan", "resnet18", DILATED | {"output_stride": 16}, size=(128, 160)),
    "deeplabv3": case("deeplabv3", "resnet18", DILATED | {"output_stride": 8}),
    "deeplabv3plus": case("deeplabv3plus", "resnet18", DILATED | {"output_stride": 16}),
    "unet_vgg": case("unet", "vgg11_bn", "vgg11_bn", fields={"center": True}),
    "unet_options": case(
        "unet",
        "resnet18",
        "resnet18",
        levels=FIVE[:4],
        fields={
            "decoder_channels": (48, 32, 32, 16),
            "attention": "scse",
            "interpolation": "bilinear",
            "use_norm": False,
        },
        encoder_depth=4,
        decoder_channels=(48, 32, 32, 16),
        decoder_attention_type="scse",
        decoder_interpolation="bilinear",
        decoder_use_norm=False,
    ),
    "fpn_cat": case(
        "fpn",
        "resnet18",
        "resnet18",
        fields={"merge": "cat", "pyramid_channels": 64, "branch_channels": 32},
        decoder_merge_policy="cat",
        decoder_pyramid_channels=64,
        decoder_segmentation_channels=32,
    ),
}
"""Whose logits are compared."""

ENCODERS = {
    "unet_resnet34": case("unet", "resnet34", "resnet34"),
    "unet_efficientnet": case("unet", "efficientnet-b0", TF, source="smp"),
    "unetplusplus_efficientnet": case("unetplusplus", "timm-efficientnet-b0", TIMM, source="smp/timm"),
    "manet_mobilenet": case("manet", "tu-mobilenetv2_100", "mobilenetv2_100", source="smp/tu"),
    "deeplabv3plus_resnet50": case("deeplabv3plus", "resnet50", DILATED | {"name": "resnet50", "output_stride": 16}),
    "deeplabv3plus_efficientnet": case(
        "deeplabv3plus",
        "timm-efficientnet-b0",
        {"name": "efficientnet_b0", "output_stride": 16, "contract_dilation": False},
        source="smp/timm",
    ),
}
"""Whose levels are compared, as far as the decoder takes them."""

NAMES = {
    "unetplusplus_resnet34": case("unetplusplus", "resnet34", "resnet34"),
    "linknet_efficientnet": case("linknet", "efficientnet-b0", TF, source="smp"),
    "fpn_mobilenet": case("fpn", "tu-mobilenetv2_100", "mobilenetv2_100", source="smp/tu"),
    "pan_mobilenet": case(
        "pan", "tu-mobilenetv2_100", "mobilenetv2_100", source="smp/tu", size=(256, 256), encoder_output_stride=32
    ),
    "pspnet_efficientnet": case("pspnet", "efficientnet-b0", "tf_efficientnet_b0", source="smp"),
}
"""Whose decoder and encoder stand above, each with another: their names and shapes are compared."""

CASES = DECODERS | ENCODERS | NAMES
"""Their arguments, our model, height and width, whose names: networks over ResNets, over others, and with options."""


def made(name, folder):
    """Their network with sharp weights, two images, and our model with these weights."""
    import segmentation_models_pytorch as smp

    network, options, _, size, source = CASES[name]
    torch.manual_seed(0)
    reference = getattr(smp, NETWORKS[network][0])(encoder_weights=None, classes=CLASSES, **options)
    images = torch.randn(2, 3, *size)
    if name in ENCODERS:
        calibrate(reference.encoder, images)
    elif name in DECODERS:
        calibrate(reference, images)
    state = {key: value.numpy() for key, value in reference.state_dict().items()}
    model = ours(name)
    variables = load(model, state, folder / "weights.pth", source=source or "smp")
    return reference.eval(), images, state, model, variables, source or "smp"


def ours(name):
    """Our model."""
    network, _, fields, _, _ = CASES[name]
    return config.build("model", {"name": NETWORKS[network][1], "num_classes": CLASSES, **fields})


@functools.partial(jax.jit, static_argnums=(0, 3))
def decoded(model, variables, levels, size):
    return model.logits({"logits": model.apply(variables, levels, train=False, method="decode")}, size)


@pytest.mark.parametrize("name", DECODERS)
@torch.no_grad()
def test_logits_equal_segmentation_models(name, tmp_path):
    reference, images, *compared = made(name, tmp_path)
    _, model, variables, _ = compared
    backbone = model.backbone
    if "c5" in backbone.out_levels:  # the same encoder for most
        backbone = backbone.clone(out_levels=FIVE)
    with strict(), quickly_compiled():
        levels = levels_of(backbone, variables, nhwc(images))
        levels = {level: levels[level] for level in model.backbone.out_levels}
        found = decoded(model, variables, levels, tuple(images.shape[2:]))
    difference = error(found, np.moveaxis(reference(images).numpy(), 1, -1))
    print(name, f"{difference:.1e}")
    assert difference < 1e-4
    compare_names(*compared)


@pytest.mark.parametrize("name", ENCODERS)
@torch.no_grad()
def test_levels_equal_segmentation_models(name, tmp_path):
    reference, images, *compared = made(name, tmp_path)
    _, model, variables, _ = compared
    with strict(), quickly_compiled():
        found = levels_of(model.backbone, variables, nhwc(images))
    theirs = dict(zip(FIVE, reference.encoder(images)[1:], strict=True))
    for level, own in found.items():
        difference = error(nchw(own), theirs[level].numpy())
        print(name, level, f"{difference:.1e}")
        assert difference < 1e-4
    compare_names(*compared)
    compare_shapes(model, variables, images)


@pytest.mark.parametrize("name", NAMES)
def test_names_of_further_pairs(name, tmp_path):
    _, images, *compared = made(name, tmp_path)
    compare_names(*compared)
    compare_shapes(compared[1], compared[2], images)


def compare_shapes(model, variables, images):
    size = images.shape[2:]
    with strict():
        logits = jax.eval_shape(lambda v, x: model.logits(model.apply(v, x), size), variables, nhwc(images))
    assert logits.shape == (2, *size, CLASSES)


def compare_names(state, model, variables, source):
    """What is written under their names is what was read, and nothing is missing."""
    family = keymaps.family_of(model)
    written = keymaps.to_state_dict(flatten(variables), family.keys[source])
    unused = re.compile("|".join((*family.ignored, r"num_batches_tracked$")))
    assert set(written) <= set(state)
    assert all(unused.search(key) for key in set(state) - set(written))
    for key, value in written.items():
        np.testing.assert_array_equal(value, state[key], err_msg=key)


def test_a_classifier_of_images_is_left_out(tmp_path):
    import segmentation_models_pytorch as smp

    reference = smp.Unet("resnet18", encoder_weights=None, classes=CLASSES, aux_params={"classes": 3})
    state = {key: value.numpy() for key, value in reference.state_dict().items()}
    load(ours("unet"), state, tmp_path / "weights.pth")
