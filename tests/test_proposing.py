"""Proposals of a network for a data set: every image once, in its own pixels, as `with_proposals` reads them."""

import types

import numpy as np
import pytest

from experiments import propose as command
from jaxvision import config as jv_config
from jaxvision import inference
from jaxvision.data.build import build_source
from jaxvision.data.proposals import read_proposals
from jaxvision.errors import SetupError
from jaxvision.proposing import propose
from jaxvision.structures import Detections

CONFIG = "detection/faster_rcnn_r18_fpn_digit_scenes"
OVERRIDES = [("data.source.num_examples", "5"), ("data.source.validation_examples", "3")]


class Corners:
    """Proposes the whole image and its first quarter; the third row is padding."""

    model = types.SimpleNamespace(origin="nowhere")

    def __init__(self, *args, **options):
        pass

    def iterate(self, items):
        for image in items:
            height, width = image.shape[:2]
            boxes = np.array([[0, 0, width, height], [0, 0, width / 2, height / 2], [0, 0, 0, 0]], np.float32)
            scores, valid = np.array([0.9, 0.4 + image.mean() / 1000, 0], np.float32), np.array([True, True, False])
            yield types.SimpleNamespace(prediction=Detections(boxes, scores, np.zeros(3, np.int32), valid), task=None)


@pytest.mark.parametrize(("split", "count"), [("train", 5), ("validation", 3)])
def test_every_image_of_a_part_gets_its_own_proposals(tmp_path, split, count):
    config, path = jv_config.load(CONFIG, OVERRIDES), tmp_path / "a.npz"
    assert propose(Corners(), config, path, split=split) == (count, 2 * count)
    found, source = read_proposals(path), build_source(config.data, split)
    assert sorted(found) == [str(i) for i in range(count)]
    for index in range(count):
        boxes, scores = found[str(index)]
        np.testing.assert_array_equal(boxes, [[0, 0, 96, 96], [0, 0, 48, 48]])
        np.testing.assert_allclose(scores, [0.9, 0.4 + source.sample(index)["image"].mean() / 1000], rtol=1e-6)


def test_a_task_that_finds_no_boxes_is_refused(tmp_path):
    class Classes(Corners):
        def iterate(self, items):
            return (types.SimpleNamespace(prediction=np.ones(3), task=self) for _ in items)

    with pytest.raises(SetupError, match="a Classes proposes no boxes"):
        propose(Classes(), jv_config.load(CONFIG, OVERRIDES), tmp_path / "a.npz", split="train")


def test_the_command_writes_the_file_and_tells_what_is_wrong_in_a_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(inference, "Inferencer", Corners)
    path = tmp_path / "out" / "a.npz"
    overrides = [f"--config.{key}={value}" for key, value in OVERRIDES]
    assert command.main(["--config", CONFIG, *overrides, "--output", str(path)]) == 0
    assert "wrote 10 proposals of 5 images" in capsys.readouterr().out and path.exists()
    assert command.main(["--config", CONFIG, *overrides, "--output", str(tmp_path / "a.txt")]) == 2
    assert "not to" in capsys.readouterr().err
