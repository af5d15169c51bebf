"""AlexNet, VGG, GoogLeNet, DenseNet and the ShuffleNets: levels, options, frozen stages, errors."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision import layers
from jaxvision.backbones import alexnet, densenet, googlenet, shufflenet_v1, shufflenet_v2, ssd_vgg, vgg
from jaxvision.backbones.alexnet import AlexNet
from jaxvision.backbones.densenet import DenseNet
from jaxvision.backbones.googlenet import GoogLeNet
from jaxvision.backbones.shufflenet_v1 import ShuffleNetV1
from jaxvision.backbones.shufflenet_v2 import ShuffleNetV2
from jaxvision.backbones.ssd_vgg import SSDVGG
from jaxvision.backbones.vgg import VGG
from jaxvision.trees import flatten
from tests.backbones.fill import fill
from tests.conftest import strict

KEY = jax.random.key(0, impl="rbg")
BN = layers.Norm()
SMALL = {
    "vgg": VGG(13, width=4, hidden=8),
    "vgg bn": VGG(11, BN, width=4, hidden=8),
    "vgg pool levels": VGG(16, width=4, hidden=8, pool_levels=True),
    "vgg of ssd": SSDVGG(11, width=4, hidden=8),
    "googlenet": GoogLeNet(0.125),
    "densenet": DenseNet((2, 1, 2, 1), 8),
    "densenet deep": DenseNet((2, 1, 2, 1), 8, stem="deep"),
    "shufflenet v1": ShuffleNetV1(3, 0.5, (1, 2, 1)),
    "shufflenet v1 at 8": ShuffleNetV1(2, depths=(1, 2, 2), output_stride=8),
    "shufflenet v2": ShuffleNetV2((8, 16, 24, 32, 40), (1, 2, 1)),
    "shufflenet v2 at 16": ShuffleNetV2((8, 16, 24, 32, 40), (1, 2, 2), output_stride=16),
}
STAGES = {AlexNet: 3, VGG: 5, SSDVGG: 5, GoogLeNet: 3, DenseNet: 4, ShuffleNetV1: 3, ShuffleNetV2: 3}
LEVELS = {
    type_: module.LEVELS
    for type_, module in (
        (AlexNet, alexnet),
        (VGG, vgg),
        (SSDVGG, ssd_vgg),
        (GoogLeNet, googlenet),
        (DenseNet, densenet),
        (ShuffleNetV1, shufflenet_v1),
        (ShuffleNetV2, shufflenet_v2),
    )
}


def every_level(model):
    levels = LEVELS[type(model)]
    return model.clone(out_levels=levels[1:] if getattr(model, "pool_levels", False) else levels)


def shapes(model, size=(64, 96)):
    x = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
    with strict():
        return jax.eval_shape(lambda x: model.init_with_output(KEY, x, train=False), x)


@pytest.mark.parametrize("name", SMALL)
def test_every_level_has_the_channels_and_the_stride_of_its_properties(name):
    model = every_level(SMALL[name])
    levels, variables = shapes(model)
    assert list(levels) == list(model.channels) == list(model.strides) == list(model.out_levels)
    for level, y in levels.items():
        c, s = model.channels[level], model.strides[level]
        assert y.shape == ((2, c) if level == "pooled" else (2, 64 // s, 96 // s, c)), level
    assert {v.dtype for v in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert model == model.clone() and hash(model) == hash(model.clone())


def test_alexnet_has_the_maps_of_its_unpadded_poolings():
    model = every_level(AlexNet(width=4, hidden=8))
    levels, _ = shapes(model, (224, 224))
    want = {"c2": (55, 55, 4), "c3": (27, 27, 12), "c4": (13, 13, 16), "c5": (6, 6, 16), "pooled": (8,)}
    assert {level: y.shape[1:] for level, y in levels.items()} == want
    assert {level: shape[-1] for level, shape in want.items()} == model.channels
    assert shapes(model, (63, 63))[0]["c5"].shape[1:3] == (1, 1)


def test_only_what_the_levels_need_is_built():
    assert set(shapes(VGG(11, width=4, out_levels=("c2",)))[1]["params"]) == {f"features_{i}" for i in (0, 3, 6, 8)}
    pooling = VGG(11, width=4, out_levels=("c2",), pool_levels=True)
    assert set(shapes(pooling)[1]["params"]) == {"features_0", "features_3"}
    assert not any("pre_logits" in name for name in shapes(SMALL["vgg"])[1]["params"])
    assert set(shapes(AlexNet(width=4, out_levels=("c3",)))[1]["params"]) == {"features_0", "features_3"}
    assert set(shapes(GoogLeNet(0.125, out_levels=("c1",)))[1]["params"]) == {"conv1"}
    first = DenseNet((2, 1, 2, 1), 8, out_levels=("c2", "c3"))
    assert set(shapes(first)[1]["params"]) == {"conv0", "norm0", "denseblock1", "transition1", "denseblock2"}
    assert set(shapes(ShuffleNetV1(out_levels=("c2",)))[1]["params"]) == {"conv1"}
    assert "conv5_0" not in shapes(SMALL["shufflenet v2"])[1]["params"]


@pytest.mark.parametrize("name", [*SMALL, "alexnet"])
def test_frozen_paths_name_the_parameters_of_the_frozen_stages(name):
    model = AlexNet(width=4, hidden=8) if name == "alexnet" else SMALL[name]
    model = every_level(model)
    paths = flatten(shapes(model)[1]["params"])
    assert model.frozen_paths == ()
    before = set()
    for stages in range(1, STAGES[type(model)] + 1):
        patterns = model.clone(frozen_stages=stages).frozen_paths
        assert all(any(re.fullmatch(pattern, path) for path in paths) for pattern in patterns)
        frozen = {path for path in paths if any(re.fullmatch(pattern, path) for pattern in patterns)}
        assert before < frozen
        before = frozen
    left = {path.split("/")[0] for path in paths if path not in before}
    hidden = {"pre_logits_fc1", "pre_logits_fc2", "classifier_1", "classifier_4", "features_21", "features_23"}
    assert left <= hidden | {"conv5_0", "conv5_1"}


FROZEN = {
    "vgg": VGG(11, BN, width=4, out_levels=("c1", "c3")),
    "vgg of ssd": SSDVGG(11, BN, width=2, hidden=4),
    "googlenet": GoogLeNet(0.125, out_levels=("c2", "c3", "c4")),
    "densenet": DenseNet((1, 1, 1, 1), 8, out_levels=("c1", "c2", "c3")),
    "shufflenet v1": ShuffleNetV1(3, 0.25, (1, 1, 1), out_levels=("c2", "c3", "c4")),
    "shufflenet v2": ShuffleNetV2((8, 8, 8, 8, 8), (1, 1, 1), out_levels=("c1", "c3", "c4")),
}


@pytest.mark.parametrize("name", FROZEN)
def test_frozen_stages_pass_no_gradient_and_keep_their_statistics(name, unoptimized):
    model = FROZEN[name].clone(frozen_stages=1)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 32, 32, 3), np.float32))
    variables = fill(model, x, train=False)

    @jax.jit
    def gradients(variables):
        def loss(params):
            levels, updated = model.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
            return sum(jnp.mean(jnp.square(y)) for y in levels.values()), updated["batch_stats"]

        return jax.grad(loss, has_aux=True)(variables["params"])

    grads, stats = gradients(variables)
    before = flatten(variables["batch_stats"])
    named = lambda path: any(re.fullmatch(pattern, path) for pattern in model.frozen_paths)  # noqa: E731
    for path, gradient in flatten(grads).items():
        assert named(path) == (not np.any(gradient)), path
    for path, value in flatten(stats).items():
        assert named(path) == np.array_equal(value, before[path]), path


@pytest.mark.parametrize("name", FROZEN)
def test_recomputing_changes_neither_levels_nor_gradients(name, unoptimized):
    plain = FROZEN[name]
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 32, 32, 3), np.float32))
    variables = fill(plain, x, train=False)
    again = plain.clone(remat=True)
    own = jax.eval_shape(lambda x: again.init(KEY, x, train=False), x)
    assert jax.tree.structure(own) == jax.tree.structure(variables)

    def run(model):
        def loss(params):
            levels, updated = model.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
            return sum(jnp.mean(jnp.square(y)) for y in levels.values()), updated

        return jax.value_and_grad(loss, has_aux=True)

    both = jax.jit(lambda p: (run(plain)(p), run(again)(p)))(variables["params"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), *both)
    saved = [str(jax.make_jaxpr(run(model))(variables["params"])).count("remat") for model in (plain, again)]
    assert saved[0] == 0 < saved[1]


@pytest.mark.parametrize("model", [AlexNet(8, 64, 0.5), VGG(11, width=2, hidden=64, dropout=0.5)])
def test_hidden_layers_drop_units_while_training_only(model, unoptimized):
    model = model.clone(out_levels=("pooled",))
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 64, 64, 3), np.float32))
    variables = fill(model, x, train=False)
    run = jax.jit(lambda train, key: model.apply(variables, x, train=train, rngs={"dropout": key}), static_argnums=0)
    plain, dropped = (run(train, KEY)["pooled"] for train in (False, True))
    assert not np.allclose(plain, dropped)
    undropped = model.clone(dropout=0.0).apply(variables, x, train=True)["pooled"]
    np.testing.assert_allclose(plain, undropped, rtol=1e-4, atol=1e-5)


def test_images_normalised_for_imagenet_are_renormalised(unoptimized):
    pixels = np.random.default_rng(0).uniform(0, 1, (2, 32, 32, 3)).astype(np.float32)
    mean, std = np.array((0.485, 0.456, 0.406), np.float32), np.array((0.229, 0.224, 0.225), np.float32)
    plain = GoogLeNet(0.125, out_levels=("c1",))
    variables = fill(plain, jnp.asarray(pixels), train=False)
    want = plain.apply(variables, jnp.asarray(2 * pixels - 1), train=False)["c1"]
    both = plain.clone(transform_input=True)
    got = both.apply(variables, jnp.asarray((pixels - mean) / std), train=False)["c1"]
    np.testing.assert_allclose(got, want, atol=1e-5)
    with pytest.raises(ValueError, match="three channels: give it transform_input=False"):
        both.init(KEY, jnp.zeros((1, 32, 32, 1)), train=False)


def test_errors_name_what_was_given():
    with pytest.raises(ValueError, match="VGG got depth=12; it knows 11, 13, 16, 19"):
        VGG(12)
    with pytest.raises(ValueError, match="level 'c0' in out_levels"):
        VGG(11, pool_levels=True, out_levels=("c0",))
    with pytest.raises(ValueError, match="DenseNet got stem='tiered'"):
        DenseNet(stem="tiered")
    with pytest.raises(ValueError, match="ShuffleNetV1 got groups=5; it knows 1, 2, 3, 4, 8"):
        ShuffleNetV1(5)
    with pytest.raises(ValueError, match=r"ShuffleNetV2 got widths=.*\[15\] cannot be split"):
        ShuffleNetV2((8, 15, 16, 16, 16))
    with pytest.raises(ValueError, match="frozen_stages=4; it takes 0 to 3"):
        AlexNet(frozen_stages=4)
