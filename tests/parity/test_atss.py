"""ATSS against OpenMMLab (golden fixture): raw outputs, detections, losses, published names."""

import pytest

from tests.parity.openmmlab import Dense

pytestmark = pytest.mark.parity
pytest.importorskip("torch")


@pytest.fixture(scope="module")
def openmmlab(tmp_path_factory):
    return Dense.run("mmdet_atss_r50_fpn", "atss", tmp_path_factory.mktemp("weights"))


def test_levels_and_heads_equal_openmmlab(openmmlab):
    openmmlab.compare_heads("logits", "deltas", "centerness")


def test_detections_equal_openmmlab(openmmlab):
    openmmlab.compare_own_detections()


def test_losses_equal_openmmlab(openmmlab):
    openmmlab.compare_own_losses({"classification": "loss_cls", "box": "loss_bbox", "centerness": "loss_centerness"})
