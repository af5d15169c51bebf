"""PSPNet against OpenMMLab (golden fixture): levels, both heads, logits of each pixel, label map, losses, names."""

import pytest

from tests.parity.semantic import Semantic

pytestmark = pytest.mark.parity
pytest.importorskip("torch")


@pytest.fixture(scope="module")
def openmmlab(tmp_path_factory):
    return Semantic.run("mmseg_pspnet_r50-d8", "pspnet", tmp_path_factory.mktemp("weights"), num_classes=19)


def test_levels_heads_and_logits_equal_openmmlab(openmmlab):
    openmmlab.compare()


def test_label_maps_equal_openmmlab(openmmlab):
    openmmlab.compare_labels()


def test_losses_equal_openmmlab(openmmlab):
    openmmlab.compare_losses()


def test_openmmlabs_names_and_values_come_back(openmmlab):
    openmmlab.compare_names("openmmlab/v1c sequential")
