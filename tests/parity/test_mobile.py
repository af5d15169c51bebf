"""Small, dilated and odd-sized forms of MobileNet v2, v3 and EfficientNet against timm, torchvision and transformers,
a training step of each, and names of OpenMMLab and segmentation-models-pytorch."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jaxvision import layers
from jaxvision.backbones.efficientnet import SIZES as EFFICIENTNETS
from jaxvision.backbones.efficientnet import EfficientNet
from jaxvision.backbones.mobile import LEVELS, TENSORFLOW
from jaxvision.backbones.mobilenet_v2 import SIZES as MOBILENETS_V2
from jaxvision.backbones.mobilenet_v2 import MobileNetV2
from jaxvision.backbones.mobilenet_v3 import SIZES as MOBILENETS_V3
from jaxvision.backbones.mobilenet_v3 import MobileNetV3
from jaxvision.classification.classifier import Classifier
from jaxvision.layers.activations import activation
from jaxvision.pretrained import keymaps
from jaxvision.trees import flatten
from tests.conftest import strict
from tests.parity import zoo
from tests.parity.references.mobile import SEVEN, SMALL, damp
from tests.parity.torch_weights import nchw, nhwc, relative
from tests.parity.training import check_training_step

pytestmark = pytest.mark.parity

Reference = functools.partial(zoo.Reference, temper=damp)
tv = zoo.torchvision.models


def timm_v2(**options):
    from timm.models.efficientnet import _gen_mobilenet_v2

    return lambda: _gen_mobilenet_v2("mobilenetv2_100", 0.25, 0.25, **options)


def timm_v3(form, **options):
    from timm.models.mobilenetv3 import _gen_mobilenet_v3

    return lambda: _gen_mobilenet_v3(f"mobilenetv3_{form}_100", 0.5, 0.25, **options)


def timm_efficientnet(**options):
    from timm.models.efficientnet import _gen_efficientnet

    return lambda: _gen_efficientnet("efficientnet_b0", 0.25, 0.25, **options)


def tv_v2():
    rows = [[t, c, 1, s] for t, c, s in V2_ROWS]
    return tv.MobileNetV2(width_mult=0.25, inverted_residual_setting=rows, dropout=0.0)


def tv_v3():
    from torchvision.models.mobilenetv3 import _mobilenet_v3_conf

    setting, last = _mobilenet_v3_conf("mobilenet_v3_small")
    return tv.MobileNetV3([setting[i] for i in (0, 1, 2, 3, 4, 6, 8)], last, dropout=0.0)


def tv_efficientnet():
    from torchvision.models.efficientnet import _efficientnet_conf

    setting, last = _efficientnet_conf("efficientnet_b5", width_mult=0.25, depth_mult=0.25)
    norm = functools.partial(torch.nn.BatchNorm2d, eps=1e-3)
    return tv.EfficientNet(setting, 0.0, stochastic_depth_prob=0.0, norm_layer=norm, last_channel=last)


V2_ROWS = ((1, 16, 1), (6, 24, 2), (6, 32, 2), (6, 64, 2), (6, 96, 1), (6, 160, 2), (6, 320, 1))
TINY = {"width": 0.25, "depth": 0.25, "out_levels": LEVELS}
TF = {"pad_type": "same", "bn_eps": 1e-3}
OURS_TF = {"padding": "same", "norm": TENSORFLOW}
FORMS = {
    "v2 at 16": (MobileNetV2(**TINY, output_stride=16), Reference(timm_v2(output_stride=16), "", SEVEN)),
    "v2 at 8": (MobileNetV2(**TINY, output_stride=8), Reference(timm_v2(output_stride=8), "", SEVEN)),
    "tf efficientnet at 16": (
        EfficientNet(**TINY, **OURS_TF, output_stride=16),
        Reference(timm_efficientnet(output_stride=16, **TF), "", SEVEN),
    ),
    "tf efficientnet of odd images": (
        EfficientNet(**TINY, **OURS_TF),
        Reference(timm_efficientnet(**TF), "", SEVEN, size=75),
    ),
    "tf v3 of odd images": (
        MobileNetV3(**TINY | {"width": 0.5}, form="small", **OURS_TF),
        Reference(timm_v3("small", **TF), "", SMALL, size=67),
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_dilated_and_odd_sized_forms_equal_timm(form):
    ours, reference = FORMS[form]
    model, x = zoo.calibrated(reference)
    errors = zoo.compare(model, reference, Classifier(ours, 1000), x)
    assert max(errors.values()) <= reference.tolerance, errors


TRAINED = {
    "v2": (MobileNetV2(**TINY), Reference(timm_v2(), "", SEVEN)),
    "v2 of torchvision": (MobileNetV2(**TINY), Reference(tv_v2, "", source="torchvision")),
    "v3 large": (MobileNetV3(**TINY | {"width": 0.5}), Reference(timm_v3("large"), "", SEVEN)),
    "v3 small of torchvision": (
        MobileNetV3(depth=0.25, out_levels=LEVELS, **MOBILENETS_V3["mobilenet_v3_small"]),
        Reference(tv_v3, "", source="torchvision"),
    ),
    "efficientnet": (EfficientNet(**TINY), Reference(timm_efficientnet(), "", SEVEN)),
    "efficientnet of torchvision": (
        EfficientNet(**TINY, norm=TENSORFLOW),
        Reference(tv_efficientnet, "", source="torchvision"),
    ),
}


@pytest.mark.parametrize("name", TRAINED)
def test_a_training_step_equals_torch(name, monkeypatch):
    print(name, f"worst gradient {check_training_step(*TRAINED[name], monkeypatch, keep='-'):.1e}")


def norms_of(name):
    """(epsilon, momentum) of the batch norms of a reference."""
    with torch.device("meta"):
        model = zoo.references()[name].make()
    found = {(m.eps, m.momentum) for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)}
    assert len(found) == 1
    return found.pop()


@pytest.mark.parametrize(
    "name", [n for n in (*MOBILENETS_V2, *MOBILENETS_V3, *EFFICIENTNETS) if "huggingface" not in n]
)
def test_norms_have_the_epsilon_and_momentum_of_the_reference(name):
    fields = {**MOBILENETS_V2, **MOBILENETS_V3, **EFFICIENTNETS}[name]
    norm = fields.get("norm", layers.Norm())
    epsilon, momentum = norms_of(name)
    assert norm.epsilon == epsilon and norm.momentum == pytest.approx(1 - momentum)


KINKS = (-7.0, -3.0, -1.0, 0.0, 1.5, 3.0, 6.0, 9.0)


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("relu", torch.nn.ReLU()),
        ("relu6", torch.nn.ReLU6()),
        ("hard_swish", torch.nn.Hardswish()),
        ("hard_sigmoid", torch.nn.Hardsigmoid()),
        ("silu", torch.nn.SiLU()),
        ("sigmoid", torch.nn.Sigmoid()),
    ],
)
def test_activations_and_their_gradients_equal_torch_at_every_kink(name, theirs):
    x = torch.tensor(KINKS, requires_grad=True)
    y = theirs(x)
    y.sum().backward()
    with strict():
        ours, grads = jax.vjp(activation(name), jnp.asarray(KINKS, jnp.float32))
        np.testing.assert_allclose(ours, y.detach().numpy(), rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(grads(jnp.ones_like(ours))[0], x.grad.numpy(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kernel,strides,dilation", [(3, 2, 1), (5, 2, 1), (3, 1, 2), (2, 2, 1), (5, 3, 2), (1, 2, 1)])
def test_same_padding_equals_timm_for_every_remainder(kernel, strides, dilation):
    from timm.layers import Conv2dSame

    theirs = Conv2dSame(3, 4, kernel, stride=strides, dilation=dilation)
    ours = layers.Conv(4, kernel, strides, padding="same", dilation=dilation)
    parameters = {"kernel": theirs.weight.detach().numpy().transpose(2, 3, 1, 0), "bias": theirs.bias.detach().numpy()}
    for size in ((9, 14), (10, 13), (11, 12)):
        x = torch.randn(2, 3, *size)
        with torch.no_grad():
            want = theirs(x).numpy()
        with strict():
            assert relative(nchw(ours.apply({"params": parameters}, nhwc(x))), want) < 1e-5


# Names of other publishers.


def test_the_efficientnet_of_transformers_is_reproduced():
    from transformers import EfficientNetConfig, EfficientNetForImageClassification

    class Logits(EfficientNetForImageClassification):
        def forward(self, x):
            return super().forward(x).logits

    def make():
        config = EfficientNetConfig(
            width_coefficient=0.5, depth_coefficient=0.25, hidden_dim=640, image_size=64, num_labels=1000
        )
        return Logits(config)

    levels = {f"c{i + 1}": f"efficientnet.encoder.blocks.{n}" for i, n in enumerate((0, 1, 2, 4, 6))}
    reference = zoo.Reference(make, "", levels, "huggingface", temper=lambda model: None)
    model, x = zoo.calibrated(reference)
    ours = EfficientNet(width=0.5, depth=0.25, out_levels=LEVELS, **OURS_TF)
    errors = zoo.compare(model, reference, Classifier(ours, 1000), x)
    assert max(errors.values()) <= reference.tolerance, errors


def names_and_shapes(backbone, source):
    """The reference's names -> shapes in its layout."""
    model = Classifier(backbone, 1000)
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    ours = flatten(jax.eval_shape(lambda x: model.init(jax.random.key(0), x), images))
    zeros = {name: np.broadcast_to(np.float32(0), leaf.shape) for name, leaf in ours.items()}
    return {
        name: value.shape for name, value in keymaps.to_state_dict(zeros, keymaps.family_of(model).keys[source]).items()
    }


NORM = ("weight", "bias", "running_mean", "running_var")


def conv_module(name):
    """Names of mmcv's `ConvModule` without bias."""
    return {f"{name}.conv.weight", *(f"{name}.bn.{leaf}" for leaf in NORM)}


def inverted_residual(name, *, expand, squeeze):
    """Names of mmpretrain's `InvertedResidual` (mmpretrain/models/utils/inverted_residual.py)."""
    names = conv_module(f"{name}.depthwise_conv") | conv_module(f"{name}.linear_conv")
    if expand:
        names |= conv_module(f"{name}.expand_conv")
    if squeeze:
        names |= {f"{name}.se.conv{i}.conv.{leaf}" for i in (1, 2) for leaf in ("weight", "bias")}
    return names


def test_names_of_mobilenet_v2_are_those_of_openmmlab():
    names = conv_module("backbone.conv1") | conv_module("backbone.conv2") | {"head.fc.weight", "head.fc.bias"}
    for i, count in enumerate((1, 2, 3, 4, 3, 3, 1)):
        for j in range(count):
            for k in range(3 if i else 2):
                names |= conv_module(f"backbone.layer{i + 1}.{j}.conv.{k}")
    ours = names_and_shapes(MobileNetV2(out_levels=("pooled",)), "openmmlab")
    assert set(ours) == names
    assert ours["backbone.layer1.0.conv.0.conv.weight"] == (32, 1, 3, 3)
    assert ours["backbone.layer6.2.conv.1.conv.weight"] == (960, 1, 3, 3)
    assert ours["backbone.layer6.2.conv.2.conv.weight"] == (160, 960, 1, 1)
    assert ours["backbone.conv2.conv.weight"] == (1280, 320, 1, 1)


@pytest.mark.parametrize("form", ["large", "small"])
def test_names_of_mobilenet_v3_are_those_of_openmmlab(form):
    squeezed = {"large": (4, 5, 6, 11, 12, 13, 14, 15), "small": (1, 4, 5, 6, 7, 8, 9, 10, 11)}[form]
    last = {"large": 16, "small": 12}[form]
    names = conv_module("backbone.layer0") | conv_module(f"backbone.layer{last}")
    for i in range(1, last):
        names |= inverted_residual(f"backbone.layer{i}", expand=i > 1, squeeze=i in squeezed)
    names |= {f"head.layers.{i}.fc.{leaf}" for i in (0, 1) for leaf in ("weight", "bias")}
    ours = names_and_shapes(MobileNetV3(form=form, out_levels=("pooled",)), "openmmlab")
    assert set(ours) == names
    assert ours[f"backbone.layer{last - 1}.depthwise_conv.conv.weight"][1:] == (1, 5, 5)
    assert ours["head.layers.0.fc.weight"] == {"large": (1280, 960), "small": (1024, 576)}[form]


@pytest.mark.parametrize("size", ["b0", "b3", "b7"])
def test_names_of_efficientnet_are_those_of_openmmlab(size):
    fields = EFFICIENTNETS[f"tf_efficientnet_{size}"]
    counts = [math.ceil(n * fields["depth"]) for n in (1, 2, 2, 3, 3, 4, 1)]
    names = conv_module("backbone.layers.0") | conv_module("backbone.layers.6") | {"head.fc.weight", "head.fc.bias"}
    joined = (*counts[:3], counts[3] + counts[4], counts[5] + counts[6])
    for i, count in enumerate(joined):
        for j in range(count):
            names |= inverted_residual(f"backbone.layers.{i + 1}.{j}", expand=i > 0, squeeze=True)
    ours = names_and_shapes(EfficientNet(**fields, out_levels=("pooled",)), "openmmlab")
    assert set(ours) == names
    kernels = [ours[f"backbone.layers.4.{j}.depthwise_conv.conv.weight"][-1] for j in range(joined[3])]
    assert kernels == [3] * counts[3] + [5] * counts[4]
    assert ours[f"backbone.layers.5.{joined[4] - 1}.depthwise_conv.conv.weight"][-1] == 3


SMP = {
    "mobilenet_v2": (MobileNetV2, {}, "smp"),
    "efficientnet-b1": (EfficientNet, EFFICIENTNETS["tf_efficientnet_b1"], "smp"),
    "timm-efficientnet-b0": (EfficientNet, EFFICIENTNETS["efficientnet_b0"], "smp/timm"),
}


@pytest.mark.filterwarnings("ignore:`timm-` encoders are deprecated:DeprecationWarning")
@pytest.mark.parametrize("name", SMP)
def test_names_are_those_of_segmentation_models_pytorch(name):
    import segmentation_models_pytorch as smp

    with torch.device("meta"):
        encoder = smp.encoders.get_encoder(name, weights=None)
    theirs = {
        f"encoder.{key}": tuple(value.shape) for key, value in encoder.state_dict().items() if "num_batches" not in key
    }
    cls, fields, source = SMP[name]
    ours = names_and_shapes(cls(**fields, out_levels=("pooled",)), source)
    head = {key: ours.pop(key) for key in list(ours) if key.startswith("classification_head.3.")}
    assert ours == theirs and len(head) == 2
