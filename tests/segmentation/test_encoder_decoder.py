"""The networks of segmentation-models: which levels meet where, their parts against numpy, what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision import config
from jaxvision.pretrained import keymaps
from jaxvision.segmentation import encoder_decoder, manet, pan
from jaxvision.trees import flatten
from tests.conftest import strict

FIVE = ("c1", "c2", "c3", "c4", "c5")
NARROW = {"name": "resnet18", "width": 8}
WIDTHS = (24, 16, 16, 8, 8)
KEY = jax.random.key(0, impl="rbg")


def build(name, backbone=None, **fields):
    backbone = {**NARROW, "out_levels": FIVE} if backbone is None else backbone
    return config.build("model", {"name": name, "num_classes": 5, "backbone": backbone, **fields})


def shapes(model, size=(64, 64)):
    """Shapes of the logits and of the variables by path, for one image of this height and width."""
    x = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    outputs, variables = jax.eval_shape(lambda x: model.init_with_output(KEY, x), x)
    return outputs["logits"].shape, {name: value.shape for name, value in flatten(variables).items()}


def test_levels_meet_at_their_resolution():
    assert encoder_decoder.path_up(build("unet")) == ("c5", ("c4", "c3", "c2", "c1", None))
    of_patches = build("unet", NARROW)
    assert encoder_decoder.path_up(of_patches) == ("c5", ("c4", "c3", "c2", None, None))
    dilated = {**NARROW, "out_levels": FIVE, "output_stride": 16}
    assert encoder_decoder.path_up(build("unet", dilated, decoder_channels=WIDTHS[1:])) == (
        "c5",
        ("c3", "c2", "c1", None),
    )


@pytest.mark.parametrize("name", ["unet", "unetplusplus", "manet", "linknet"])
def test_logits_of_decoders_that_go_all_the_way_have_the_size_of_the_canvas(name):
    fields = {} if name == "linknet" else {"decoder_channels": WIDTHS}
    assert shapes(build(name, **fields), (64, 96))[0] == (1, 64, 96, 5)


def test_any_family_is_an_encoder():
    for backbone in ({"name": "mit_b0"}, {"name": "mobilenetv2_100", "out_levels": FIVE}, {"name": "convnext_tiny"}):
        assert shapes(build("unet", backbone, decoder_channels=WIDTHS))[0] == (1, 64, 64, 5)


def test_blocks_of_unet_see_what_they_join():
    _, found = shapes(build("unet", decoder_channels=WIDTHS, attention="scse", use_norm=False))
    joined = [found[f"params/decoder/blocks_{i}/conv1/conv/kernel"] for i in range(5)]
    assert joined == [(3, 3, 64 + 32, 24), (3, 3, 24 + 16, 16), (3, 3, 16 + 8, 16), (3, 3, 16 + 8, 8), (3, 3, 8, 8)]
    assert found["params/decoder/blocks_0/conv1/conv/bias"] == (24,)
    assert not any("/bn/" in name for name in found if "/decoder/" in name)
    assert "params/decoder/blocks_4/attention2/sSE_0/kernel" in found
    assert not any("blocks_4/attention1" in name for name in found)


def test_nodes_of_unetplusplus_see_all_nodes_of_their_resolution():
    _, found = shapes(build("unetplusplus", decoder_channels=WIDTHS))
    seen = {name.split("/")[2]: shape for name, shape in found.items() if name.endswith("conv1/conv/kernel")}
    nodes = {f"blocks_x_{i}_{j}" for j in range(4) for i in range(j + 1)} | {"blocks_x_0_4"}
    assert set(seen) == nodes
    assert seen["blocks_x_0_0"] == (3, 3, 64 + 32, 24)
    assert seen["blocks_x_1_1"] == (3, 3, 32 + 16, 16)
    assert seen["blocks_x_0_2"] == (3, 3, 16 + 3 * 8, 16)  # two nodes and the level, 8 channels each


def test_scse_is_the_sum_of_both_weightings():
    x = jax.random.normal(jax.random.key(1), (2, 3, 4, 6))
    layer = encoder_decoder.SCSE(reduction=3)
    with strict():
        y, variables = layer.init_with_output(KEY, x)
    own = {name: np.asarray(value) for name, value in flatten(variables).items()}
    hidden = np.maximum(np.mean(x, (1, 2)) @ own["params/cSE/1/kernel"][0, 0] + own["params/cSE/1/bias"], 0)
    channels = hidden @ own["params/cSE/3/kernel"][0, 0] + own["params/cSE/3/bias"]
    pixels = np.asarray(x) @ own["params/sSE_0/kernel"][0, 0] + own["params/sSE_0/bias"]
    expected = np.asarray(x) * (_sigmoid(channels)[:, None, None] + _sigmoid(pixels))
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)


def test_position_attention_has_one_softmax_and_keeps_the_order_of_the_reference():
    x = jax.random.normal(jax.random.key(1), (1, 2, 3, 4))
    layer = manet.PositionAttention(5)
    with strict():
        y, variables = layer.init_with_output(KEY, x)
    own = {name: np.asarray(value) for name, value in flatten(variables).items()}

    def conv(name, value):
        return np.asarray(value) @ own[f"params/{name}/kernel"][0, 0]

    top, center = conv("top_conv", x).reshape(6, 5), conv("center_conv", x).reshape(6, 5)
    pairs = np.exp(center @ top.T)
    values = _conv3(np.asarray(x), own["params/bottom_conv/kernel"]).reshape(6, 4)
    given = (pairs / pairs.sum() @ values).reshape(4, 2, 3).transpose(1, 2, 0)
    expected = _conv3(np.asarray(x) + given, own["params/out_conv/kernel"])
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


def _conv3(x, kernel):
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    height, width = x.shape[1:3]
    return sum(padded[:, i : i + height, j : j + width] @ kernel[i, j] for i in range(3) for j in range(3))


def test_what_does_not_fit_is_refused_with_a_remedy():
    with pytest.raises(ValueError, match=r"'c5', the coarsest level .* has stride 32, which takes 5 of them"):
        build("unet", decoder_channels=(8, 8))
    with pytest.raises(ValueError, match="did you mean 'scse'"):
        build("unet", decoder_channels=WIDTHS, attention="scs")
    with pytest.raises(ValueError, match="levels of every stride from 2 on"):
        build("unetplusplus", NARROW, decoder_channels=WIDTHS)
    with pytest.raises(ValueError, match="multiples of its largest stride"):
        shapes(build("linknet"), (48, 64))
    with pytest.raises(ValueError, match="each must be twice the one before"):
        build("fpn", {**NARROW, "output_stride": 16})
    with pytest.raises(ValueError, match="did you mean 'cat'"):
        build("fpn", NARROW, merge="cut")
    with pytest.raises(ValueError, match=f"at least {pan.LEAST} times its stride"):
        shapes(build("pan", {**NARROW, "output_stride": 16}), (64, 64))


@pytest.mark.parametrize(
    ("name", "backbone", "fields"),
    [
        ("unet", {**NARROW, "out_levels": FIVE}, {"attention": "scse", "center": True}),
        ("unetplusplus", {**NARROW, "out_levels": FIVE}, {}),
        ("manet", {"name": "efficientnet_b0", "out_levels": FIVE}, {}),
        ("linknet", {"name": "mobilenetv2_100", "out_levels": FIVE}, {}),
        ("fpn", NARROW, {}),
        ("pan", {**NARROW, "output_stride": 8}, {}),
        ("smp/pspnet", {**NARROW, "out_levels": ("c3",)}, {}),
        ("smp/deeplabv3", NARROW, {}),
        ("smp/deeplabv3plus", NARROW, {}),
    ],
)
def test_names_of_files_are_told_apart_from_those_of_the_encoder(name, backbone, fields):
    """Two variables of one name would be an error; all names are segmentation-models'."""
    model = build(name, backbone, **fields)
    _, found = shapes(model)
    values = {path: np.broadcast_to(np.float32(0), shape) for path, shape in found.items()}
    tables = keymaps.tables_of(keymaps.family_of(model), "smp")
    tables = {table: rules for table, rules in tables.items() if "/backbone" not in table}
    assert {"smp", "smp/tu"} <= set(tables)
    for table, rules in tables.items():
        written = keymaps.to_state_dict(values, rules)
        inside = "encoder.model." if table.startswith("smp/tu") else "encoder."
        assert {key.partition(".")[0] for key in written} == {"encoder", "decoder", "segmentation_head"}
        assert all(key.startswith(inside) for key in written if key.startswith("encoder."))
        assert not any(".bn." in key or ".conv." in key for key in written if key.startswith("decoder.blocks"))
        centers = {".".join(key.split(".")[2:4]) for key in written if key.startswith("decoder.center.")}
        assert name != "unet" or centers == {"0.0", "0.1", "1.0", "1.1"}


def test_stages_that_a_shallow_encoder_does_without_are_ignored():
    shallow = keymaps.family_of(build("smp/pspnet", {**NARROW, "out_levels": ("c3",)})).ignored
    assert {r"^encoder\.layer3\.", r"^encoder\.layer4\."} <= set(shallow)
    assert not any("layer" in pattern for pattern in keymaps.family_of(build("unet")).ignored)
    mobile = build("smp/pspnet", {"name": "mobilenetv2_100", "out_levels": ("c3",)})
    assert r"^encoder\.(model\.)?blocks\.3\." in keymaps.family_of(mobile).ignored
    assert r"^encoder\.(model\.)?blocks\.2\." not in keymaps.family_of(mobile).ignored
