"""Path aggregation networks: what the second path adds, and the levels of YOLOX's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.necks.fpn import FPN
from jaxvision.necks.pafpn import PAFPN
from jaxvision.necks.yolox_pafpn import YOLOXPAFPN
from tests.conftest import strict
from tests.necks.test_fpn import levels

pytestmark = pytest.mark.usefixtures("unoptimized")
IN = ("c3", "c4", "c5")
SIZES = {"p3": (9, 12), "p4": (5, 6), "p5": (3, 3)}


def test_the_second_path_adds_halved_levels_to_those_of_the_fpn():
    """With a second path whose halving picks every second pixel and whose convolutions are the identity."""
    inputs, neck = levels(), PAFPN(5, IN, 1, "pool")
    params = neck.init(jax.random.key(0), inputs)["params"]
    own = {name: value for name, value in params.items() if "pafpn" in name or "downsample" in name}
    identity = {"kernel": jnp.zeros((3, 3, 5, 5)).at[1, 1].set(jnp.eye(5)), "bias": jnp.zeros(5)}
    assert {name: jax.tree.map(jnp.shape, value) for name, value in own.items()} == {
        f"{kind}_convs_{i}": {"kernel": (3, 3, 5, 5), "bias": (5,)} for kind in ("pafpn", "downsample") for i in (0, 1)
    }
    shared = {name: value for name, value in params.items() if name not in own}
    with strict():
        plain = FPN(5, IN, 1, "pool").apply({"params": shared}, inputs)
        found = neck.apply({"params": shared | dict.fromkeys(own, identity)}, inputs)
    expected, before = {"p3": plain["p3"]}, plain["p3"]
    for name in ("p4", "p5"):
        expected[name] = before = plain[name] + before[:, ::2, ::2]
    expected["p6"] = before[:, ::2, ::2]
    for name, x in found.items():
        np.testing.assert_allclose(x, expected[name], atol=1e-5, err_msg=name)


def test_coarser_levels_start_behind_the_second_path():
    inputs, neck = levels(), PAFPN(5, IN, 1, "output")
    params = neck.init(jax.random.key(0), inputs)["params"]
    moved = {**params, "pafpn_convs_1": jax.tree.map(lambda x: 2 * x, params["pafpn_convs_1"])}
    one, two = (neck.apply({"params": p}, inputs) for p in (params, moved))
    assert jnp.any(one["p6"] != two["p6"]) and jnp.all(one["p4"] == two["p4"])


@pytest.mark.parametrize("depthwise", [False, True])
def test_levels_of_yolox_have_the_same_channels_and_the_sizes_of_the_backbone(depthwise):
    neck, inputs = YOLOXPAFPN(6, 1, depthwise), {name: x.astype(jnp.bfloat16) for name, x in levels().items()}
    variables = jax.eval_shape(neck.init, jax.random.key(0), inputs)
    with strict():
        found, _ = jax.eval_shape(lambda v: neck.apply(v, inputs, train=True, mutable=["batch_stats"]), variables)
    assert {name: x.shape for name, x in found.items()} == {name: (2, *size, 6) for name, size in SIZES.items()}
    assert {x.dtype for x in found.values()} == {jnp.dtype("bfloat16")}
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert neck.strides({"c2": 4, "c3": 8, "c4": 16, "c5": 32}) == {"p3": 8, "p4": 16, "p5": 32}
    assert ("depthwise_conv" in variables["params"]["downsamples_0"]) == depthwise


def test_what_is_missing_or_wrong_is_told():
    with pytest.raises(ValueError, match="set out_levels of the backbone"):
        YOLOXPAFPN(4).strides({"c4": 16, "c5": 32})
    with pytest.raises(ValueError, match="expected at least 1"):
        YOLOXPAFPN(4, depth=0)
    with pytest.raises(ValueError, match="expected names such as 'c3'"):
        YOLOXPAFPN(4, in_levels=())
