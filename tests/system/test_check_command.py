"""`experiments.check` and the check before training: what is said, what is written, and how they end."""

import json
import os
import warnings

import numpy as np
import pytest
from PIL import Image

from experiments import check as command
from jaxvision import config as configs
from jaxvision import registry, training
from jaxvision.checking import check_sources, write_report
from jaxvision.data.table import Ragged, Table
from jaxvision.errors import SetupError
from tests.folders import write_folder


def test_a_config_is_checked_and_its_report_and_pictures_written(tmp_path, capsys):
    assert command.main(["--config", "lenet5_digits", "--output", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "training: 1,438 images of digits" in out and "found nothing wrong" in out
    assert any(line.split() == ["9", "144", "36"] for line in out.splitlines())
    assert set(os.listdir(tmp_path / "out")) == {"report.json", "images_per_class.png"}
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert report["full"] and report["findings"] == [] and report["class_names"] == [str(i) for i in range(10)]


def test_a_folder_with_a_damaged_file_ends_with_1(tmp_path, capsys):
    root = write_folder(tmp_path / "my data", ["Käse", "grüner Apfel"], count=4)
    assert command.main(["--data", str(root)]) == 0
    assert "grüner Apfel" in capsys.readouterr().out
    broken = root / "train" / "Käse" / "1 ö.png"
    broken.write_bytes(broken.read_bytes()[:300])
    assert command.main(["--data", str(root), "--fast"]) == 0  # the header is sound
    assert command.main(["--data", str(root), "--output", str(tmp_path / "out")]) == 1
    out = capsys.readouterr().out
    assert "error: training: 1 image cannot be read: train/Käse/1 ö.png (" in out
    assert "Käse/1 ö.png" in (tmp_path / "out" / "report.json").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ([], "one of the arguments --config --data is required"),
        (["--config", "lenet5_digit"], "did you mean 'lenet5_digits'?"),
        (["--data", "x", "--config.seed=3"], "belongs to --config"),
        (["--config", "lenet5_digits", "--fats"], "unrecognized arguments"),
    ],
)
def test_mistakes_on_the_command_line_end_with_2(capsys, argv, expected):
    assert command.main(argv) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and expected in err and err.count("\n") == 1


def test_a_source_that_cannot_be_built_ends_with_1(capsys):
    assert command.main(["--config", "lenet5_mnist_idx", "--config.data.source.directory=/nowhere"]) == 1
    assert "/nowhere" in capsys.readouterr().err


def boxed(folder, split):
    """Images with boxes, one of them far outside in training."""
    folder = folder / split
    folder.mkdir(parents=True)
    rng = np.random.default_rng(len(split))
    files = []
    for i in range(5):
        files.append(str(folder / f"{i}.png"))
        Image.fromarray(rng.integers(0, 255, (40 + i, 50, 3), np.uint8)).save(files[-1])
    boxes = rng.uniform(0, 20, (10, 4)).astype(np.float32)
    boxes[:, 2:] += boxes[:, :2] + 2
    labels = np.arange(10, dtype=np.int32) % 2
    if split == "train":
        boxes[4, 2] = 300
        boxes[5] = np.nan
        labels[7] = 5
    columns = {"boxes": Ragged(boxes, np.arange(0, 12, 2)), "labels": Ragged(labels, np.arange(0, 12, 2))}
    return Table("boxed", ("a b", "ü"), {"file": np.array(files, object), **columns})


def test_suspicious_samples_are_drawn_and_what_a_reader_left_out_is_told(tmp_path, capsys):
    def build(split):
        warnings.warn("3 objects left out: no such class", UserWarning, stacklevel=2)
        return boxed(tmp_path, split)

    report, sources = check_sources(build)
    assert {f.kind for f in report.errors} == {"box-not-finite", "label-range"}
    left = [f for f in report.findings if f.kind == "left-out"]
    assert [f.text for f in left] == [
        f"{part}: 3 objects left out: no such class" for part in ("training", "validation")
    ]
    written = write_report(report, sources, tmp_path / "out")
    assert (
        set(written)
        == set(os.listdir(tmp_path / "out"))
        == {
            *("report.json", "images_per_class.png", "objects_per_class.png"),
            *("image_sizes.png", "box_sizes.png", "suspicious.png"),
        }
    )
    capsys.readouterr()


def test_training_stops_at_data_with_errors_and_says_how_to_look_closer(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for name, labels in (("good", [0, 1] * 8), ("doubtful", [0] * 16)):
        images = rng.integers(0, 255, (16, 8, 8), np.uint8)
        arrays = {"x_train": images, "y_train": np.array(labels), "x_test": images[:4], "y_test": np.array(labels[:4])}
        np.savez(tmp_path / f"{name}.npz", **arrays, class_names=np.array(["a", "b"]))
    overrides = {"data.batch_size": 8, "data.image_size": "(8, 8)", "schedule.epochs": 1, "model.num_classes": 2}

    def config(name):
        given = {**overrides, "data.source": f"npz:{tmp_path}/{name}.npz", "parallel.devices": 1}
        return configs.load("linear_digits", [(key, str(value)) for key, value in given.items()])

    training.train(config("doubtful"), tmp_path / "run")
    out = capsys.readouterr().out
    assert "warning: training: 1 class has no sample: b" in out and "The check of the data found 1 warning" in out
    registry.register("source", "test_out_of_range", "tests.system.test_check_command:OutOfRange")
    try:
        broken = configs.load("linear_digits", [("data.source", "test_out_of_range"), ("parallel.devices", "1")])
        with pytest.raises(SetupError, match=r"label is out of range \(11;(?s:.)*experiments.check --config .*run2"):
            training.train(broken, tmp_path / "run2")
    finally:
        del registry.table._ROWS["source", "test_out_of_range"]


class OutOfRange:
    """A source of a user's own that does not check its labels."""

    name, class_names, num_classes, multi_label = "own", tuple("0123456789"), 10, False

    def __init__(self, *, split, image_size, channels):
        self.image_shape = (*image_size, channels)
        self.labels = np.arange(80) % 10
        self.labels[3] = 11

    def __len__(self):
        return 80

    def gather(self, indices):
        images = np.random.default_rng(0).integers(0, 255, (80, *self.image_shape), np.uint8)
        return {"image": images[indices], "label": self.labels[indices].astype(np.int32)}
