"""Runs compared: what they reached, how their configs differ, short names."""

import json

import pytest

from jaxvision import config as configs
from jaxvision.analysis.runs import compare, differences_of, flat, short_names
from jaxvision.errors import SetupError


def write(folder, values, **settings):
    folder.mkdir(parents=True)
    config = configs.load("linear_digits:smoke", [(key, str(value)) for key, value in settings.items()])
    (folder / "config.json").write_text(configs.to_json(config))
    records = []
    for step, (loss, top1) in enumerate(values, 1):
        for kind, own in (
            ("train", {"loss": loss + 0.1, "images_per_second": 9.0}),
            ("eval", {"loss": loss, "top1": top1}),
        ):
            records.append({"step": step, "epoch": step / 2, "kind": kind, "time": 10.0 + step, "values": own})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(folder)


def test_best_and_last_values_and_differences_are_told(tmp_path):
    one = write(tmp_path / "one", [(1.0, 0.5), (0.4, 0.9), (0.6, 0.8)])
    two = write(tmp_path / "two", [(1.2, 0.4), (0.9, 0.6)], **{"seed": 3, "schedule.optimizer.momentum": 0.5})
    found = compare([one, two])
    assert list(found.json["metrics"]) == ["loss", "top1"]
    assert found.json["metrics"]["top1"]["one"] == {"last": 0.8, "last_step": 3, "best": 0.9, "best_step": 2}
    assert found.json["metrics"]["loss"]["two"]["best"] == 0.9 and found.json["runs"]["one"]["seconds"] == 2
    assert found.json["config_differences"] == {
        "schedule.optimizer.momentum": {"one": pytest.approx(0.9), "two": 0.5}, "seed": {"one": 0, "two": 3},
    }  # fmt: skip
    text = "\n".join(found.lines)
    assert "seed\n    0: one\n    3: two" in text and "images_per_second" not in text
    assert found.pictures["runs.png"].shape[1] == 2 * 440
    assert list(compare([one], metric="top").json["metrics"]) == ["top1"]


def test_names_are_as_long_as_they_must_be(tmp_path):
    assert short_names([f"{tmp_path}/a/run", f"{tmp_path}/b/run"]) == ["a/run", "b/run"]
    assert short_names([f"{tmp_path}/a"]) == ["a"]
    with pytest.raises(SetupError, match="given twice"):
        short_names([f"{tmp_path}/a", f"{tmp_path}/a"])


def test_differences_reach_into_lists_of_mappings():
    configs_of = [
        flat({"a": [{"x": 1}, {"x": 2}], "b": (1, 2)}),
        flat({"a": [{"x": 1}, {"x": 5}], "b": (1, 2), "c": None}),
    ]
    assert differences_of(configs_of) == [("a.1.x", [2, 5]), ("c", ["-", None])]


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(SetupError, match=r"no metrics\.jsonl"):
        compare([str(tmp_path)])
    with pytest.raises(SetupError, match="no metric 'iou' in these runs: they have loss, top1"):
        compare([write(tmp_path / "run", [(1.0, 0.5)])], metric="iou")
