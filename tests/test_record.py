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


def test_a_folder_without_a_run_is_one_line(tmp_path, capsys):
    assert record.main(["--config", str(tmp_path), "--output", str(tmp_path / "x")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
