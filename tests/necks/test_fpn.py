"""The feature pyramid: names, strides and sizes of its levels, and what they are made of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.necks.fpn import FPN
from tests.conftest import strict

SIZES = {"c3": (9, 12, 4), "c4": (5, 6, 6), "c5": (3, 3, 8)}
IN = ("c3", "c4", "c5")


def levels(seed=0):
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.normal(size=(2, *size)), jnp.float32) for name, size in SIZES.items()}


def run(neck, dtype=jnp.float32):
    inputs = {name: x.astype(dtype) for name, x in levels().items()}
    variables = neck.init(jax.random.key(0), inputs)
    with strict():
        return variables["params"], neck.apply(variables, inputs)


@pytest.mark.parametrize(("extra", "relu"), [("pool", False), ("input", False), ("output", True)])
def test_levels_and_their_strides(extra, relu, unoptimized):
    neck = FPN(5, IN, 2, extra, relu)
    params, outputs = run(neck)
    sizes = {"p3": (9, 12), "p4": (5, 6), "p5": (3, 3), "p6": (2, 2), "p7": (1, 1)}
    assert {name: x.shape for name, x in outputs.items()} == {name: (2, *size, 5) for name, size in sizes.items()}
    strides = {"c2": 4, "c3": 8, "c4": 16, "c5": 32}
    assert neck.strides(strides) == {"p3": 8, "p4": 16, "p5": 32, "p6": 64, "p7": 128}
    assert list(outputs) == list(neck.out_levels)
    assert ("extra_blocks_1" in params) == (extra != "pool")
    if extra != "pool":
        assert params["extra_blocks_0"]["kernel"].shape == (3, 3, 8 if extra == "input" else 5, 5)


def test_the_coarser_sum_is_added_to_nearest_pixels(unoptimized):
    """With identity convolutions: the sum of a level is itself and the coarser sum, enlarged as torch's "nearest"."""
    inputs = {"c3": jnp.ones((1, 4, 5, 1)), "c4": jnp.arange(6.0).reshape(1, 2, 3, 1)}
    neck = FPN(1, ("c3", "c4"))
    one, cross = jnp.ones((1, 1, 1, 1)), jnp.zeros((3, 3, 1, 1)).at[1, 1].set(1)
    params = {f"inner_blocks_{i}": {"kernel": one, "bias": jnp.zeros(1)} for i in range(2)}
    params |= {f"layer_blocks_{i}": {"kernel": cross, "bias": jnp.zeros(1)} for i in range(2)}
    p3 = neck.apply({"params": params}, inputs)["p3"][0, :, :, 0]
    rows, columns = np.arange(4) * 2 // 4, np.arange(5) * 3 // 5
    np.testing.assert_array_equal(p3, 1 + np.arange(6.0).reshape(2, 3)[rows][:, columns])


def test_bfloat16_stays(unoptimized):
    params, outputs = run(FPN(5, IN, 1, "output"), jnp.bfloat16)
    assert {x.dtype for x in jax.tree.leaves(outputs)} == {jnp.dtype("bfloat16")}
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype("float32")}


def test_what_is_missing_or_misspelt_is_told():
    with pytest.raises(ValueError, match="did you mean 'output'"):
        FPN(extra="outputs")
    with pytest.raises(ValueError, match="set out_levels of the backbone"):
        FPN(4).strides({"c4": 16, "c5": 32})
