"""ResNet with deformable stages, and its last stages as a network of their own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxvision as jv
from jaxvision.backbones.resnest import ResNeSt
from jaxvision.backbones.resnet import LEVELS, ResNet
from jaxvision.classification.classifier import Classifier
from jaxvision.config import build
from jaxvision.pretrained.keymaps import family_of
from jaxvision.pretrained.load import save_torch_named_safetensors
from tests.backbones.contract import KEY, check_levels, check_remat, images
from tests.backbones.fill import fill

SMALL = {"depth": 14, "stem": "cifar", "width": 4}


def test_deformable_stages_keep_levels_and_have_offsets_of_their_own():
    model = ResNet(14, deformable=("c3", "c5"), modulated=True, deform_groups=2, output_stride=16, style="caffe")
    check_levels(model, (64, 64, 3))
    x = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    params = jax.eval_shape(lambda x: model.init(KEY, x, train=False), x)["params"]
    offsets = {name: block["conv2"]["conv_offset"]["kernel"].shape for name, block in params.items() if "r4" in name}
    assert offsets == {"layer4_0": (3, 3, 512, 54)}
    assert [name for name in params if "conv_offset" in params[name].get("conv2", {})] == ["layer2_0", "layer4_0"]


def test_a_fresh_deformable_network_starts_from_a_classifier_and_says_the_same(tmp_path, unoptimized):
    plain = Classifier(ResNet(**SMALL, out_levels=("c3",)), 3)
    x = images(2, (8, 8, 3))
    variables = fill(plain, x, train=False)
    save_torch_named_safetensors(tmp_path / "plain.safetensors", plain, variables, "torchvision")
    model = plain.backbone.clone(deformable=("c2", "c3"))
    loaded = jv.load_pretrained(model, tmp_path / "plain.safetensors", image_size=8)
    assert not loaded["params"]["layer2_0"]["conv2"]["conv_offset"]["kernel"].any()
    ours = {collection: tree["backbone"] for collection, tree in variables.items()}
    expected = plain.backbone.apply(ours, x, train=False)["c3"]
    np.testing.assert_allclose(model.apply(loaded, x, train=False)["c3"], expected, rtol=1e-4, atol=1e-5)
    detector = build("model", {"name": "retinanet", "num_classes": 3, "backbone": {"deformable": ("c5",)}})
    assert family_of(detector).fresh == (r"/conv_offset/",)


def test_recomputed_deformable_blocks_are_the_same(unoptimized):
    check_remat(ResNet(**SMALL, out_levels=("c2",), deformable=("c2",), drop_path_rate=0.5), (8, 8, 3))


def test_the_rest_of_a_network_continues_it(unoptimized):
    whole = ResNet(14, width=4, drop_path_rate=0.1, output_stride=16, out_levels=("c4", "c5"))
    first = whole.clone(out_levels=("c4",), frozen_stages=1)
    rest = first.rest()
    assert (rest.first_stage, rest.out_levels, rest.frozen_stages) == (4, ("c5",), 0)
    assert rest.channels == {"c5": 128} and rest.strides == {"c5": 16}
    x = images(1, (32, 32, 3))
    variables = fill(whole, x, train=False)

    @jax.jit
    def both(variables, x):
        levels = whole.apply(variables, x, train=False)
        parts = ({k: {n: v for n, v in tree.items() if "layer4" in n} for k, tree in variables.items()}, levels["c4"])
        return levels["c5"], rest.apply(*parts, train=False)["c5"]

    np.testing.assert_allclose(*both(variables, x), rtol=1e-5, atol=1e-6)
    two = ResNet(18, out_levels=("c3",)).rest()
    shapes = jax.eval_shape(lambda x: two.init(KEY, x, train=False), jax.ShapeDtypeStruct((1, 8, 8, 128), jnp.float32))
    assert set(shapes["params"]) == {"layer3_0", "layer3_1", "layer4_0", "layer4_1"}


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match=r"deformable=\('c3',\), depth=18: deformable are the stages of c2"):
        ResNet(18, deformable=("c3",))
    with pytest.raises(ValueError, match=r"deformable=\('c1',\)"):
        ResNet(50, deformable=("c1",))
    with pytest.raises(ValueError, match="ResNeSt got deformable"):
        ResNeSt(14, deformable=("c3",))
    with pytest.raises(ValueError, match="no stage is left for the regions"):
        ResNet(50).rest()
    with pytest.raises(ValueError, match="first_stage=3, out_levels"):
        ResNet(50, first_stage=3, out_levels=LEVELS[1:])
