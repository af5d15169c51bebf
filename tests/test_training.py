"""The main job in small: what a workdir holds, and what can be done with it afterwards."""

import json

import numpy as np
import pytest
from PIL import Image

import jaxvision as jv
from jaxvision import config as configs
from jaxvision import training
from jaxvision.engine.writers import read_records
from jaxvision.inference import save_weights


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "digits"
    overrides = [("schedule.epochs", "2"), ("log.every_steps", "10"), ("schedule.ema", "0.9")]
    results = training.train(configs.load("lenet5_digits", overrides), folder)
    assert results["top1"] > 0.3
    return folder


def test_a_workdir_holds_everything_that_came_of_a_run(workdir):
    for name in ("config.json", "meta.json", "metrics.jsonl", "parameters.txt", "curves.png", "confusion_matrix.png"):
        assert (workdir / name).stat().st_size > 0, name
    assert list((workdir / "checkpoints").iterdir()) and list((workdir / "tensorboard").iterdir())
    meta = json.loads((workdir / "meta.json").read_text())
    assert meta["class_names"] == [str(digit) for digit in range(10)] and meta["num_classes"] == 10 and meta["jax"]
    records = read_records(workdir / "metrics.jsonl")
    assert {record["kind"] for record in records} == {"train", "eval"}
    last = [record["values"] for record in records if record["kind"] == "train"][-1]
    assert {"loss", "top1", "learning_rate", "grad_norm", "images_per_second", "input_wait"} <= set(last)
    assert "backbone/features_0/kernel" in (workdir / "parameters.txt").read_text()


def test_evaluation_repeats_the_last_result_of_training(workdir):
    records = read_records(workdir / "metrics.jsonl")
    results = training.evaluate(configs.load(str(workdir)), workdir)
    assert results["top1"] == pytest.approx(records[-1]["values"]["top1"])
    assert json.loads((workdir / "evaluation.json").read_text())["top1"] == pytest.approx(results["top1"])


def test_the_same_command_again_says_that_the_run_is_complete(workdir, capsys):
    overrides = [("schedule.epochs", "2")]
    assert training.train(configs.load(str(workdir), overrides), workdir) == {}
    assert "This run is complete" in capsys.readouterr().out


def test_weights_in_one_file_predict_as_the_run_does(workdir, tmp_path):
    save_weights(workdir, tmp_path / "lenet5.safetensors")
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 255, (12, 9), np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.png")
    one = jv.Inferencer(workdir)(str(tmp_path / "a.png"))
    two = jv.Inferencer("lenet5", tmp_path / "lenet5.safetensors")(str(tmp_path / "a.png"))
    assert one.json == two.json and one.json["class"] in set("0123456789")
    with pytest.raises(ValueError, match="expected the workdir of a run"):
        save_weights(tmp_path, tmp_path / "b.safetensors")


def test_a_run_starts_from_the_weights_of_another(workdir, tmp_path, capsys):
    save_weights(workdir, tmp_path / "lenet5.safetensors")
    overrides = [("pretrained.model", str(tmp_path / "lenet5.safetensors")), ("schedule.steps", "1")]
    overrides += [("schedule.learning_rate.value", "0.0"), ("schedule.ema", "0.5")]
    results = training.train(configs.load("lenet5_digits", overrides), tmp_path / "tuned")
    assert results["top1"] == pytest.approx(training.evaluate(configs.load(str(workdir)), workdir)["top1"])
    assert "starting from" in capsys.readouterr().out
    wrong = configs.load("lenet5_digits", [("pretrained.backbone", "x.safetensors")])
    with pytest.raises(configs.ConfigError, match="expected model=PATH"):
        training.train(wrong, tmp_path / "wrong")
