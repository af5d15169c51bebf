"""HRNet: OpenMMLab's golden backbones and names, a training step, how long it takes to compile."""

import jax
import pytest

from jaxvision.backbones.hrnet import KEYS, SIZES, HRNet
from jaxvision.classification.classifier import Classifier
from jaxvision.pretrained import keymaps
from jaxvision.trees import nest
from tests.conftest import strict
from tests.parity import zoo
from tests.parity.torch_weights import load_golden, nchw, nhwc
from tests.parity.training import check_training_step

pytestmark = pytest.mark.parity

GOLDEN = {
    "mmpose_td-hm_hrnet-w32": ("c2",),
    "mmpose_ae_hrnet-w32": ("c2",),
    "mmpose_dekr_hrnet-w32": ("c2", "c3", "c4", "c5"),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_the_golden_backbones_of_openmmlab_are_reproduced(name, unoptimized):
    golden, fixture = load_golden(name)
    backbone, images = HRNet(**SIZES["hrnet_w32"], out_levels=GOLDEN[name]), nhwc(golden.inputs(fixture))
    wanted = zoo.flatten(jax.eval_shape(lambda x: backbone.init(jax.random.key(0), x, train=False), images))
    wanted = {path.replace("/", "/backbone/", 1): leaf for path, leaf in wanted.items()}
    weights = {key: value for key, value in golden.state_dict(fixture).items() if key.startswith("backbone.")}
    values = keymaps.fit(weights, wanted, KEYS["openmmlab"]).check(name)
    variables = nest({path.replace("/backbone/", "/", 1): value for path, value in values.items()})
    with strict():
        levels = jax.jit(lambda v, x: backbone.apply(v, x, train=False))(variables, images)
    assert len(levels) == len([key for key in fixture.output_shapes if key.startswith("backbone")])
    for i, y in enumerate(levels.values()):
        difference = golden.compare(fixture, f"backbone/{i}", nchw(y))
        assert difference <= golden.tolerance(fixture, f"backbone/{i}"), (i, difference)


def timm_tiny():
    from timm.models.hrnet import HighResolutionNet

    def stage(count, block, blocks, width):
        return {
            "num_modules": 1,
            "num_branches": count,
            "block_type": block,
            "num_blocks": (blocks,) * count,
            "num_channels": tuple(width * 2**i for i in range(count)),
            "fuse_method": "SUM",
        }

    stages = {f"stage{i}": stage(i, "BASIC" if i > 1 else "BOTTLENECK", 1, 8) for i in range(1, 5)}
    return zoo.Reference(lambda: HighResolutionNet({"stem_width": 64, **stages}), "hrnet")


def test_a_training_step_equals_torch(monkeypatch):
    tiny = HRNet(width=8, first_width=8, blocks=(1, 1, 1, 1), modules=(1, 1, 1), out_levels=("pooled",))
    print(f"worst gradient {check_training_step(tiny, timm_tiny(), monkeypatch):.1e}")


def test_names_are_those_of_openmmlabs_classifier():
    model = Classifier(HRNet(**SIZES["hrnet_w18_ssld"], out_levels=("pooled",)), 1000)
    paths = zoo.shapes(model, zoo.Reference(lambda: None, "hrnet"))
    names = {name for path in paths for name in keymaps.reference_names(path, KEYS["openmmlab"])}
    assert len(names) == len(paths)
    assert {
        *("neck.increase_layers.3.0.conv3.weight", "neck.downsample_layers.0.conv.weight", "head.fc.weight"),
        *("neck.downsample_layers.2.bn.running_var", "neck.final_layer.conv.weight", "neck.final_layer.bn.bias"),
        *("backbone.transition2.2.0.0.weight", "backbone.stage4.2.fuse_layers.3.0.2.1.running_mean"),
    } <= names
    assert not any(name.startswith("backbone.incre") for name in names)
