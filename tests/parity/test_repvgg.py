"""RepVGG: timm's own fused network, grouped, squeezed and dilated forms, a training step, OpenMMLab's names."""

import copy

import jax
import pytest

from jaxvision.backbones.repvgg import KEYS, LEVELS, SIZES, RepVGG, reparameterize
from jaxvision.classification.classifier import Classifier
from jaxvision.pretrained import keymaps
from jaxvision.trees import flatten
from tests.parity import zoo
from tests.parity.references.repvgg import LEVELS as TIMM_LEVELS
from tests.parity.torch_weights import relative
from tests.parity.training import check_training_step

pytestmark = pytest.mark.parity

TINY = {"depths": (2, 2, 2, 1), "widths": (16, 32, 64, 128), "stem_width": 16}
"""Even depths, as all published ones: timm counts every second block within a stage, the authors and OpenMMLab count
over all stages, and the single block of the last stage has no groups in either."""


def tiny(groups=0, squeezed=False, depths=TINY["depths"], **options):
    from timm.models.byobnet import ByobNet, ByoModelCfg, _rep_vgg_bcfg

    blocks = _rep_vgg_bcfg(d=depths, wf=(0.25,) * 4, groups=groups)
    more = {"attn_layer": "se", "attn_kwargs": {"rd_ratio": 0.0625, "rd_divisor": 1}} if squeezed else {}
    cfg = ByoModelCfg(blocks, stem_type="rep", stem_chs=16, **more)
    return zoo.Reference(lambda: ByobNet(cfg, **options), "repvgg", TIMM_LEVELS, temper=lambda model: None)


FORMS = {
    "grouped": (RepVGG(**TINY, groups=4, out_levels=LEVELS), tiny(groups=4)),
    "squeezed": (RepVGG(**TINY, reduction=16, out_levels=LEVELS), tiny(squeezed=True)),
    "at 8": (RepVGG(**TINY, output_stride=8, out_levels=LEVELS), tiny(output_stride=8)),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_and_their_fused_networks_equal_timm(form):
    ours, reference = FORMS[form]
    model, x = zoo.calibrated(reference, 64)
    errors = zoo.compare(model, reference, Classifier(ours, 1000), x)
    assert max(errors.values()) <= 1e-4, errors
    variables = zoo.variables_of(Classifier(ours, 1000), reference, model.state_dict())

    fused = copy.deepcopy(model)
    for module in fused.modules():
        if hasattr(module, "reparameterize"):
            module.reparameterize()
    deployed = Classifier(ours.clone(deploy=True), 1000)
    errors = zoo.compare(fused, reference, deployed, x)
    assert max(errors.values()) <= 1e-4, errors
    theirs = zoo.variables_of(deployed, reference, fused.state_dict())
    mine = reparameterize(variables)
    assert set(flatten(mine)) == set(flatten(theirs))
    assert max(jax.tree.leaves(jax.tree.map(relative, mine, theirs))) <= 1e-5


@pytest.mark.parametrize("groups", [2, 4])
def test_the_published_depths_have_groups_where_timm_has_them(groups):
    """Narrow b1g2 and b1g4; where the authors have them, too: in layers 2, 4 ... 26, the stem being layer 0."""
    depths = SIZES[f"repvgg_b1g{groups}"]["depths"]
    ours = RepVGG(**{**TINY, "depths": depths}, groups=groups, out_levels=LEVELS)
    reference = tiny(groups=groups, depths=depths)
    model, x = zoo.calibrated(reference, 64)
    blocks = [block for stage in model.stages for block in stage]
    grouped = [i for i, block in enumerate(blocks, 1) if block.conv_kxk.conv.groups == groups]
    assert grouped == list(range(2, 27, 2)) and len(blocks) == 27
    errors = zoo.compare(model, reference, Classifier(ours, 1000), x)
    assert max(errors.values()) <= 1e-4, errors


def test_a_training_step_equals_torch(monkeypatch):
    print(f"worst gradient {check_training_step(RepVGG(**TINY, groups=4), tiny(groups=4), monkeypatch):.1e}")


@pytest.mark.parametrize("deploy", [False, True])
def test_names_are_those_of_openmmlab(deploy):
    model = Classifier(RepVGG(**TINY, reduction=16, deploy=deploy), 1000)
    paths = zoo.shapes(model, zoo.Reference(lambda: None, "repvgg"))
    names = {name for path in paths for name in keymaps.reference_names(path, KEYS["openmmlab"])}
    block = {
        *("backbone.stage_2.1.branch_3x3.conv.weight", "backbone.stage_2.1.branch_1x1.norm.running_mean"),
        *("backbone.stage_2.1.branch_norm.bias", "backbone.stem.branch_3x3.norm.weight"),
    }
    fused = {"backbone.stage_4.0.branch_reparam.weight", "backbone.stem.branch_reparam.bias"}
    always = {"backbone.stage_1.0.se_layer.conv1.conv.weight", "head.fc.weight"}
    assert len(names) == len(paths) and (fused if deploy else block) | always <= names
    assert not (block if deploy else fused) & names
