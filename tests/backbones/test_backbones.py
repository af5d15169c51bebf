"""What every backbone promises, and the options of ResNet."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision import layers
from jaxvision.backbones.lenet import LeNet5
from jaxvision.backbones.resnet import STAGES, BasicBlock, Bottleneck, ResNet
from tests.backbones.fill import fill
from tests.conftest import strict

KEY = jax.random.key(0, impl="rbg")  # compiles several times faster than the default
BACKBONES = {
    "lenet5": (LeNet5(), (32, 32, 1)),
    **{f"resnet{depth}": (ResNet(depth), (64, 96, 3)) for depth in STAGES},
    "resnet18 cifar": (ResNet(18, stem="cifar"), (32, 32, 3)),
    "resnet50 narrow gn": (ResNet(50, width=8, norm=layers.Norm("gn", groups=4)), (64, 64, 3)),
}


def small(**kwargs):
    return ResNet(18, stem="cifar", width=4, **kwargs)


def images(n=2, size=16):
    return jnp.asarray(np.random.default_rng(0).standard_normal((n, size, size, 3), np.float32))


@pytest.mark.parametrize("name", BACKBONES)
def test_levels_have_the_channels_and_strides_that_the_properties_promise(name):
    backbone, (h, w, c) = BACKBONES[name]
    x = jax.ShapeDtypeStruct((2, h, w, c), jnp.float32)
    with strict():
        levels, variables = jax.eval_shape(lambda x: backbone.init_with_output(KEY, x, train=False), x)
    assert list(levels) == list(backbone.channels) == list(backbone.strides)
    for level, y in levels.items():
        stride, channels = backbone.strides[level], backbone.channels[level]
        assert y.shape == ((2, channels) if level == "pooled" else (2, h // stride, w // stride, channels))
    assert {v.dtype for v in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("name", BACKBONES)
def test_backbones_are_hashable_and_equal_by_their_fields(name):
    backbone, _ = BACKBONES[name]
    assert backbone == backbone.clone() and hash(backbone) == hash(backbone.clone())
    assert ResNet(18) != ResNet(18, width=32)


def test_submodules_carry_the_names_of_timm():
    x = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    params = jax.eval_shape(lambda x: ResNet(50).init(KEY, x, train=False), x)["params"]
    assert set(params["layer2_0"]) == {
        *("conv1", "bn1", "conv2", "bn2", "conv3", "bn3", "downsample_0", "downsample_1")
    }
    assert set(params["layer2_1"]) == {"conv1", "bn1", "conv2", "bn2", "conv3", "bn3"}
    assert {"conv1", "bn1", "layer1_2", "layer3_5", "layer4_2"} <= set(params)
    assert params["layer2_0"]["conv2"]["kernel"].shape == (3, 3, 128, 128)


def test_the_3x3_convolution_of_a_bottleneck_carries_the_stride():
    x = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    _, seen = jax.eval_shape(lambda x: ResNet(50).init_with_output(KEY, x, train=False, capture_intermediates=True), x)
    block = seen["intermediates"]["layer2_0"]
    assert block["conv1"]["__call__"][0].shape[1] == 16
    assert block["conv2"]["__call__"][0].shape[1] == 8


def test_frozen_stages_pass_no_gradient_and_keep_their_statistics():
    x = images()
    variables = fill(small(), x, train=False)

    @jax.jit
    def gradients(variables):
        def loss(params):
            model = small(frozen_stages=2)
            levels, updated = model.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
            return sum(jnp.mean(jnp.square(y)) for y in levels.values()), updated["batch_stats"]

        return jax.grad(loss, has_aux=True)(variables["params"])

    grads, stats = gradients(variables)
    for name in grads:
        frozen = not name.startswith(("layer3", "layer4"))
        assert (not any(np.any(g) for g in jax.tree.leaves(grads[name]))) == frozen, name
        if name in stats:
            pairs = zip(*(jax.tree.leaves(s[name]) for s in (stats, variables["batch_stats"])), strict=True)
            assert all(np.array_equal(a, b) for a, b in pairs) == frozen, name


@pytest.mark.parametrize("block", [BasicBlock(8, zero_init_last=True), Bottleneck(2, zero_init_last=True)])
def test_zero_initialised_residual_branches_make_a_block_the_identity(block):
    x = jnp.abs(jnp.asarray(np.random.default_rng(0).standard_normal((2, 3, 3, 8), np.float32)))
    run = lambda block: jax.jit(lambda x: block.init_with_output(KEY, x, train=False)[0])(x)  # noqa: E731
    np.testing.assert_array_equal(run(block), x)
    assert not np.allclose(run(block.clone(zero_init_last=False)), x)


def test_initial_weights_keep_the_variance_of_gradients_and_the_scale_is_one():
    block = BasicBlock(128, strides=2)
    params = jax.jit(lambda x: block.init(KEY, x, train=False))(jnp.zeros((1, 4, 4, 64)))["params"]
    np.testing.assert_allclose(params["conv1"]["kernel"].std(), np.sqrt(2 / (128 * 9)), rtol=0.01)
    assert (params["bn2"]["scale"] == 1).all()


def test_errors_name_what_was_given():
    with pytest.raises(ValueError, match="depth=20; it knows 18, 34"):
        ResNet(20)
    with pytest.raises(ValueError, match="stem='cifar10'"):
        ResNet(18, stem="cifar10")
    with pytest.raises(ValueError, match="frozen_stages=5"):
        ResNet(18, frozen_stages=5)
    with pytest.raises(ValueError, match="28, 28, 1"):
        LeNet5().init(KEY, jnp.zeros((1, 28, 28, 1)))
