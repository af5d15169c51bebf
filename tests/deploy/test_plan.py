"""The pod plan: shapes without data, the whole of it on fake devices, its words, and one real TPU program."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

import experiments.plan as command
from jaxvision import config as jv_config
from jaxvision import experiment
from jaxvision.deploy import plan as planning
from jaxvision.deploy import report
from jaxvision.deploy.fitting import Change, Memory
from jaxvision.deploy.shapes import shape_data
from jaxvision.deploy.topology import parse_topology
from jaxvision.engine.parallel import Parallel
from jaxvision.errors import SetupError
from tests.folders import write_folder

TINY, PARAMETERS = "linear_digits:smoke", 16 * 16 * 10 + 10
HOST = parse_topology("v5e:2x2")
NOTHING = planning.Plan(HOST, 2, (16, 16), 1, "float32", 1, 7, Memory(0, 0, 0, 0, 100), None, "a compiler", 0.0)


def shapes(batch):
    return jax.tree.map(lambda x: (x.shape, x.dtype), batch)


def test_shapes_are_those_of_the_data_themselves(tmp_path):
    folder = write_folder(tmp_path, ["a", "b", "c"])
    data = ("data.source", f"dict(name='image_folder', path='{folder}')")
    config = jv_config.load("resnet50_image_folder", [data, ("model.num_classes", "3"), ("data.batch_size", "4")])
    real, planned = experiment.build_data(config.data, 0), shape_data(config)
    assert shapes(planned.train.example_batch()) == shapes(real.train.example_batch())
    assert planned.num_classes == 3 and planned.train.steps_per_epoch == 50


@pytest.mark.parametrize(
    "name,batch,expected",
    [
        ("classification/resnet50_imagenet", 512, {"image": (512, 224, 224, 3), "label": (512,)}),
        ("detection/faster_rcnn_r50_fpn_coco", 32, {"image": (32, 800, 1344, 3), "size": (32, 2)}),
        ("segmentation/deeplabv3plus_r50_d8_cityscapes", 8, {"image": (8, 512, 1024, 3), "semantic": (8, 512, 1024)}),
    ],
)
def test_shapes_need_no_data_set(name, batch, expected):
    config = jv_config.load(name, [("data.batch_size", str(batch))])
    planned = shape_data(config)
    found = planned.train.example_batch()
    assert {key: found[key].shape for key in expected} == expected
    assert planned.num_classes == config.model.num_classes
    assert len(planned.train.example_batches()) == max(1, len(config.data.buckets))


def test_labels_of_many_classes_have_a_row_each():
    source = ("data.source", "dict(name='synthetic', multi_label=True, num_classes=7)")
    config = jv_config.load(TINY, [source, ("task.multi_label", "True"), ("model.num_classes", "7")])
    assert shape_data(config).train.example_batch()["label"].shape == (config.data.batch_size, 7)


@pytest.fixture
def fake(monkeypatch):
    """Four CPU devices in the place of chips."""
    monkeypatch.setattr(planning, "devices_of", lambda topology: tuple(jax.devices()[: topology.chips]))
    monkeypatch.setattr(planning, "compiler_version", lambda: "a compiler")


def test_a_plan_says_memory_work_and_scaling(fake, unoptimized, capsys, tmp_path):
    target = tmp_path / "plan.json"
    assert (
        command.main(["--config", TINY, "--topology", "v5e:2x2", "--batch-per-chip", "2", "--json", str(target)]) == 0
    )
    told = capsys.readouterr().out.splitlines()
    assert told[:2] == [f"the train step of {TINY}", "v5e:2x2: 4 chips, 2 images per chip, global batch 8, float32"]
    assert any(line.startswith("memory of a chip: ") and line.endswith(": fits") for line in told)
    assert any(line.startswith("  bound by ") for line in told)
    assert any("x all-reduce" in line and line.endswith("over 4 chips") for line in told)
    assert [line.split()[1] for line in told[-8:]] == ["1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"]
    plan = json.loads(target.read_text())
    assert plan["config"] == TINY and plan["parameters"] == PARAMETERS and plan["memory"]["fits"] is True
    reduced = sum(each["count"] * each["bytes"] for each in plan["collectives"])
    assert 4 * PARAMETERS <= reduced < 4 * PARAMETERS + 1000  # the gradient and a few sums
    assert plan["flops"] > 2 * PARAMETERS and 0 < plan["memory_traffic"] <= plan["bytes_accessed"]
    assert [row["chips"] for row in plan["scaling_model"]] == [1, 4, 8, 16, 32, 64, 128, 256]


def test_a_plan_that_does_not_fit_says_what_to_change(fake, unoptimized):
    """On chips of so little memory that the state fits, and a part of the batch."""
    config, said = jv_config.load(TINY), []
    whole = planning.make_plan(config, HOST, batch_per_chip=16)
    fixed = whole.memory.total - whole.memory.temporaries
    chip = dataclasses.replace(HOST.chip, memory_gib=(fixed + 0.7 * whole.memory.temporaries) / 2**30)
    plan = planning.make_plan(config, dataclasses.replace(HOST, chip=chip), batch_per_chip=16, say=said.append)
    assert not plan.memory.fits and [line.split()[1] for line in said] == ["16", "8"]
    assert plan.smaller.memory.fits and plan.smaller.batch_per_chip == 8
    told = "\n".join(report.lines(plan))
    assert "DOES NOT FIT" in told and "fewer images on a chip: --batch-per-chip=8: " in told
    assert "the largest batch that was seen to fit:" in told
    told = report.to_json(plan)
    assert told["smaller"]["memory"]["fits"] and {change["compiled"] for change in told["changes"]} == {False}


def test_what_the_compiler_refuses_has_its_figure(fake, monkeypatch):
    text = (
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (20.00G) exceeds"
    )

    def refuse(self, *args):
        raise jax.errors.JaxRuntimeError(text)

    monkeypatch.setattr(jax.stages.Lowered, "compile", refuse)
    devices = Parallel("shard_map", tuple(jax.devices()[:4]))
    plan = planning.compile_plan(jv_config.load(TINY), HOST, devices, lambda line: None)
    assert plan.work is None and plan.memory.refused and not plan.scaling
    told = "\n".join(report.lines(plan))
    assert "memory of a chip: at least 20.00 of 15.75 GiB (127%): DOES NOT FIT" in told
    monkeypatch.setattr(
        jax.stages.Lowered, "compile", lambda self: (_ for _ in ()).throw(jax.errors.JaxRuntimeError("x"))
    )
    with pytest.raises(jax.errors.JaxRuntimeError):
        planning.compile_plan(jv_config.load(TINY), HOST, devices, lambda line: None)


def test_changes_of_the_config_can_be_compiled(monkeypatch):
    seen = []

    def compile_plan(config, topology, devices, say):
        seen.append((config.precision, config.schedule.accumulate))
        return dataclasses.replace(NOTHING, memory=Memory(5, 0, 6, 7, 100))

    monkeypatch.setattr(planning, "compile_plan", compile_plan)
    options = ("--config.precision=bf16", "--config.schedule.accumulate=2", "--batch-per-chip=8")
    given = [Change("", option, None, 100) for option in options]
    found = [planning._tried(change, jv_config.load(TINY), HOST, None, None) for change in given]
    assert seen == [("bf16", 1), ("float32", 2)]
    assert [(change.total, change.compiled) for change in found] == [(18, True), (18, True), (None, False)]


def test_what_was_recorded_is_of_configs_that_exist():
    table = json.loads((Path(command.__file__).parent / "results" / "pod_plan.json").read_text())
    assert set(table) <= set(jv_config.config_names())
    for plan in table.values():
        assert plan["chips"] == 256 and plan["memory"]["fits"] and len(plan["scaling_model"]) == 8
        assert plan["memory"]["total"] <= plan["memory"]["limit"] and plan["compiler"].startswith("libtpu")


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["--topology", "v5e:3x3"], "hosts have 2x2 chips"),
        (["--topology", "v5:4x4"], "did you mean"),
        (["--topology", "v5e:2x2", "--batch-per-chip", "0"], "batch_per_chip is 0: expected at least 1"),
        (
            ["--topology", "v5e:2x2", "--config.data.batch_size=6"],
            "nearest sizes: 4 or 8. v5e:2x2 has 4 chips: give each",
        ),
        (["--topology", "v5e:2x2", "--config.data.batch=6"], "did you mean 'batch_size'?"),
    ],
)
def test_mistakes_are_one_line(fake, capsys, arguments, message):
    assert command.main(["--config", TINY, *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


def test_amounts_have_three_digits_and_a_prefix():
    amounts = [
        (0.0123, "s"),
        (3.2e12, "FLOP"),
        (4, "B"),
        (826_468, "B"),
        (999.99, "B"),
        (0, "s"),
        (2.5e-6, "s"),
        (1e9, "B"),
    ]
    told = ["12.3 ms", "3.20 TFLOP", "4 B", "826 kB", "1000 B", "0 s", "2.50 µs", "1.00 GB"]
    assert [report.scaled(*amount) for amount in amounts] == told


@pytest.mark.slow
def test_the_tpu_compiler_makes_the_step_of_a_topology(tmp_path):
    """The command as it is typed, on a machine without a TPU."""
    pytest.importorskip("libtpu")
    target = tmp_path / "plan.json"
    arguments = ["--config", TINY, "--topology", "v4:2x2x1", "--batch-per-chip", "2", "--json", str(target)]
    environment = {key: value for key, value in os.environ.items() if key not in ("JAX_PLATFORMS", "XLA_FLAGS")}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "experiments.plan", *arguments],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "compiling 2 images per chip for v4:2x2x1 (float32) ...\n"
    plan = json.loads(target.read_text())
    assert plan["chips"] == 4 and plan["compiler"].startswith("libtpu 0.")
    assert plan["memory"]["limit"] == round(30.75 * 2**30) and plan["memory"]["fits"]
    reduced = [each for each in plan["collectives"] if each["operation"] == "all-reduce" and each["chips"] == 4]
    assert 4 * PARAMETERS <= sum(each["count"] * each["bytes"] for each in reduced) < 4 * PARAMETERS + 1000
    assert "does not know topology" not in done.stdout and "4  2x2x1" in done.stdout


@pytest.mark.slow
def test_the_tpu_compiler_refuses_what_it_does_not_know():
    pytest.importorskip("libtpu")
    with pytest.raises(SetupError, match="the TPU compiler does not know topology"):
        planning.devices_of(dataclasses.replace(HOST, chip=dataclasses.replace(HOST.chip, name="v0")))
