"""Fine-tuning from one set of classes to another: what is loaded, what is frozen, and how fast each layer learns."""

import numpy as np
import pytest
from PIL import Image

from experiments import write_folder
from jaxvision import config as configs
from jaxvision import experiment, training
from jaxvision.data.build import build_source
from jaxvision.engine.progress import Progress
from jaxvision.errors import SetupError
from jaxvision.trees import flatten

SMALL = [("model.backbone.depth", "14"), ("model.backbone.width", "4")]
"""Of the same names as the config's own networks."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "digits"
    digits = "--config.data.source.digits=5,6,7,8,9"
    assert write_folder.main(["--config", "resnet18_digits_pretrain", digits, "--output", str(path)]) == 0
    return path


def test_digits_are_written_out_as_a_folder_per_class(folder, capsys):
    config = configs.load("resnet18_digits_pretrain", [("data.source.digits", "5,6,7,8,9")])
    again = configs.load("resnet18_digits_pretrain", [("data.source", f"image_folder:{folder}")])
    for split, name in (("train", "train"), ("validation", "val")):
        one, other = build_source(config.data, split), build_source(again.data, split)
        assert one.class_names == other.class_names == tuple("56789") and len(one) == len(other)
        for i in (0, len(one) - 1):
            file = folder / name / one.class_names[one.sample(i)["label"]] / f"{i:06d}.png"
            np.testing.assert_array_equal(np.asarray(Image.open(file)), one.sample(i)["image"][..., 0])
    assert write_folder.main(["--config", "lenet5_digits", "--output", str(folder)]) == 2
    assert "is not empty: name another folder" in capsys.readouterr().err
    first = build_source(configs.load("resnet18_digits_pretrain").data, "train")
    assert first.class_names == tuple("01234") and first.gather(np.arange(5))["label"].max() < 5


def test_a_source_of_other_digits_is_checked():
    for digits, message in (("5,5", "each once"), ("11,", "each once")):
        config = configs.load("resnet18_digits_pretrain", [("data.source.digits", digits)])
        with pytest.raises(ValueError, match=message):
            build_source(config.data, "train")


def load(folder, pretrained=None, arg=""):
    changes = [*SMALL, ("data.source.source.path", str(folder)), ("schedule.epochs", "2"), ("log.tensorboard", "False")]
    changes += [("pretrained.backbone", str(pretrained))] if pretrained else []
    return configs.load(f"resnet18_finetune_digits{arg}", changes)


def test_the_worked_example_runs_from_pretraining_to_the_tuned_model(folder, tmp_path, unoptimized):
    workdir = tmp_path / "pretrained"
    short = [*SMALL, ("schedule.steps", "2"), ("schedule.warmup", "0"), ("log.tensorboard", "False")]
    training.train(configs.load("resnet18_digits_pretrain", short), workdir)
    run = experiment.build(load(folder, workdir))
    table = run.bundle.table
    first = [row for row in table.rows if row.path.startswith(("backbone/conv1", "backbone/bn1", "backbone/layer1"))]
    assert first and all(row.frozen for row in first)
    assert {row.path for row in table.rows if row.frozen} == {row.path for row in first}
    assert table["head/kernel"].learning_rate == 1.0
    rates = [row.learning_rate for row in table.rows if not row.frozen and "conv1" in row.path]
    assert rates == sorted(rates) and rates[0] < rates[-1] == 0.75

    fresh = flatten(run.create().variables())
    said = Progress(1, enabled=False)
    state = flatten(training._initial_state(run, said).variables())
    loaded = flatten(training.find_weights(str(workdir), None).load(ema=False)[0].state_dict)
    for name, value in state.items():
        source = loaded if "/backbone/" in name else fresh
        np.testing.assert_array_equal(value, source[name], err_msg=name)

    results = training.train(load(folder, workdir), tmp_path / "tuned")
    assert np.isfinite(results["loss"])
    tuned = flatten(training.find_weights(str(tmp_path / "tuned"), None).load(ema=False)[0].state_dict)
    for name, value in tuned.items():
        frozen = "backbone/conv1" in name or "backbone/bn1" in name or "backbone/layer1" in name
        assert (np.array_equal(value, state[name])) == frozen, name


def test_from_scratch_nothing_is_loaded_or_frozen(folder):
    config = load(folder, arg=":scratch")
    table = experiment.build(config).bundle.table
    assert config.pretrained is None and {row.group for row in table.rows} == {"learning rate x1, weight decay x1"}


def test_the_head_of_the_general_config_learns_ten_times_as_fast_as_the_backbone():
    changes = [("data.source", "synthetic"), ("data.batch_size", "8"), ("model.num_classes", "10")]
    config = configs.load("resnet50_finetune_image_folder", [*changes, ("data.image_size", "32,32")])
    table = experiment.build(config).bundle.table
    assert table["head/kernel"].learning_rate == 1.0
    trained = {row.learning_rate for row in table.rows if row.path.startswith("backbone/") and not row.frozen}
    assert trained == {0.1}
    frozen = {row.path.split("/")[1].split("_")[0] for row in table.rows if row.frozen}
    assert frozen == {"conv1", "bn1", "layer1"}


def test_rare_classes_are_seen_as_often_as_the_largest(tmp_path, unoptimized):
    rng = np.random.default_rng(0)
    for part, counts in (("train", {"many": 24, "few": 3}), ("val", {"many": 6, "few": 2})):
        for name, count in counts.items():
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(count):
                Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(tmp_path / part / name / f"{i}.png")
    changes = [
        ("data.source.source.path", str(tmp_path)),
        *(("model.num_classes", "2"), ("data.image_size", "16,16"), ("data.batch_size", "16"), ("pretrained", "None")),
        *(("model.backbone.depth", "14"), ("model.backbone.width", "4"), ("schedule.epochs", "1")),
        *(("schedule.warmup", "0"), ("log.tensorboard", "False")),
    ]
    config = configs.load("resnet18_class_balanced_image_folder", changes)
    run = experiment.build(config)
    labels = [run.data.train.source.sample(i)["label"] for i in range(len(run.data.train.source))]
    assert np.bincount(labels).tolist() == [24, 24] and len(run.data.evaluation.source) == 8
    results = training.train(config, tmp_path / "run")
    assert np.isfinite(results["loss"]) and results["confusion_matrix"].sum() == 8


def test_samples_of_several_labels_have_no_folder(tmp_path):
    from jaxvision.data.write_folder import write_image_folder

    source = build_source(configs.load("resnet18_digit_attributes").data, "train")
    with pytest.raises(SetupError, match="no single label per image"):
        write_image_folder({"train": source}, tmp_path / "new")
