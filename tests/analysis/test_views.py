"""The command `analyze`: every view on a tiny run, learning rates against formulas, projections, mistakes."""

import math

import numpy as np
import pytest
from PIL import Image
from threadpoolctl import threadpool_limits

from experiments import analyze as command
from jaxvision import __main__ as console
from jaxvision import config as configs
from jaxvision.analysis import embedding, views
from jaxvision.analysis.gradcam import METHODS
from jaxvision.analysis.learning_rate import learning_rates
from jaxvision.errors import SetupError
from tests.test_inference import write_run
from tests.test_retrieval import write_folders


@pytest.fixture(autouse=True)
def one_thread():
    """scikit-learn's threads wait for each other where other processes have the cores."""
    with threadpool_limits(1):
        yield


def test_the_command_knows_every_view():
    parser = {action.dest: action for action in command._parser()._actions}
    assert set(command.VIEWS) == set(views.VIEWS) | set(views.TOGETHER) and tuple(parser["method"].choices) == METHODS


def rates_of(*overrides, **arguments):
    return learning_rates(configs.load("resnet18_cifar10_subset", list(overrides)), **arguments)


def test_learning_rates_are_those_of_the_run_without_its_data():
    found = rates_of(("schedule.warmup", "2"), examples=1280)
    assert found.steps_per_epoch == 10 and found.warmup_steps == 20 and len(found.steps) == 300
    (group,) = found.groups
    expected = [0.1 * min(t / 20, 1) * 0.5 * (1 + math.cos(math.pi * t / 300)) for t in range(300)]
    np.testing.assert_allclose(group[2], expected, rtol=1e-5, atol=1e-8)


def test_every_group_has_its_own_curve():
    found = rates_of(("schedule.layer_decay", "0.5"), ("schedule.freeze", "('backbone/conv1/.*',)"), examples=1280)
    peaks = {name: rates.max() for name, _, rates in found.groups}
    assert peaks["frozen"] == 0 and len(peaks) == 11  # the stem's norm, eight blocks, the head
    highest = max(peaks.values())
    np.testing.assert_allclose(sorted(peaks.values())[1:], [highest * 0.5**i for i in range(9, -1, -1)], rtol=1e-5)
    assert sum(count for _, count, _ in found.groups) == 11_173_962


def test_data_that_are_not_here_are_told():
    with pytest.raises(configs.ConfigError, match=r"cifar10_subset\.npz"):
        rates_of()


@pytest.mark.parametrize("method", embedding.METHODS)
def test_projections_keep_clusters_apart(method):
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 20)
    features = 8 * rng.normal(size=(3, 60))[labels] + rng.normal(size=(60, 60))
    points, told = embedding.project(features, method)
    assert points.shape == (60, 2) and told.startswith(("PCA: ", "t-SNE: "))
    centres = np.stack([points[labels == label].mean(0) for label in range(3)])
    nearest = np.linalg.norm(points[:, None] - centres, axis=-1).argmin(1)
    assert (nearest == labels).mean() > 0.95
    assert embedding.neighbours_agree(features, labels) == 1
    with pytest.raises(SetupError, match="at least 4 images"):
        embedding.project(features[:3], method)


def run(*arguments):
    return command.main([str(argument) for argument in arguments])


def test_features_of_the_validation_part_and_of_a_folder(tmp_path, capsys):
    write_run(tmp_path / "run")
    assert run(tmp_path / "run", "--view", "features", "--output", tmp_path / "a", "--count", 12) == 0
    folder = write_folders(tmp_path / "images")
    assert run(tmp_path / "run", "--view", "features", "--output", tmp_path / "b", "--input", folder) == 0
    said = capsys.readouterr().out
    assert "12 images of" in said and "6 images of 2 classes" in said and "by chance 50.0%" in said
    for name in "ab":
        with Image.open(tmp_path / name / "features.png") as picture:
            assert picture.width > 1200


def test_maps_and_receptive_fields_of_a_run(tmp_path, capsys):
    write_run(tmp_path / "run", name="resnet18_cifar10_subset:smoke")
    folder = write_folders(tmp_path / "images")
    assert (
        run(tmp_path / "run", "--view", "gradcam", "--input", folder, "--layer", "c3", "--output", tmp_path / "a") == 0
    )
    written = sorted(path.name for path in (tmp_path / "a").iterdir())
    expected = [f"{i}_gradcam{n}.png" for i in range(3) for n in ("", "_2")]
    assert written == sorted([*expected, "gradcam.png"])
    assert ", c3" in capsys.readouterr().out
    assert run(tmp_path / "run", "--view", "receptive_field", "--count", 1, "--output", tmp_path / "b") == 0
    said = capsys.readouterr().out
    assert "weights: step 2 of" in said and "c2: theoretical" in said
    assert (tmp_path / "b" / "receptive_field.png").exists()


def test_schedules_of_several_configs(tmp_path, capsys):
    sources = ("lenet5_digits", "linear_digits")
    assert run(*sources, "--view", "learning_rate", "--output", tmp_path) == 0
    assert all((tmp_path / name / "learning_rate.png").exists() for name in sources)
    assert "0.05 at step 0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("lenet5", "--view", "gradcam"), "needs images: --input"),
        (("lenet5", "--view", "receptive_field"), "LeNet5"),
        (("nothing", "--view", "learning_rate"), "nothing"),
        (("lenet5_digits", "--view", "features"), "no checkpoint"),
    ],
)
def test_mistakes_are_one_line(tmp_path, capsys, arguments, message):
    assert run(*arguments, "--output", tmp_path) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and message in err and err.count("\n") == 1


def test_the_console_command_mirrors_both(capsys):
    assert {"analyze", "retrieve"} <= set(console.commands())
    assert console.main(["analyze", "nothing", "--view", "learning_rate"]) == 2
    assert capsys.readouterr().err.startswith("error: ")
