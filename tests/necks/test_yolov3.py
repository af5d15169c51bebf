"""The neck of YOLOv3: names, strides, sizes and types of its levels."""

import jax
import jax.numpy as jnp
import pytest

from jaxvision.necks.yolov3 import YOLOv3Neck
from tests.conftest import strict


def test_coarser_levels_are_joined_to_finer_ones():
    shapes = {"c3": (2, 9, 12, 5), "c4": (2, 5, 6, 6), "c5": (2, 3, 3, 7)}
    levels = {name: jax.ShapeDtypeStruct(shape, jnp.bfloat16) for name, shape in shapes.items()}
    neck = YOLOv3Neck(channels=4)
    with strict():
        outputs, variables = jax.eval_shape(lambda x: neck.init_with_output(jax.random.key(0), x, train=False), levels)
    expected = {"p3": (2, 9, 12, 4), "p4": (2, 5, 6, 8), "p5": (2, 3, 3, 16)}
    assert {name: x.shape for name, x in outputs.items()} == expected and list(outputs) == list(neck.out_levels)
    assert {x.dtype for x in outputs.values()} == {jnp.dtype("bfloat16")}
    params = variables["params"]
    assert params["detect3"]["conv1"]["conv"]["kernel"].shape == (1, 1, 4 + 5, 4)
    assert params["detect1"]["conv4"]["conv"]["kernel"].shape == (3, 3, 16, 32)
    assert set(params) == {"detect1", "conv1", "detect2", "conv2", "detect3"}
    assert neck.strides({"c3": 8, "c4": 16, "c5": 32}) == {"p3": 8, "p4": 16, "p5": 32}


def test_a_missing_level_is_told():
    with pytest.raises(ValueError, match="needs the levels c3, c4, c5"):
        YOLOv3Neck().strides({"c4": 16})
