"""The command that records finished runs."""

import json

import numpy as np
import pytest
from PIL import Image

from experiments import record, run


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "linear"
    assert run.main(["--config", "linear_digits:smoke", "--workdir", str(path), "--config.seed=3"]) == 0
    return path


def test_results_and_a_picture_of_a_run_are_written(workdir, tmp_path, capsys):
    assert record.main(["--config", str(workdir), "--output", str(tmp_path / "linear")]) == 0
    (told,) = json.loads((tmp_path / "linear.json").read_text())["runs"]
    history = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    evaluated = [line["values"]["top1"] for line in history if line["kind"] == "eval"]
    assert told["seed"] == 3
    np.testing.assert_allclose(told["evaluation_top1"], evaluated, atol=1e-5)
    assert f"seed 3: top-1 {100 * evaluated[-1]:.2f}%" in capsys.readouterr().out
    with Image.open(tmp_path / "linear.png") as picture:
        assert picture.width > 1000 and picture.height > 600


def test_a_detector_is_recorded_by_its_precision_and_its_own_sheet(workdir, tmp_path, capsys):
    """What such a run leaves, written by hand: its config decides nothing but the seed."""
    folder = tmp_path / "detector"
    folder.mkdir()
    for name in ("config.json", "meta.json"):
        (folder / name).write_text((workdir / name).read_text())
    Image.new("RGB", (1600, 400)).save(folder / "predictions.png")
    losses = [{"step": step, "kind": "train", "values": {"loss": 1 / step}} for step in (1, 2, 3)]
    scores = [{"step": step, "kind": "eval", "values": {"ap": 0.2 * step, "ap50": 0.3 * step}} for step in (1, 3)]
    lines = [json.dumps({"epoch": r["step"] / 2, "time": float(i), **r}) for i, r in enumerate(losses + scores)]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    assert record.main(["--config", str(folder), "--output", str(tmp_path / "told")]) == 0
    told = json.loads((tmp_path / "told.json").read_text())
    assert told["mean_ap50"] == 0.9 and told["runs"][0]["evaluation_ap"] == [0.2, 0.6]
    assert "seed 3: ap50 0.900, 4 s" in capsys.readouterr().out
    with Image.open(tmp_path / "told.png") as picture:
        assert picture.width > 1000


def test_a_folder_without_a_run_is_one_line(tmp_path, capsys):
    assert record.main(["--config", str(tmp_path), "--output", str(tmp_path / "x")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
