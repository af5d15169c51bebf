"""`experiments.run` and the `jaxvision` command: one-line errors, printing, and what they pass on."""

import os
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest

import jaxvision
from experiments import run
from jaxvision import __main__ as command

REPOSITORY = Path(jaxvision.__file__).resolve().parents[1]


@pytest.fixture
def experiment(monkeypatch):
    """Stands in for the composition root and records how it is called."""
    calls = []
    fake = types.ModuleType("jaxvision.training")
    fake.train = lambda config, workdir: calls.append(("train", config.model.name, workdir))
    fake.evaluate = lambda config, workdir, checkpoint: calls.append(("eval", config.model.name, workdir, checkpoint))
    monkeypatch.setitem(sys.modules, "jaxvision.training", fake)
    monkeypatch.setattr(jaxvision, "training", fake, raising=False)
    return calls


def shell(*argv, module="experiments.run", cwd=REPOSITORY, path=REPOSITORY):
    """Runs a module in a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(path), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", module, *argv]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=120)


def fails(capsys, *argv):
    """The single line that a failing call writes."""
    assert run.main(argv) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1
    return err.removeprefix("error: ").strip()


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--config", "lenet5_digit"], "did you mean 'lenet5_digits'?"),
        (
            ["--config", "lenet5_digits", "--config.schedule.epoch=3"],
            "unknown key schedule.epoch (command line): did you mean 'epochs'?",
        ),
        (
            ["--config", "lenet5_digits", "--config.schedule.epochs=three"],
            "--config.schedule.epochs=three: expected int or None, got 'three'",
        ),
        (["--config", "lenet5_digits", "--config.seed"], "--config.seed needs a value: --config.seed=VALUE"),
        (["--config", "lenet5_digits", "--mode", "trian"], "argument --mode: invalid choice: 'trian'"),
        (["--config", "lenet5_digits", "--mod", "print"], "unrecognized arguments: --mod print"),
        ([], "one of the arguments --config --data is required"),
        (["--config", "lenet5_digits", "--checkpoint", "x"], "--checkpoint belongs to --mode eval"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(capsys, experiment, argv, expected):
    assert expected in fails(capsys, *argv)
    assert experiment == []


def test_print_shows_values_and_origins_and_notes_what_was_dropped(capsys, experiment):
    argv = ["--config", "lenet5_digits", "--mode", "print", "--config.schedule.optimizer", "adamw", "--config.seed=3"]
    assert run.main(argv) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert any(line.startswith("seed = 3 ") and line.endswith("# command line") for line in lines)
    assert any("num_classes = 10 " in line and "configs/classification/lenet5_digits.py:" in line for line in lines)
    assert any("batch_size = 64 " in line for line in lines) and any("# default of adamw" in line for line in lines)
    assert (
        err.startswith("note: schedule.optimizer.name=adamw (command line) drops momentum=0.9") and err.count("\n") == 1
    )
    assert experiment == []


def test_train_and_eval_are_passed_on_with_a_default_workdir(experiment, tmp_path):
    assert run.main(["--config", "lenet5_digits:smoke"]) == 0
    assert (
        run.main(
            ["--config=configs/classification/linear_digits.py", "--workdir", "w", "--mode=eval", "--checkpoint=c"]
        )
        == 0
    )
    from jaxvision.config import load, to_json

    (tmp_path / "config.json").write_text(to_json(load("lenet5_digits")))
    assert run.main(["--config", str(tmp_path), "--mode", "eval"]) == 0
    assert experiment == [
        ("train", "lenet5", os.path.join("runs", "lenet5_digits_smoke")),
        ("eval", "linear", "w", "c"),
        ("eval", "lenet5", str(tmp_path), None),
    ]


def test_a_process_prints_without_tensorflow_and_tells_mistakes_in_a_users_file_without_traceback(tmp_path):
    (tmp_path / "own.py").write_text(
        "from configs.classification import lenet5_digits\n"
        "from configs.common import base\n"
        "def get_config(arg=''):\n"
        "    config = lenet5_digits.get_config(arg)\n"
        "    config.schedule.epocs = 3\n"
        "    return base.complete(config)\n"
    )
    done = shell("--config", "own.py", "--mode", "print", cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "error: unknown key schedule.epocs (own.py:5): did you mean 'epochs'?\n"
    code = (
        "import sys; from experiments import run\n"
        "status = run.main(['--config', 'lenet5_digits', '--mode', 'print'])\n"
        "sys.exit(status or 'tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True).returncode == 0


def test_help_imports_no_jax():
    code = (
        "import sys; from experiments import run\n"
        "try: run.main(['--help'])\n"
        "except SystemExit as end: sys.exit(end.code or any(name in sys.modules for name in ('jax', 'tensorflow')))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0 and "--config.schedule.epochs=12" in done.stdout


def test_the_jaxvision_command_mirrors_experiments_from_any_folder(tmp_path):
    (tmp_path / "experiments").mkdir()  # of the user's own, and not in the way
    (tmp_path / "experiments/__init__.py").write_text("")
    done = shell("run", "--config", "lenet5_digits:smoke", "--mode", "print", module="jaxvision", cwd=tmp_path)
    assert done.returncode == 0 and "name = 'synthetic'" in done.stdout and done.stderr == ""
    done = shell("run", "--config", "lenet5_digit", module="jaxvision", cwd=tmp_path)
    assert done.returncode == 2 and "did you mean 'lenet5_digits'?" in done.stderr and done.stderr.count("\n") == 1


def test_an_installed_package_runs_by_config_name_from_an_empty_folder(tmp_path):
    site, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    package = shutil.copytree(
        REPOSITORY / "jaxvision", site / "jaxvision", ignore=shutil.ignore_patterns("__pycache__")
    )
    for folder in ("configs", "experiments"):  # where the wheel puts them
        shutil.copytree(REPOSITORY / folder, package / folder, ignore=shutil.ignore_patterns("__pycache__"))
    (empty / "own.py").write_text("from configs.classification.linear_digits import get_config\n")
    for config in ("lenet5_digits:smoke", "configs/classification/lenet5_digits.py:smoke", "own.py:smoke"):
        done = shell("run", "--config", config, "--mode", "print", module="jaxvision", cwd=empty, path=site)
        assert done.returncode == 0 and "# smoke" in done.stdout and done.stderr == ""
        assert "configs/classification/lenet5_digits.py:" in done.stdout and str(tmp_path) not in done.stdout


def test_the_jaxvision_command_lists_its_commands(capsys):
    assert command.main([]) == 0 and command.main(["--version"]) == 0
    out = capsys.readouterr().out
    assert "  run         Trains or evaluates a config" in out and out.endswith(f"{jaxvision.__version__}\n")
    assert command.main(["runn"]) == 2
    assert capsys.readouterr().err == "error: unknown command 'runn': did you mean 'run'?\n"


def test_every_command_line_face_is_thin():
    for file in command.commands().values():
        assert len(file.read_text().splitlines()) <= 100, file
