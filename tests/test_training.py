"""The main job in small: what a workdir holds, and what can be done with it afterwards."""

import dataclasses
import json
import types

import jax
import numpy as np
import pytest
from PIL import Image

import jaxvision as jv
from jaxvision import config as configs
from jaxvision import experiment, training
from jaxvision.engine.writers import read_records
from jaxvision.errors import SetupError
from jaxvision.loading import find_weights, fit_variables, save_weights
from jaxvision.pretrained.load import save_torch_named_safetensors
from jaxvision.pretrained.safetensors import load_safetensors
from jaxvision.trees import flatten
from tests.pretrained.writer import Checkpoint


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
    wrong = configs.load("lenet5_digits", [("pretrained.backbon", "x.safetensors")])
    with pytest.raises(configs.ConfigError, match="pretrained.backbon: did you mean 'backbone'"):
        training.train(wrong, tmp_path / "wrong")


def test_a_run_starts_from_published_weights(workdir, tmp_path, monkeypatch):
    save_weights(workdir, tmp_path / "own.safetensors")
    variables = load_safetensors(tmp_path / "own.safetensors")
    model = jv.create_model("lenet5", num_classes=10)
    save_torch_named_safetensors(tmp_path / "published.safetensors", model, variables, "openmmlab")
    published = load_safetensors(tmp_path / "published.safetensors")
    c = Checkpoint()
    c.legacy(tmp_path / "lenet5.pth", {"state_dict": {name: c.array(value) for name, value in published.items()}})
    run, lines = experiment.build(configs.load("lenet5_digits", [("schedule.ema", "0.5")])), []
    fresh, trained = flatten(run.create().all_params), flatten(variables["params"])

    def start(**pretrained):
        config = configs.load("lenet5_digits", [(f"pretrained.{k}", str(v)) for k, v in pretrained.items()])
        progress = types.SimpleNamespace(say=lines.append)
        return training._initial_state(dataclasses.replace(run, config=config), progress)

    for pretrained in ({"model": tmp_path / "lenet5.pth"}, {"model": tmp_path / "own.safetensors"}):
        state = start(**pretrained)
        for params in (state.all_params, state.ema["params"]):
            for name, leaf in flatten(params).items():
                np.testing.assert_array_equal(leaf, trained[name], name)
    assert f"starting from {tmp_path / 'lenet5.pth'}: 10 arrays in state_dict (legacy), names of openmmlab" in lines
    for file in ("published.safetensors", "own.safetensors", "lenet5.pth"):
        for name, leaf in flatten(start(backbone=tmp_path / file).all_params).items():
            np.testing.assert_array_equal(leaf, (trained if name.startswith("backbone/") else fresh)[name], name)

    monkeypatch.setenv("JAXVISION_WEIGHTS", str(tmp_path))
    with pytest.raises(SetupError, match="no weight card 'torchvision:resnet5': did you mean"):
        start(backbone="torchvision:resnet5")
    with pytest.raises(SetupError, match="no names of 'torchvision' are known for this model"):
        (tmp_path / "resnet18-f37072fd.pth").write_bytes((tmp_path / "lenet5.pth").read_bytes())
        start(backbone="torchvision:resnet18")
    with pytest.raises(FileNotFoundError, match="no such checkpoint"):
        start(model=tmp_path / "none.pth")

    image = np.random.default_rng(0).integers(0, 255, (12, 9, 1), np.uint8)
    want = jv.Inferencer("lenet5_digits", tmp_path / "own.safetensors")(image).json
    for file in ("published.safetensors", "lenet5.pth"):
        got = jv.Inferencer("lenet5_digits", tmp_path / file)(image).json
        assert got["class"] == want["class"] and got["score"] == pytest.approx(want["score"])
    evaluated = training.evaluate(configs.load("lenet5_digits"), tmp_path / "eval", str(tmp_path / "lenet5.pth"))
    assert evaluated["top1"] == pytest.approx(training.evaluate(configs.load(str(workdir)), workdir)["top1"])
    config = configs.load("lenet5_digits", [("model.num_classes", "7")])
    task = experiment.build_task(config, class_names=(), num_classes=7)
    preprocess = experiment.build_preprocess(config, train=False)
    loaded, origin = find_weights(str(tmp_path / "lenet5.pth"), None).load(ema=True)
    with pytest.raises(SetupError, match="wrong checkpoint: .*classifier has 10 classes, the model 7"):
        fit_variables(task, preprocess, (*config.data.image_size, 1), loaded, origin)


def test_frozen_stages_are_kept_out_of_the_optimizer(tmp_path, unoptimized):
    overrides = [("model.backbone.frozen_stages", "1"), ("schedule.optimizer.weight_decay", "0.5")]
    config = configs.load("resnet18_cifar10_subset:smoke", overrides)
    run = experiment.build(config)
    frozen = {row.path for row in run.bundle.table.rows if row.frozen}
    parts = ("conv1", "bn1", "layer1_0", "layer1_1")
    assert frozen == {row.path for row in run.bundle.table.rows if row.path.split("/")[1] in parts}
    before = flatten(jax.device_get(run.create().variables(ema=False)["params"]))
    training.train(config, tmp_path / "run")
    after = flatten(jv.Inferencer(tmp_path / "run").model.variables["params"])
    assert {path for path in before if (np.asarray(before[path]) == after[path]).all()} == frozen


def test_frozen_norms_are_kept_out_of_the_optimizer_whose_decay_would_shrink_them():
    config = configs.load("resnet18_cifar10_subset:smoke", [("model.backbone.norm", "frozen_bn")])
    rows = experiment.build(config).bundle.table.rows
    frozen = {row.path for row in rows if row.frozen}
    assert frozen == {row.path for row in rows if row.path.startswith("backbone/") and len(row.shape) == 1} != set()
