"""MobileNet v2, v3 and EfficientNet: levels, options, activations and names."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxvision as jv
from jaxvision import layers
from jaxvision.backbones.efficientnet import EfficientNet
from jaxvision.backbones.mobile import LEVELS, TENSORFLOW
from jaxvision.backbones.mobilenet_v2 import MobileNetV2
from jaxvision.backbones.mobilenet_v3 import MobileNetV3
from jaxvision.classification.classifier import Classifier
from jaxvision.errors import SetupError
from jaxvision.layers.activations import activation
from jaxvision.pretrained.keymaps import family_of
from jaxvision.pretrained.load import save_torch_named_safetensors
from jaxvision.trees import flatten
from tests.backbones.contract import KEY, check_frozen_paths, check_frozen_stages, check_levels, check_remat
from tests.backbones.fill import fill

TINY = {"width": 0.25, "depth": 0.25}
SMALL = MobileNetV3(form="small", **TINY)
FORMS = {
    "v2": MobileNetV2(out_levels=LEVELS),
    "v2 deep": MobileNetV2(width=1.1, depth=1.2, fixed_ends=True, out_levels=LEVELS),
    "v2 at 8": MobileNetV2(output_stride=8, out_levels=LEVELS),
    "v3": MobileNetV3(out_levels=LEVELS),
    "v3 small": MobileNetV3(form="small", width=0.5, out_levels=LEVELS),
    "v3 small minimal at 16": MobileNetV3(form="small", minimal=True, output_stride=16, out_levels=LEVELS),
    "v3 stem": MobileNetV3(form="small", out_levels=("c1",)),
    "efficientnet": EfficientNet(padding="same", norm=TENSORFLOW, out_levels=("c3", "c5", "pooled")),
    "efficientnet two levels": EfficientNet(out_levels=("c4", "c2"), output_stride=8),
    "efficientnet gn": EfficientNet(norm=layers.Norm("gn", groups=8)),
}
CHANNELS = {
    "v2": (16, 24, 32, 96, 320, 1280),
    "v2 deep": (16, 24, 32, 104, 352, 1280),
    "v3": (16, 24, 40, 112, 960, 1280),
    "v3 small": (16, 8, 16, 24, 288, 1024),
}


@pytest.mark.parametrize("name", FORMS)
def test_levels_have_the_channels_and_strides_that_the_properties_promise(name):
    backbone = FORMS[name]
    check_levels(backbone, (64, 96, 3))
    assert tuple(backbone.channels.values()) == CHANNELS.get(name, tuple(backbone.channels.values()))
    assert max(backbone.strides.values()) <= backbone.output_stride


def parts(backbone):
    x = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    return jax.eval_shape(lambda x: backbone.init(KEY, x, train=False), x)["params"]


def test_submodules_carry_the_names_of_timm():
    params = parts(EfficientNet(out_levels=("pooled",)))
    assert {"conv_stem", "bn1", "blocks_0_0", "blocks_6_0", "conv_head", "bn2"} <= set(params)
    assert set(params["blocks_0_0"]) == {"conv_dw", "bn1", "se", "conv_pw", "bn2"}
    assert set(params["blocks_1_1"]) == {"conv_pw", "bn1", "conv_dw", "bn2", "se", "conv_pwl", "bn3"}
    assert set(params["blocks_1_1"]["se"]) == {"conv_reduce", "conv_expand"}
    assert params["blocks_5_0"]["conv_dw"]["kernel"].shape == (5, 5, 1, 672)


def test_stages_that_only_deeper_levels_need_are_not_built():
    assert set(parts(MobileNetV2(out_levels=("c2",)))) == {"conv_stem", "bn1", "blocks_0_0", "blocks_1_0", "blocks_1_1"}
    assert set(parts(SMALL.clone(out_levels=("c1",)))) == {"conv_stem", "bn1"}
    assert "conv_head" not in parts(SMALL)


@pytest.mark.parametrize("stages", [3, 6])
def test_frozen_stages_pass_no_gradient_and_keep_their_statistics(stages, unoptimized):
    check_frozen_stages(SMALL.clone(frozen_stages=stages, out_levels=LEVELS), (64, 64, 3))


def test_frozen_paths_name_the_stem_and_the_stages():
    stages = ("(conv_stem|bn1)/|blocks_0_", *(f"blocks_{i}_" for i in range(1, 6)))
    check_frozen_paths(SMALL.clone(out_levels=LEVELS), (64, 64, 3), stages)


def test_recomputed_blocks_give_the_same_levels_gradients_and_statistics(unoptimized):
    check_remat(SMALL.clone(out_levels=("c3",), drop_path_rate=0.5), (32, 32, 3))


def test_stochastic_depth_rises_by_the_block_and_stays_below_its_rate(monkeypatch):
    seen = []

    def record(self, x, *, train):
        seen.append(self.rate)
        return x

    monkeypatch.setattr(layers.DropPath, "__call__", record)
    parts(MobileNetV2(drop_path_rate=0.17))
    joined = (2, 4, 5, 7, 8, 9, 11, 12, 14, 15)  # of 17 blocks those with a shortcut
    np.testing.assert_allclose(seen, [0.01 * i for i in joined])


def test_kinks_have_the_slope_of_the_flat_side():
    x = jnp.array([-3.0, 0.0, 3.0, 6.0])
    slopes = lambda name: jax.vjp(activation(name), x)[1](jnp.ones(4))[0]  # noqa: E731
    np.testing.assert_allclose(slopes("relu6"), [0, 0, 1, 0])
    np.testing.assert_allclose(slopes("hard_sigmoid"), [0, 1 / 6, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(slopes("hard_swish"), [0, 0.5, 1, 1])
    assert all(activation(name)(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16 for name in ("relu6", "hard_swish"))
    with pytest.raises(ValueError, match="unknown activation 'swish'; known: relu, relu6, silu"):
        activation("swish")


def test_same_padding_puts_the_odd_zero_at_the_end():
    ones = {"params": {"kernel": jnp.ones((3, 1, 1, 1))}}
    conv = layers.Conv(1, (3, 1), (2, 1), padding="same", use_bias=False)
    even, odd = (conv.apply(ones, jnp.arange(1.0, n + 1).reshape(1, n, 1, 1))[0, :, 0, 0] for n in (4, 5))
    np.testing.assert_array_equal(even, [1 + 2 + 3, 3 + 4])
    np.testing.assert_array_equal(odd, [1 + 2, 2 + 3 + 4, 4 + 5])
    with pytest.raises(ValueError, match="padding='valid'; it takes numbers, None or 'same'"):
        layers.Conv(1, padding="valid").init(KEY, jnp.zeros((1, 4, 4, 1)))


MODELS = {
    "v2": MobileNetV2(**TINY, out_levels=("pooled",)),
    "v3": MobileNetV3(width=0.25, depth=0.5, out_levels=("pooled",)),
    "v3 small": SMALL.clone(out_levels=("pooled",)),
    "efficientnet": EfficientNet(width=0.25, depth=0.5, out_levels=("pooled",)),
}


@pytest.mark.parametrize(("name", "source"), [(n, s) for n, m in MODELS.items() for s in family_of(m).keys])
def test_writing_and_reading_the_names_of_every_source_is_exact(name, source, tmp_path):
    model = Classifier(MODELS[name], 3)
    variables = fill(model, jnp.zeros((1, 32, 32, 3)))
    path = tmp_path / "a.safetensors"
    save_torch_named_safetensors(path, model, variables, source)
    again = flatten(jv.load_pretrained(model, path, source.partition("/")[0]))
    for key, value in flatten(variables).items():
        np.testing.assert_array_equal(value, again[key], key)


@pytest.mark.parametrize(
    ("name", "source", "message"),
    [
        ("mobilenetv3_small_100", "torchvision", "other numbers .*: load torchvision/mobilenetv3_small_100 instead"),
        ("efficientnet_b0", "openmmlab", "load openmmlab/efficientnet_b0 instead"),
        ("mobilenetv2_035", "huggingface", "load huggingface/mobilenetv2_035 instead"),
        ("huggingface/mobilenetv2_035", "timm", "has the numbers of huggingface, but .* the names of timm"),
    ],
)
def test_weights_of_other_numbers_are_refused(name, source, message, tmp_path):
    model = jv.create_model(name, num_classes=2)
    shapes = jax.eval_shape(lambda x: model.init(KEY, x), jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32))
    variables = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0.5), leaf.shape), shapes)
    path = tmp_path / "a.safetensors"
    save_torch_named_safetensors(path, model, variables, source)
    with pytest.raises(SetupError, match=message):
        jv.load_pretrained(name, path)


def test_errors_name_what_was_given():
    with pytest.raises(ValueError, match="MobileNetV3 got form='huge'; it knows large, small, rw"):
        MobileNetV3(form="huge")
    with pytest.raises(ValueError, match="EfficientNet got padding='valid'"):
        EfficientNet(padding="valid")
    with pytest.raises(ValueError, match=r"MobileNetV2 got width=0, depth=1.0; it takes positive"):
        MobileNetV2(width=0)
    with pytest.raises(ValueError, match="frozen_stages=8; it takes 0 to 7"):
        MobileNetV2(frozen_stages=8)
    with pytest.raises(ValueError, match=r"level 'c6' in out_levels"):
        EfficientNet(out_levels=("c6",))
