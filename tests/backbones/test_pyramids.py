"""What RegNet, RepVGG, Darknet, CSPDarknet and HRNet promise: levels, dilation, frozen stages, recomputing."""

import re

import jax
import jax.numpy as jnp
import pytest

from jaxvision.backbones import csp_darknet, darknet, hrnet, regnet, repvgg
from jaxvision.backbones.csp_darknet import CSPDarknet
from jaxvision.backbones.darknet import Darknet
from jaxvision.backbones.hrnet import HRNet
from jaxvision.backbones.regnet import RegNet
from jaxvision.backbones.repvgg import RepVGG
from jaxvision.trees import flatten
from tests.backbones.contract import KEY, check_frozen_stages, check_levels
from tests.conftest import strict

TINY = {
    "regnet": RegNet(depth=6, w0=8, wa=8.0, wm=2.0, group_width=4, stem_width=8, squeeze=0.25),
    "repvgg": RepVGG(depths=(1, 2, 1, 1), widths=(8, 8, 16, 16), stem_width=8, groups=2),
    "darknet": Darknet(depths=(1, 2, 1, 1, 1), width=4, reduction=2),
    "cspdarknet53": Darknet(depths=(1, 2, 1, 1, 1), width=4, stage="csp"),
    "csp_darknet": CSPDarknet(deepen=0.2, widen=0.125),
    "hrnet": HRNet(width=4, first_width=4, blocks=(1, 1, 1, 1), modules=(1, 1, 1), stem_width=8, head_width=1),
}
FIRST = {
    name: {"darknet": darknet, "cspdarknet53": darknet, "csp_darknet": csp_darknet}.get(name)
    or {"regnet": regnet, "repvgg": repvgg, "hrnet": hrnet}[name]
    for name in TINY
}
"""The module of each."""
FORMS = {
    **TINY,
    **{f"{name} every level": model.clone(out_levels=FIRST[name].LEVELS) for name, model in TINY.items()},
    **{f"{name} one level": model.clone(out_levels=("c3",)) for name, model in TINY.items()},
    **{f"{name} stem": model.clone(out_levels=("c1",)) for name, model in TINY.items()},
    **{f"{name} 8": TINY[name].clone(output_stride=8) for name in ("regnet", "repvgg", "darknet", "cspdarknet53")},
    "regnet 16": TINY["regnet"].clone(output_stride=16),
    "darknetaa 16": Darknet(depths=(1,) * 5, width=4, downsample="avg", output_stride=16),
    "repvgg deployed": TINY["repvgg"].clone(deploy=True),
    "csp_darknet depthwise": TINY["csp_darknet"].clone(depthwise=True),
    "hrnet bilinear": TINY["hrnet"].clone(upsample="bilinear"),
}


def shapes(model, size=(64, 96)):
    x = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
    with strict():
        return jax.eval_shape(lambda x: model.init_with_output(KEY, x, train=False), x)


def paths(model):
    return set(flatten(shapes(model)[1]["params"]))


@pytest.mark.parametrize("name", FORMS)
def test_levels_have_the_channels_and_strides_that_the_properties_promise(name):
    check_levels(FORMS[name], (64, 96, 3))


@pytest.mark.parametrize("name", TINY)
def test_frozen_paths_name_the_stem_and_one_more_stage_each_time(name):
    model = TINY[name]
    every, before = paths(model), set()
    assert model.frozen_paths == ()
    for stages in range(1, 6 if FIRST[name] is darknet else 5):
        patterns = model.clone(frozen_stages=stages).frozen_paths
        assert all(any(re.fullmatch(pattern, path) for path in every) for pattern in patterns)
        frozen = {path for path in every if any(re.fullmatch(pattern, path) for pattern in patterns)}
        assert before < frozen
        before = frozen
    assert before == every, "all stages are all parameters"


@pytest.mark.parametrize("name", TINY)
def test_frozen_stages_pass_no_gradient_and_keep_their_statistics(name, unoptimized):
    levels = ("c2",) if name == "hrnet" else TINY[name].out_levels
    check_frozen_stages(TINY[name].clone(frozen_stages=2, out_levels=levels), (64, 64, 3))


@pytest.mark.parametrize("name", TINY)
def test_recomputed_blocks_have_the_same_parameters_and_are_recomputed(name):
    def remat_count(model):
        variables = shapes(model, (64, 64))[1]
        x = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32)

        def loss(variables, x):
            levels, _ = model.apply(variables, x, train=True, mutable=["batch_stats"])
            return sum(jnp.mean(y) for y in levels.values())

        return str(jax.make_jaxpr(loss)(variables, x)).count("remat")

    again = TINY[name].clone(remat=True)
    assert paths(again) == paths(TINY[name])
    assert remat_count(TINY[name]) == 0 < remat_count(again)


@pytest.mark.parametrize("name", ["regnet", "repvgg", "darknet", "cspdarknet53", "csp_darknet"])
def test_stochastic_depth_draws_while_training_only(name):
    model = TINY[name].clone(drop_path_rate=0.5)
    variables = shapes(model)[1]
    x = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32)

    def draws(train, **options):
        run = lambda v, x: model.apply(v, x, train=train, mutable=["batch_stats"], **options)  # noqa: E731
        return str(jax.make_jaxpr(run)(variables, x)).count("random_bits")

    assert draws(True, rngs={"dropout": KEY}) > 0 == draws(False)


def test_stages_that_only_deeper_levels_need_are_not_built():
    for name in TINY:
        if name != "hrnet":
            assert paths(TINY[name].clone(out_levels=("c2",))) < paths(TINY[name])
    one, four = (paths(TINY["hrnet"].clone(out_levels=levels)) for levels in (("c2",), ("c2", "c5")))
    assert four - one == {path for path in four if re.match(r"stage4_0/fuse_layers_[123]", path)}


def test_errors_name_what_was_given():
    with pytest.raises(ValueError, match="wm=1"):
        RegNet(wm=1.0)
    with pytest.raises(ValueError, match="which make 2 stages; choose them so that there are 4"):
        RegNet(depth=5, w0=8, wa=8.0, wm=3.0)
    with pytest.raises(ValueError, match=r"RepVGG got depths=\(1, 2\)"):
        RepVGG(depths=(1, 2))
    with pytest.raises(ValueError, match="output_stride=4"):
        RepVGG(output_stride=4)
    with pytest.raises(ValueError, match="stage='cs'; it knows dark, csp"):
        Darknet(stage="cs")
    with pytest.raises(ValueError, match=r"depths=\(1,\); it takes one number for each of 5"):
        Darknet(depths=(1,))
    with pytest.raises(ValueError, match="widen=0"):
        CSPDarknet(widen=0)
    with pytest.raises(ValueError, match="63x64 pixels; height and width must be even"):
        CSPDarknet(widen=0.125).init(KEY, jnp.zeros((1, 63, 64, 3)), train=False)
    with pytest.raises(ValueError, match=r"blocks=\(1,\); it takes 4 numbers"):
        HRNet(blocks=(1,))
    with pytest.raises(ValueError, match="upsample='cubic'; it knows nearest, bilinear"):
        HRNet(upsample="cubic")
    with pytest.raises(ValueError, match="level 'c0' in out_levels"):
        HRNet(out_levels=("c0",))
    with pytest.raises(ValueError, match="must be multiples of 32"):
        jax.eval_shape(lambda: TINY["hrnet"].init(KEY, jnp.zeros((1, 48, 64, 3)), train=False))
