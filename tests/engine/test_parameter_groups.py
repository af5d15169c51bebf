"""Parameter groups: patterns, layer-wise decay, exemptions, freezing, and the table that shows them."""

import jax
import jax.numpy as jnp
import pytest

from jaxvision.engine.parameter_groups import layer_indices, parameter_table


def shapes(tree):
    return jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32), tree, is_leaf=lambda x: isinstance(x, tuple)
    )


RESNET = shapes(
    {
        "backbone": {
            "conv1": {"kernel": (3, 3, 3, 8)},
            "bn1": {"scale": (8,), "bias": (8,)},
            "layer1_0": {"conv1": {"kernel": (3, 3, 8, 8)}, "bn1": {"scale": (8,), "bias": (8,)}},
            "layer1_1": {"conv1": {"kernel": (3, 3, 8, 8)}},
            "layer2_0": {"conv1": {"kernel": (3, 3, 8, 16)}, "downsample_0": {"kernel": (1, 1, 8, 16)}},
        },
        "head": {"kernel": (16, 10), "bias": (10,)},
    }
)


def test_multipliers_of_all_matching_rules_are_multiplied():
    table = parameter_table(
        RESNET,
        rules=(
            {"pattern": "backbone/.*", "learning_rate": 0.1},
            {"pattern": "backbone/layer1_.*", "learning_rate": 0.5, "weight_decay": 2.0},
            {"pattern": ".*/bias", "learning_rate": 2.0},
        ),
        no_weight_decay_on_norm_and_bias=True,
    )
    got = {path: (table[path].learning_rate, table[path].weight_decay) for path in (row.path for row in table.rows)}
    assert got["backbone/conv1/kernel"] == pytest.approx((0.1, 1.0))
    assert got["backbone/layer1_1/conv1/kernel"] == pytest.approx((0.05, 2.0))
    assert got["backbone/layer1_0/bn1/bias"] == pytest.approx((0.1, 0.0))
    assert got["head/bias"] == pytest.approx((2.0, 0.0))
    assert got["head/kernel"] == (1.0, 1.0)


def test_freezing_by_pattern():
    table = parameter_table(RESNET, freeze=("backbone/(conv1|bn1)/.*", "backbone/layer1_.*"))
    frozen = {row.path for row in table.rows if row.frozen}
    assert frozen == {
        row.path for row in table.rows if row.path.startswith(("backbone/conv1", "backbone/bn1", "backbone/layer1"))
    }


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"freeze": ("backbone/layr2_0/.*",)}, "schedule.freeze: 'backbone/layr2_0/.*' matches no parameter"),
        ({"freeze": ("backbone/layr2_0/.*",)}, "backbone/layer2_0"),
        ({"freeze": ("backbone",)}, "matches the beginning of some"),
        ({"freeze": ("backbone/(",)}, "is not a regular expression"),
        ({"freeze": (".*",)}, "nothing is left to train"),
        ({"rules": ({"pattern": "nothing"},)}, "schedule.rules: 'nothing' matches no parameter"),
        ({"rules": ({"pattern": ".*", "learning_rat": 1.0},)}, "unknown key 'learning_rat'"),
        ({"rules": ({"pattern": ".*", "learning_rat": 1.0},)}, "did you mean 'learning_rate'"),
        ({"rules": ({"learning_rate": 1.0},)}, "has no 'pattern'"),
        ({"rules": ({"pattern": ".*", "weight_decay": -1.0},)}, "multipliers of at least 0"),
        ({"layer_decay": 1.5}, "layer_decay is 1.5"),
    ],
)
def test_errors_say_what_was_given_and_what_is_near(settings, text):
    with pytest.raises(ValueError) as error:
        parameter_table(RESNET, **settings)
    assert text in str(error.value)


def test_layers_of_a_resnet():
    assert layer_indices([row.path for row in parameter_table(RESNET).rows]) == {
        "backbone/conv1/kernel": 0,
        "backbone/bn1/scale": 0,
        "backbone/bn1/bias": 0,
        "backbone/layer1_0/conv1/kernel": 1,
        "backbone/layer1_0/bn1/scale": 1,
        "backbone/layer1_0/bn1/bias": 1,
        "backbone/layer1_1/conv1/kernel": 2,
        "backbone/layer2_0/conv1/kernel": 3,
        "backbone/layer2_0/downsample_0/kernel": 3,
        "head/kernel": 4,
        "head/bias": 4,
    }


def test_layers_of_a_vision_transformer():
    stem = ["backbone/cls_token", "backbone/pos_embed", "backbone/patch_embed/proj/kernel"]
    blocks = [f"backbone/blocks_{i}/mlp/fc1/kernel" for i in range(12)]
    rest = ["backbone/norm/scale", "head/kernel", "decoder/layers_0/kernel"]
    expected = {**dict.fromkeys(stem, 0), **{p: i + 1 for i, p in enumerate(blocks)}, **dict.fromkeys(rest, 13)}
    assert layer_indices([*rest, *reversed(blocks), *stem]) == expected


def test_layers_of_a_network_in_stages():
    paths = [
        "stem_0/kernel",
        "stages_0/blocks_0/conv_dw/kernel",
        "stages_0/blocks_1/conv_dw/kernel",
        "stages_1/downsample/kernel",
        "stages_1/blocks_0/conv_dw/kernel",
        "stages_1/blocks_10/conv_dw/kernel",
        "head/fc/kernel",
    ]
    assert list(layer_indices(paths).values()) == [0, 1, 2, 3, 3, 4, 5]


def test_layer_decay_is_a_power_of_the_distance_to_the_last_layer():
    table = parameter_table(RESNET, layer_decay=0.5, rules=({"pattern": "head/.*", "learning_rate": 10.0},))
    assert table["backbone/conv1/kernel"].learning_rate == 0.5**4
    assert table["backbone/layer2_0/conv1/kernel"].learning_rate == 0.5
    assert table["head/kernel"].learning_rate == 10.0


def test_layers_may_be_told():
    table = parameter_table(
        shapes({"a": (2,), "b": (2,)}), layer_decay=0.1, layer_index=lambda paths: {p: "ab".index(p) for p in paths}
    )
    assert [row.learning_rate for row in table.rows] == [0.1, 1.0]
    with pytest.raises(ValueError, match="found no numbered blocks"):
        parameter_table(shapes({"a": (2,), "b": (2,)}), layer_decay=0.1)


def test_the_table_shows_groups_and_totals():
    table = parameter_table(RESNET, freeze=("backbone/conv1/.*",), no_weight_decay_on_norm_and_bias=True)
    lines = str(table).splitlines()
    assert lines[0] == "learning rate x1, weight decay x0: 5 tensors, 42 parameters, 0.00 MB"
    assert [line for line in lines if not line.startswith(" ")] == table.summary().splitlines()
    assert "frozen: 1 tensor, 216 parameters, 0.00 MB" in lines
    assert lines[-1] == "total: 11 tensors, 2,850 parameters, 0.01 MB (2,634 trained, 216 frozen)"
    rows = [line for line in lines if line.startswith(" ")]
    assert len(rows) == 11
    assert len({line.index("float32") for line in rows}) == 1
    assert len({len(line) for line in rows}) == 1


def test_holes_are_not_parameters_and_a_bare_array_is_one():
    assert [row.path for row in parameter_table({"a": None, "b": jnp.ones(2)}).rows] == ["b"]
    assert [row.path for row in parameter_table(jnp.ones(2)).rows] == [""]
    assert "  .  " in str(parameter_table(jnp.ones(2)))


def test_a_parameter_unknown_to_the_table_is_an_error():
    with pytest.raises(KeyError, match="head/kernl"):
        parameter_table(RESNET)["head/kernl"]
