"""Config files: finding, running, inheriting, extending."""

import sys
import textwrap

import jax
import pytest

from jaxvision.config import (
    build,
    config_name,
    config_names,
    from_json,
    load,
    notes,
    origins,
    to_json,
)
from tests.config.toys import fails

ALL = config_names()


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))
    return path


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("arg", ["", ":smoke"])
def test_every_config_loads_builds_its_model_and_survives_json(name, arg):
    config = load(f"{name}{arg}")
    assert from_json(to_json(config)) == config
    model = build("model", config.model)
    assert hash(model) == hash(build("model", config.model))
    build("task", config.task, model=model, num_classes=model.num_classes, class_names=())
    build("optimizer", config.schedule.optimizer)
    build("learning_rate", config.schedule.learning_rate)
    for transform in (*config.data.augment, *config.data.eval_transforms):
        build("augment", transform)
    if arg:
        data = config.data
        build("source", data.source, split="train", image_size=data.image_size, channels=data.channels)
        image = jax.ShapeDtypeStruct((1, *data.image_size, data.channels), "float32")
        shapes = jax.eval_shape(lambda rng, x: model.init(rng, x, train=False), jax.random.key(0), image)
        assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) < 400_000


def test_configs_are_found_by_path_name_and_folder(tmp_path, monkeypatch):
    by_name = load("lenet5_digits")
    assert by_name == load("classification/lenet5_digits")
    assert load("configs/classification/lenet5_digits.py") == by_name
    monkeypatch.chdir(tmp_path)
    assert load("configs/classification/lenet5_digits.py") == by_name == load("lenet5_digits.py")
    fails("^config 'lenet5_digit': unknown config .*did you mean 'lenet5_digits'", load, "lenet5_digit")
    fails(
        "^config 'classification/lenet_digits': .*did you mean 'classification/lenet5_digits'",
        load,
        "classification/lenet_digits",
    )
    fails("^config 'nowhere/x.py': there is no such file", load, "nowhere/x.py")
    fails("^unknown config arg 'smok': did you mean 'smoke'", load, "lenet5_digits:smok")


def test_a_users_own_config_inherits_from_the_shipped_ones_anywhere(tmp_path, monkeypatch):
    write(tmp_path / "configs/common/own_parts.py", "EPOCHS = 4\n")
    text = """
        from configs.classification import lenet5_digits
        from configs.common import base, own_parts

        def get_config(arg=""):
            config = lenet5_digits.get_config(arg)
            config.schedule.epochs = own_parts.EPOCHS
            config.model.name = "linear"
            return base.complete(config)
    """
    write(tmp_path / "configs/classification/own_digits.py", text)
    elsewhere = write(tmp_path / "elsewhere/own.py", text)
    monkeypatch.chdir(tmp_path)
    for spec in ("own_digits", "classification/own_digits", "configs/classification/own_digits.py", str(elsewhere)):
        config = load(spec)
        assert config.schedule.epochs == 4 and config.model.name == "linear" and config.model.num_classes == 10
    assert origins(load("own_digits"))["schedule.epochs"] == "configs/classification/own_digits.py:7"
    assert origins(config)["schedule.optimizer.momentum"].startswith("configs/classification/lenet5_digits.py:")
    assert load("own_digits:smoke").data.batch_size == 16
    assert config_name("configs/classification/own_digits.py:smoke") == "own_digits_smoke"


def test_the_tiny_form_of_a_config_that_starts_from_a_completed_one_has_the_classes_of_its_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(
        tmp_path / "own.py",
        """
        from configs.common import base
        from configs.detection import retinanet_r50_fpn_coco

        def get_config(arg=""):
            config = retinanet_r50_fpn_coco.get_config(arg)
            config.model = dict(name="fcos", num_classes=80)
            return base.complete(config)
        """,
    )
    config = load("own.py:smoke")
    assert config.data.source.name == "digit_scenes" and config.model.num_classes == 10
    assert load("own.py").model.num_classes == 80


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("x = 1\nimport no_such_package_y\n", r"own.py:2: ModuleNotFoundError: No module named 'no_such_package_y'$"),
        ("def get_config(arg=''):\n    return 1 +\n", r"own.py:2: SyntaxError: invalid syntax$"),
        ("def get_config(arg=''):\n    return {}['a']\n", r"own.py:2: KeyError: 'a'$"),
        ("x = 1\n", r"own.py: defines no get_config\(arg=''\)$"),
        (
            "def get_config(arg=''):\n    pass\n",
            r"own.py: get_config returned None; end it with `return base.complete\(config\)`$",
        ),
        (
            "from jaxvision.registry import lookup\nlookup('model', 'lenet6')\n",
            r"own.py:2: unknown model 'lenet6': did you mean 'lenet5'",
        ),
        ("from configs.common import bass\n", r"own.py:1: ImportError: cannot import name 'bass'"),
        (
            "from configs.common.base import get_config as new\n\ndef get_config(arg):\n"
            "  c = new(arg)\n  c.data.batchsize = 3\n  return c\n",
            r"^unknown key data.batchsize \(own.py:5\): did you mean 'batch_size'\?$",
        ),
    ],
)
def test_a_failing_config_file_is_one_line_with_its_own_line(tmp_path, monkeypatch, text, match):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(text)
    fails(match, load, "own.py")


def test_a_config_knows_args_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(
        tmp_path / "own.py",
        """
        from configs.common import base

        def get_config(arg=""):
            config = base.get_config(arg, args=("long", "wide"))
            config.task, config.model, config.data.source = "job", "net", "digits"
            config.schedule = dict(epochs=100 if "long" in arg.split(",") else 1, learning_rate="constant:0.1")
            return config  # completed by whoever loads it
        """,
    )
    assert load("own.py").schedule.epochs == 1 and load("own.py:long").schedule.epochs == 100
    assert load("own.py:long,smoke").schedule.steps == 2
    fails("unknown config arg 'lung': did you mean 'long'", load, "own.py:lung")


def test_a_package_of_the_users_own_registers_a_model_and_a_task(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    write(
        tmp_path / "own_vision/__init__.py",
        """
        import dataclasses
        import flax.linen as nn
        from jaxvision import registry

        class Tiny(nn.Module):
            width: int = 3

        @dataclasses.dataclass(frozen=True)
        class Counting:
            model: nn.Module
            up_to: int = 10

        registry.register("model", "own_tiny", Tiny, smoke={"width": 1})
        registry.register("task", "counting", "own_vision:Counting")
        """,
    )
    write(
        tmp_path / "own.py",
        """
        from configs.common import base

        def get_config(arg=""):
            config = base.get_config(arg)
            config.imports = ("own_vision",)
            config.task = dict(name="counting", up_to=5)
            config.model = "own_tiny"
            config.data.source = "digits"
            config.schedule = dict(epochs=1, learning_rate="constant:0.1")
            return base.complete(config)
        """,
    )
    config = load("own.py")
    task = build("task", config.task, model=build("model", config.model), class_names=(), num_classes=10)
    assert task.up_to == 5 and task.model.width == 3 and config.imports == ("own_vision",)
    assert load("own.py:smoke").model.width == 1
    by_override = load("lenet5_digits", [("imports", "own_vision"), ("model", "own_tiny"), ("model.width", "7")])
    assert by_override.model.width == 7 and "drops num_classes=10" in notes(by_override)[0]


def test_a_workdir_is_a_config(tmp_path):
    config = load("lenet5_digits", [("seed", "5")])
    (tmp_path / "config.json").write_text(to_json(config))
    assert load(tmp_path) == config == load(str(tmp_path / "config.json"))
    assert load(tmp_path, [("seed", "6")]).seed == 6
    fails("there is no .*config.json; give a .py file, a name, or the workdir of a run", load, str(tmp_path.parent))
