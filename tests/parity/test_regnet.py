"""RegNet: dilated forms, a training step, every name of torchvision, OpenMMLab and transformers."""

import jax
import pytest
import torch

import jaxvision as jv
from jaxvision.backbones.regnet import KEYS, LEVELS, SIZES, RegNet
from jaxvision.classification.classifier import Classifier
from jaxvision.pretrained import keymaps
from jaxvision.registry import lookup
from tests.parity import zoo
from tests.parity.references.regnet import LEVELS as TIMM_LEVELS
from tests.parity.references.regnet import damp_last_norms, in_torchvision
from tests.parity.training import check_training_step

pytestmark = pytest.mark.parity

TINY = {"depth": 6, "w0": 8, "wa": 8.0, "wm": 2.0, "group_width": 4, "stem_width": 8, "squeeze": 0.25}


def tiny(**options):
    from timm.models.regnet import RegNet as TimmRegNet
    from timm.models.regnet import RegNetCfg

    cfg = RegNetCfg(depth=6, w0=8, wa=8.0, wm=2.0, group_size=4, stem_width=8, se_ratio=0.25)
    return zoo.Reference(lambda: TimmRegNet(cfg, **options), "regnet", TIMM_LEVELS, temper=damp_last_norms)


@pytest.mark.parametrize("output_stride", [8, 16])
def test_dilated_forms_equal_timm(output_stride):
    reference = tiny(output_stride=output_stride)
    model, x = zoo.calibrated(reference, 64)
    ours = RegNet(**TINY, output_stride=output_stride, out_levels=LEVELS)
    errors = zoo.compare(model, reference, Classifier(ours, 1000), x)
    assert max(errors.values()) <= 1e-4, errors


def test_a_training_step_equals_torch(monkeypatch):
    print(f"worst gradient {check_training_step(RegNet(**TINY), tiny(), monkeypatch):.1e}")


@pytest.mark.parametrize("name", [n for n in zoo.torchvision.models.list_models() if n.startswith("regnet_")])
def test_every_alias_of_torchvision_has_its_names_and_shapes(name):
    reference = in_torchvision(name, lookup("backbone", name).name)
    with torch.device("meta"):
        weights = zoo.abstract(reference.make().state_dict())
    ours = jv.create_model(name, num_classes=1000)
    keymaps.fit(weights, zoo.shapes(ours, reference), KEYS["torchvision"]).check(name)


@pytest.mark.parametrize("kind", ["x", "y"])
def test_the_networks_of_transformers_are_reproduced(kind):
    from transformers import RegNetConfig, RegNetForImageClassification

    ours = RegNet(**{**TINY, "squeeze": 0.25 if kind == "y" else 0.0, "out_levels": LEVELS[1:]})
    config = RegNetConfig(
        embedding_size=8,
        hidden_sizes=list(ours.stage_channels),
        depths=[count for _, count in ours.widths],
        groups_width=4,
        layer_type=kind,
        num_labels=1000,
    )

    def outputs(model, x):
        result = model(x, output_hidden_states=True)
        levels = result.hidden_states[-4:]
        return {"logits": result.logits, **dict(zip(LEVELS[1:], levels, strict=True))}

    source = "huggingface/y" if kind == "y" else "huggingface"
    reference = zoo.Reference(
        lambda: _Logits(RegNetForImageClassification(config)),
        "regnet",
        source=source,
        temper=lambda model: None,
        outputs=lambda model, x: outputs(model.model, x),
    )
    model, x = zoo.calibrated(reference, 64)
    theirs = zoo.run_reference(model, reference, x)
    variables = zoo.variables_of(Classifier(ours, 1000), reference, model.model.state_dict())
    mine = zoo.run_ours(Classifier(ours, 1000), variables, zoo.nhwc(x))
    errors = {name: float(zoo.error(mine[name], theirs[name])) for name in theirs}
    assert max(errors.values()) <= 1e-4, errors


class _Logits(torch.nn.Module):
    """What calibration can run: images in, a tensor out."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x).logits


def test_names_are_those_of_openmmlab():
    model = Classifier(RegNet(**SIZES["regnetx_004"]), 1000)
    paths = zoo.shapes(model, zoo.Reference(lambda: None, "regnet"))
    names = {name for path in paths for name in keymaps.reference_names(path, KEYS["openmmlab"])}
    assert len(names) == len(paths)
    assert {
        *("backbone.conv1.weight", "backbone.bn1.running_mean", "backbone.layer1.0.conv2.weight", "head.fc.bias"),
        *("backbone.layer4.11.bn3.weight", "backbone.layer2.0.downsample.0.weight"),
        "backbone.layer2.0.downsample.1.running_var",
    } <= names
    tops = {name.split(".")[1] for name in names if name.startswith("backbone.")}
    assert tops == {"conv1", "bn1", "layer1", "layer2", "layer3", "layer4"}
    assert jax.tree.leaves(paths)
