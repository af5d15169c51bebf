"""The model index: complete, current, and nothing in it that was not measured."""

import json
from pathlib import Path

import pytest

from experiments import index
from jaxvision import config as configs
from jaxvision import model_index

ROOT = Path(__file__).parent.parent
NAMES = configs.config_names()


@pytest.fixture(scope="module")
def rows():
    return {row["config"]: row for row in model_index.read()}


def test_every_config_has_a_row_and_the_page_shows_the_rows(rows):
    assert tuple(rows) == NAMES
    path = model_index.location()
    assert path == ROOT / "configs" / "model_index.json"
    assert path.read_text() == model_index.text_of_rows(list(rows.values()))
    assert (ROOT / "configs" / "README.md").read_text() == model_index.readme(list(rows.values()))


@pytest.mark.slow
@pytest.mark.parametrize("part", range(8))
def test_rows_are_what_the_code_says(rows, part):
    records = model_index.records_of(ROOT)
    for name in NAMES[part::8]:
        counted = {key: rows[name][key] for key in model_index.COSTS}
        said = json.loads(json.dumps(model_index.joined(model_index.describe(name, records), counted)))
        assert rows[name] == said, f"{name}: run `python -m experiments.index --update`"
        assert rows[name]["made_of"] == model_index.fingerprint(configs.load(name)), name


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES[5::32])
def test_costs_are_what_the_code_has(rows, name):
    costs = model_index.costs(name)
    assert {key: rows[name][key] for key in costs} == costs


def test_a_row_is_made_of_the_config_its_paper_and_what_was_measured():
    records = {"parity": {"test_fcos.py::test_outputs[a]": 2e-6, "test_fcos.py::test_more": 3e-6, "test_x.py::y": 1.0}}
    row = model_index.describe("detection/fcos_r50_fpn_coco", records)
    assert row["title"] == "FCOS, ResNet-50 FPN, COCO, 1x" and row["task"] == "detection"
    assert row["paper"] == {"authors": "Tian et al. 2019", "arxiv": "1904.01355"}
    assert [(found["metric"], found["value"]) for found in row["published"]] == [("box AP", 36.6)]
    assert "fcos_r50-caffe_fpn_gn-head_1x_coco" in row["published"][0]["source"]
    assert row["parity"]["status"] == "measured" and row["parity"]["error"] == 3e-6
    assert model_index.parity_of("fcos", {}) == {"status": "not measured"}
    small = model_index.joined(row, {"standard": False})
    assert small["parity"] == {"status": "not measured", "registered": row["parity"]}


def test_published_metrics_are_told_with_their_words():
    text = "Mask R-CNN, 1x (He et al. 2017). OpenMMLab's `mask-rcnn` reaches 38.2 box AP and 34.7 mask AP. More."
    source = "OpenMMLab's `mask-rcnn` reaches 38.2 box AP and 34.7 mask AP"
    assert model_index.published_in(text) == [
        {"metric": "box AP", "value": 38.2, "source": source},
        {"metric": "mask AP", "value": 34.7, "source": source},
    ]
    assert model_index.published_in("A narrow ResNet-18: the digits of scenes.") == []


def test_parameters_and_operations_are_counted_without_running():
    costs = model_index.costs("classification/lenet5_digits")
    assert costs["parameters"] == 61706 and costs["canvas"] == [32, 32] and costs["standard"] is True
    # Multiply-adds of the five layers (LeCun et al. 1998), twice.
    layers = 28 * 28 * 6 * 25 + 10 * 10 * 16 * 150 + 120 * 400 + 84 * 120 + 10 * 84
    assert 2 * layers <= costs["flops"] <= 2.1 * layers


def test_the_command_prints_what_is_asked_for_and_names_what_is_not_there(capsys):
    assert index.main(["detection/fcos*"]) == 0
    shown = capsys.readouterr().out
    assert "fcos_r50_fpn_coco" in shown and "retinanet" not in shown
    assert index.main(["detection/fcos*", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 2
    assert index.main(["nothing*"]) == 2
    assert "no config matches 'nothing*'" in capsys.readouterr().err


def test_an_update_outside_of_a_checkout_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkout"):
        model_index.update(tmp_path)
