"""OpenMMLab's U-Net with an FCN head against its golden fixture: levels, heads, losses, windows, names."""

import pytest

from tests.parity.semantic import Semantic
from tests.parity.torch_weights import load_golden

pytestmark = pytest.mark.parity
pytest.importorskip("torch")
NAME = "mmseg_unet-s5-d16_fcn"


@pytest.fixture(scope="module")
def openmmlab(tmp_path_factory):
    test = load_golden(NAME)[1].test_cfg
    assert test["mode"] == "slide"
    windows = {"window": tuple(test["crop_size"]), "window_stride": tuple(test["stride"])}
    found = Semantic.run(NAME, "openmmlab/unet", tmp_path_factory.mktemp("weights"), num_classes=2, **windows)
    found.levels = dict(reversed(found.levels.items()))  # theirs begin with the coarsest
    return found


def test_levels_heads_and_logits_of_windows_equal_openmmlab(openmmlab):
    openmmlab.compare()


def test_label_maps_equal_openmmlab(openmmlab):
    openmmlab.compare_labels()


def test_losses_equal_openmmlab(openmmlab):
    openmmlab.compare_losses()


def test_openmmlabs_names_and_values_come_back(openmmlab):
    openmmlab.compare_names("openmmlab")
