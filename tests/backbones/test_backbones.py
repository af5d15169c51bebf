"""What every backbone promises, and the options of ResNet."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision import layers
from jaxvision.backbones import pyramid
from jaxvision.backbones.lenet import LeNet5
from jaxvision.backbones.resnest import ResNeSt
from jaxvision.backbones.resnet import LEVELS, STAGES, BasicBlock, Bottleneck, ResNet
from jaxvision.backbones.senet import SENet
from tests.backbones.contract import KEY, check_frozen_paths, check_frozen_stages, check_levels, check_remat, images
from tests.backbones.fill import fill

BACKBONES = {
    "lenet5": (LeNet5(), (32, 32, 1)),
    **{f"resnet{depth}": (ResNet(depth), (64, 96, 3)) for depth in STAGES},
    "resnet18 cifar": (ResNet(18, stem="cifar"), (32, 32, 3)),
    "resnet10 every level": (ResNet(10, stem="tiered", stem_width=32, out_levels=LEVELS), (64, 96, 3)),
    "resnet14 two levels": (ResNet(14, stem="deep", shortcut="avg", out_levels=("c4", "c2")), (64, 96, 3)),
    "resnet14 stride 16": (ResNet(14, output_stride=16), (64, 96, 3)),
    "resnet14 stride 8": (ResNet(14, shortcut="avg", output_stride=8, contract_dilation=False), (64, 96, 3)),
    "resnet14 caffe": (ResNet(14, style="caffe", output_stride=8), (64, 96, 3)),
    "resnext": (ResNet(14, groups=32, width_per_group=4), (64, 96, 3)),
    "senet": (SENet(14, reduce_first=2, shortcut_kernel=3, output_stride=16), (64, 96, 3)),
    "senet legacy": (SENet(10, legacy=True, divisor=1), (64, 96, 3)),
    "resnest": (ResNeSt(14, output_stride=16), (64, 96, 3)),
    "resnest averaged first": (ResNeSt(14, radix=1, groups=4, width_per_group=24, avg_first=True), (64, 96, 3)),
    "resnet50 narrow gn": (ResNet(50, width=8, norm=layers.Norm("gn", groups=4)), (64, 64, 3)),
}


def small(**kwargs):
    return ResNet(18, stem="cifar", width=4, **kwargs)


@pytest.mark.parametrize("name", BACKBONES)
def test_levels_have_the_channels_and_strides_that_the_properties_promise(name):
    check_levels(*BACKBONES[name])


def test_backbones_of_other_fields_differ():
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
    check_frozen_stages(small(frozen_stages=2, out_levels=LEVELS), (16, 16, 3))


@pytest.mark.parametrize("model", [ResNet(14, stem="deep", shortcut="avg"), ResNeSt(14), SENet(10, stem="tiered")])
def test_frozen_paths_name_the_stem_and_the_stages(model):
    check_frozen_paths(model, (64, 64, 3), ("conv1|bn1|layer1_", "layer2_", "layer3_", "layer4_"))


def test_stages_that_only_deeper_levels_need_are_not_built():
    x = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    model = ResNet(10, out_levels=("c1", "c3"), frozen_stages=4)
    params = jax.eval_shape(lambda x: model.init(KEY, x, train=False), x)["params"]
    assert set(params) == {"conv1", "bn1", "layer1_0", "layer2_0"}
    assert model.frozen_paths[1:] == (r"layer1_\d+/.*", r"layer2_\d+/.*")


def test_recomputed_blocks_give_the_same_levels_gradients_and_statistics(unoptimized):
    check_remat(ResNet(10, stem="cifar", width=4, out_levels=("c3",), drop_path_rate=0.5), (16, 16, 3))


def test_stochastic_depth_acts_while_training_only_and_rises_with_depth(unoptimized):
    x = images(8, (8, 8, 3))
    model = ResNet(10, stem="cifar", width=4, norm=layers.Norm("ln"), drop_path_rate=1.0)
    variables = fill(model, x, train=False)
    run = jax.jit(lambda v, x: [model.apply(v, x, train=t, rngs={"dropout": KEY})["c5"] for t in (False, True)])
    plain, dropped = run(variables, x)
    shortcut = {key: value for key, value in variables["params"]["layer4_0"].items() if key.startswith("downsample")}
    assert shortcut and not np.allclose(plain, dropped)
    blind = jax.tree.map(lambda p: p, variables)
    blind["params"]["layer4_0"]["conv2"]["kernel"] *= 0  # the last block's residual branch is always dropped
    blind["params"]["layer4_0"]["bn2"]["bias"] *= 3
    np.testing.assert_allclose(run(blind, x)[1], dropped, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(sum(pyramid.drop_path_rates(0.3, (2, 1, 1)), ()), (0, 0.1, 0.2, 0.3))
    assert pyramid.drop_path_rates(0.3, (1,)) == ((0.0,),)


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
    with pytest.raises(ValueError, match="depth=20; it knows 10, 14"):
        ResNet(20)
    with pytest.raises(ValueError, match="stem='cifar10'; it knows imagenet"):
        ResNet(18, stem="cifar10")
    with pytest.raises(ValueError, match="frozen_stages=5"):
        ResNet(18, frozen_stages=5)
    with pytest.raises(ValueError, match=r"level 'c6' in out_levels: .*c5"):
        ResNet(18, out_levels=("c2", "c6"))
    with pytest.raises(ValueError, match="no out_levels; choose from c1, c2"):
        ResNet(18, out_levels=())
    with pytest.raises(ValueError, match="output_stride=4; it takes 8, 16 or 32"):
        ResNet(18, output_stride=4)
    with pytest.raises(ValueError, match="drop_path_rate=2"):
        SENet(18, drop_path_rate=2)
    with pytest.raises(ValueError, match="ResNet got groups, width_per_group or style for basic blocks"):
        ResNet(18, groups=32)
    with pytest.raises(ValueError, match="ResNeSt got depth=18, whose blocks are basic; it has only bottleneck"):
        ResNeSt(18)
    with pytest.raises(ValueError, match="ResNeSt got style='caffe'"):
        ResNeSt(14, style="caffe")
    with pytest.raises(ValueError, match="28, 28, 1"):
        LeNet5().init(KEY, jnp.zeros((1, 28, 28, 1)))


def test_dilation_replaces_strides_beyond_the_output_stride():
    rows = lambda *args, **kw: [(s.strides, s.first_dilation, s.dilation, s.total) for s in pyramid.dilate(*args, **kw)]  # noqa: E731
    assert rows((1, 2, 2, 2), 4, 32) == [(1, 1, 1, 4), (2, 1, 1, 8), (2, 1, 1, 16), (2, 1, 1, 32)]
    assert rows((1, 2, 2, 2), 4, 8) == [(1, 1, 1, 4), (2, 1, 1, 8), (1, 1, 2, 8), (1, 2, 4, 8)]
    assert rows((1, 2, 2, 2), 4, 16, contract=False)[-1] == (1, 2, 2, 16)


def test_make_divisible_rounds_halves_up_and_not_too_low():
    assert [pyramid.make_divisible(v) for v in (1, 11, 12, 20)] == [8, 8, 16, 24]
    assert pyramid.make_divisible(11, lowest_share=0.9) == 16
    assert pyramid.make_divisible(4, 1) == 4 and pyramid.make_divisible(10, least=32) == 32
