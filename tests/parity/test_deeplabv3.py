"""DeepLabv3 against OpenMMLab (golden fixture) and torchvision: levels, heads, logits, label maps, losses, names."""

import jax
import numpy as np
import pytest

import jaxvision as jv
from jaxvision.config import build
from jaxvision.errors import SetupError
from jaxvision.trees import flatten
from tests.conftest import strict
from tests.parity.segmenters import compare_with_torchvision
from tests.parity.semantic import Semantic
from tests.parity.torch_weights import load, load_tool

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
segmentation = load_tool("torchvision_cpu").torchvision.models.segmentation
calibrate = load_tool("calibrate").calibrate

CLASSES = 7
SIZE = (65, 97)


@pytest.fixture(scope="module")
def openmmlab(tmp_path_factory):
    return Semantic.run("mmseg_deeplabv3_r50-d8", "deeplabv3", tmp_path_factory.mktemp("weights"), num_classes=19)


def test_levels_heads_and_logits_equal_openmmlab(openmmlab):
    openmmlab.compare()


def test_label_maps_equal_openmmlab(openmmlab):
    openmmlab.compare_labels()


def test_losses_equal_openmmlab(openmmlab):
    openmmlab.compare_losses()


def test_openmmlabs_names_and_values_come_back(openmmlab):
    openmmlab.compare_names("openmmlab/v1c sequential")


@pytest.fixture(scope="module")
def torchvision():
    """A sharp random network and two images."""
    torch.manual_seed(0)
    theirs = segmentation.deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=CLASSES, aux_loss=True)
    return calibrate(theirs, torch.randn(4, 3, *SIZE)), torch.randn(2, 3, *SIZE)


def test_logits_equal_torchvision(torchvision, tmp_path):
    compare_with_torchvision(*torchvision, "torchvision/deeplabv3", tmp_path, CLASSES)


def test_the_mobile_form_equals_torchvision(tmp_path):
    torch.manual_seed(0)
    theirs = segmentation.deeplabv3_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=CLASSES, aux_loss=True
    )
    calibrate(theirs, torch.randn(4, 3, *SIZE))
    backbone = {
        "name": "mobilenet_v3_large",
        "output_stride": 16,
        "contract_dilation": False,
        "out_levels": ("c3", "c5"),
        "first_levels": ("c3",),
    }
    fields = {"backbone": backbone, "auxiliary": {"level": "c3", "width": 10, "weight": 0.5}}
    compare_with_torchvision(theirs, torch.randn(2, 3, *SIZE), "torchvision/deeplabv3", tmp_path, CLASSES, **fields)


def test_other_numbers_of_classes_and_the_wrong_row(torchvision, tmp_path):
    theirs, _ = torchvision
    model = build("model", {"name": "torchvision/deeplabv3", "num_classes": CLASSES})
    path = tmp_path / "weights.pth"
    with strict():
        kept = load(model, {name: x.numpy() for name, x in theirs.state_dict().items()}, path)
    fresh = jv.load_pretrained("torchvision/deeplabv3", path, num_classes=3)
    changed = jax.tree.map(lambda a, b: a.shape != b.shape or bool((a != b).any()), kept, fresh)
    named = {name for name, different in flatten(changed).items() if different}
    heads = ("decode_head", "auxiliary_head")
    assert named == {f"params/{head}/conv_seg/{leaf}" for head in heads for leaf in ("kernel", "bias")}
    assert np.shape(fresh["params"]["decode_head"]["conv_seg"]["bias"]) == (3,)
    with pytest.raises(SetupError, match="load torchvision/deeplabv3 instead"):
        jv.load_pretrained("deeplabv3", path, source="torchvision", num_classes=CLASSES)
