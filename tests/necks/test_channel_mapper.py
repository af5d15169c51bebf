"""The neck of detectors with queries: names, strides and sizes of its levels."""

import jax
import jax.numpy as jnp
import pytest

from jaxvision.layers import Norm
from jaxvision.necks.channel_mapper import ChannelMapper
from tests.conftest import strict

SIZES = {"c3": (9, 12, 4), "c4": (5, 6, 6), "c5": (4, 5, 8)}


@pytest.mark.parametrize("norm", [None, Norm("gn", groups=2)])
def test_levels_and_their_strides(norm):
    neck = ChannelMapper(4, extra_levels=2, norm=norm, bias=norm is None)

    def run(dtype):
        levels = {name: jnp.ones((2, *size), dtype) for name, size in SIZES.items()}
        outputs, variables = neck.init_with_output(jax.random.key(0), levels)
        return outputs, variables["params"]

    with strict():
        outputs, params = jax.eval_shape(lambda: run(jnp.bfloat16))
    sizes = {"p3": (9, 12), "p4": (5, 6), "p5": (4, 5), "p6": (2, 3), "p7": (1, 2)}
    assert {name: x.shape for name, x in outputs.items()} == {name: (2, *size, 4) for name, size in sizes.items()}
    assert {x.dtype for x in jax.tree.leaves(outputs)} == {jnp.dtype("bfloat16")}
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    assert neck.strides({"c3": 8, "c4": 16, "c5": 32}) == {"p3": 8, "p4": 16, "p5": 32, "p6": 64, "p7": 128}
    assert params["extra_convs_0"]["conv"]["kernel"].shape == (3, 3, 8, 4)
    assert params["extra_convs_1"]["conv"]["kernel"].shape == (3, 3, 4, 4)
    assert set(params["convs_0"]) == ({"conv"} if norm is None else {"conv", "norm"})
    assert ("bias" in params["convs_0"]["conv"]) == (norm is None)


def test_what_is_missing_or_misspelt_is_told():
    with pytest.raises(ValueError, match="needs the levels c6 of its backbone, which returns c3"):
        ChannelMapper(4, ("c6",)).strides({"c3": 8})
    with pytest.raises(ValueError, match="expected names such as 'c5'"):
        ChannelMapper(4, ("last",))
    with pytest.raises(ValueError, match="a negative number"):
        ChannelMapper(4, extra_levels=-1)
