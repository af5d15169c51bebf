"""Darknet and CSPDarknet: OpenMMLab's golden backbones, dilated forms, training steps."""

import jax
import numpy as np
import pytest

from jaxvision.backbones.csp_darknet import SIZES, CSPDarknet
from jaxvision.backbones.darknet import LEVELS, Darknet
from jaxvision.classification.classifier import Classifier
from tests.conftest import strict
from tests.parity import zoo
from tests.parity.references.darknet import DARKNET_LEVELS, damp_last_norms
from tests.parity.torch_weights import load_golden, nchw, nhwc
from tests.parity.training import check_training_step

pytestmark = pytest.mark.parity

GOLDEN = {
    "mmdet_yolov3_d53": Darknet(slope=0.1, out_levels=LEVELS[3:]),
    "mmdet_yolox_s": CSPDarknet(**SIZES["cspdarknet_s"]),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_the_golden_backbones_of_openmmlab_are_reproduced(name):
    golden, fixture = load_golden(name)
    backbone, images = GOLDEN[name], nhwc(golden.inputs(fixture))
    weights = {key: value for key, value in golden.state_dict(fixture).items() if key.startswith("backbone.")}
    channels = backbone.channels["c5"]
    weights |= {"head.fc.weight": np.zeros((1000, channels)), "head.fc.bias": np.zeros(1000)}
    reference = zoo.Reference(lambda: None, "", source="openmmlab")
    variables = zoo.variables_of(Classifier(backbone, 1000), reference, weights)
    variables = {collection: tree["backbone"] for collection, tree in variables.items()}
    with strict():
        levels = jax.jit(lambda v, x: backbone.apply(v, x, train=False))(variables, images)
    assert len(levels) == len([key for key in fixture.output_shapes if key.startswith("backbone")])
    for i, y in enumerate(levels.values()):
        difference = golden.compare(fixture, f"backbone/{i}", nchw(y))
        assert difference <= golden.tolerance(fixture, f"backbone/{i}"), (i, difference)


def timm_tiny(kind="dark", **options):
    from timm.models.cspnet import CspModelCfg, CspNet, CspStagesCfg, CspStemCfg

    csp = kind == "csp"
    stages = CspStagesCfg(
        depth=(1, 2, 1, 1, 1),
        out_chs=(16, 32, 64, 128, 256),
        bottle_ratio=(0.5, 1.0) if csp else 0.5,
        block_ratio=(1.0, 0.5) if csp else 1.0,
        expand_ratio=(2.0, 1.0),
        down_growth=True,
        stage_type=kind,
        block_type="dark",
    )
    cfg = CspModelCfg(CspStemCfg(out_chs=8, kernel_size=3, stride=1, pool=""), stages)
    return zoo.Reference(lambda: CspNet(cfg, **options), "darknet", DARKNET_LEVELS, temper=damp_last_norms)


@pytest.mark.parametrize("kind", ["dark", "csp"])
def test_dilated_forms_equal_timm(kind):
    ours = Darknet((1, 2, 1, 1, 1), 8, kind, output_stride=8, out_levels=LEVELS)
    reference = timm_tiny(kind, output_stride=8)
    model, x = zoo.calibrated(reference, 64)
    errors = zoo.compare(model, reference, Classifier(ours, 1000), x)
    assert max(errors.values()) <= 1e-4, errors


@pytest.mark.parametrize("kind", ["dark", "csp"])
def test_a_training_step_equals_torch(kind, monkeypatch):
    ours = Darknet((1, 2, 1, 1, 1), 8, kind)
    print(f"worst gradient {check_training_step(ours, timm_tiny(kind), monkeypatch):.1e}")


def test_a_training_step_of_yolox_equals_torch(monkeypatch):
    reference = zoo.references()["cspdarknet_nano"]
    ours = CSPDarknet(**SIZES["cspdarknet_nano"])
    print(f"worst gradient {check_training_step(ours, reference, monkeypatch):.1e}")
