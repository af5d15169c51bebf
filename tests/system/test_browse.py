"""`experiments.browse`: the pictures are what training is fed, bit for bit."""

import dataclasses

import jax
import numpy as np
import pytest
from PIL import Image

from experiments import browse as command
from jaxvision import browsing, experiment
from jaxvision import config as configs
from jaxvision.structures import Instances


def load(**overrides):
    return configs.load("lenet5_digits", [(k.replace("__", "."), str(v)) for k, v in overrides.items()])


def test_samples_are_those_of_the_training_step_and_display_takes_normalisation_back():
    config = load(data__batch_size=16, seed=5)
    run = experiment.build(config)
    found, source = browsing.browse(config, step=3, count=10, original=True)
    rng = jax.eval_shape(run.create).rng
    assert rng.shape == browsing.augmentation_key(5).shape
    batch = run.settings.preprocess(next(run.data.train.train(3)), run.create().rng)
    for row, fed in enumerate(found):
        pixels = np.asarray(batch["image"][row], np.float64) * 0.376 + 0.305
        np.testing.assert_array_equal(fed.sample["image"], np.round(pixels.clip(0, 1) * 255).astype(np.uint8))
        assert fed.sample["label"] == batch["label"][row] and fed.title == f"sample {batch['index'][row]}"
        wanted = source.gather(np.asarray(batch["index"][row : row + 1]))
        np.testing.assert_array_equal(fed.original["image"], wanted["image"][0])
    moved = [fed for fed in found if not np.array_equal(fed.sample["image"], fed.original["image"])]
    assert len(moved) > 5  # shifted at random


def test_evaluation_is_shown_in_order_without_augmentation():
    config = load(data__batch_size=100)
    found, _ = browsing.browse(config, split="validation", step=3, count=100, original=True)
    assert [fed.title for fed in found] == [f"sample {i}" for i in range(300, 359)]  # the padding is not shown
    for fed in found[:5]:
        np.testing.assert_array_equal(fed.sample["image"], fed.original["image"])


def test_objects_of_a_batch_are_samples_again():
    masks = np.zeros((3, 6, 11), bool)
    masks[0, 1:4, 2:10] = True
    targets = Instances(
        boxes=np.array([(2, 1, 10, 4), (0, 0, 0, 0), (0, 0, 0, 0)], np.float32),
        labels=np.array([1, 0, 0], np.int32),
        valid=np.array([True, False, False]),
        crowd=np.zeros(3, bool),
        area=np.array([24, 0, 0], np.float32),
        masks=np.packbits(masks, axis=-1),
    )
    sample = browsing._objects(targets, 11)
    assert set(sample) == {"boxes", "labels", "crowd", "area", "masks"}
    np.testing.assert_array_equal(sample["masks"], masks[:1])
    assert sample["boxes"].tolist() == [[2, 1, 10, 4]] and sample["labels"].tolist() == [1]


def test_titles_name_labels_and_shares_of_mixed_ones():
    fed = browsing.Fed({"label": 1}, None, "x.png")
    names = ("cat", "käse", "dog")
    assert browsing._title(fed, names) == "x.png: käse"
    mixed = dataclasses.replace(fed, sample={"label": np.array([0.25, 0, 0.75], np.float32)})
    assert browsing._title(mixed, names) == "x.png: dog 0.75, cat 0.25"
    several = dataclasses.replace(fed, sample={"label": np.array([1, 1, 0], np.float32)})
    assert browsing._title(several, names) == "x.png: cat, käse"
    assert browsing._title(dataclasses.replace(fed, sample={}), names) == "x.png"


def test_the_command_writes_sheets(tmp_path, capsys):
    argv = ["--config", "lenet5_digits", "--count", "40", "--output", str(tmp_path), "--step", "7", "--seed", "3"]
    assert command.main(argv) == 0
    out = capsys.readouterr().out
    assert "40 samples of digits, fed as 32 x 32 pixels, 1 channel\n" in out
    assert f"wrote train_step7.png, train_step7_2.png to {tmp_path}" in out
    with Image.open(tmp_path / "train_step7.png") as sheet:
        assert min(sheet.size) > 6 * browsing.SIDE // 2
    argv = ["--config", "lenet5_digits", "--split", "validation", "--compare", "--count", "3", "--output"]
    assert command.main([*argv, str(tmp_path)]) == 0
    with Image.open(tmp_path / "validation_step0.png") as sheet:
        pixels = np.asarray(sheet)
    assert pixels.shape[1] > 2 * browsing.SIDE


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--step", "-1"], "--step starts at 0"),
        (["--split", "validation", "--step", "50"], "ends before --step 50"),
        (["--split", "test"], "invalid choice: 'test'"),
    ],
)
def test_mistakes_are_one_line(capsys, argv, expected):
    assert command.main(["--config", "lenet5_digits", *argv]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and expected in err and err.count("\n") == 1
