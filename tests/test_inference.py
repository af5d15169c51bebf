"""Inference: kinds of input, padding, one compilation, workdirs, wrong checkpoints, and the predict command."""

import csv
import dataclasses
import itertools
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jaxvision as jv
from experiments import predict as command
from jaxvision import config as configs
from jaxvision import experiment
from jaxvision.data.faults import DataWarning
from jaxvision.data.images import ImageError, fit_image, read_image
from jaxvision.engine.checkpoints import CheckpointError, Checkpoints
from jaxvision.engine.task import Context, Task
from jaxvision.errors import SetupError
from jaxvision.inference import Inferencer, Result, expand
from jaxvision.loading import Model
from jaxvision.pretrained.safetensors import save_safetensors

NAMES = tuple(f"digit {i}" for i in range(10))


@dataclasses.dataclass(frozen=True)
class Brightness(Task):
    """Predicts the mean pixel: an answer that is known without training."""

    traces: list = dataclasses.field(default_factory=list, hash=False)

    def predict(self, variables, batch, ctx, carry=None):
        self.traces.append(batch["image"].shape)
        mean = jnp.mean(batch["image"].astype(ctx.dtype), axis=(1, 2, 3))
        return {"mean": mean * variables["params"]["scale"], "valid": batch["valid"]}, carry

    def draw(self, sample, prediction):
        return np.full((4, 6, 3), sample["image"].shape[0], np.uint8)

    def to_json(self, sample, prediction):
        return {"mean": float(prediction["mean"])}


def brightness(batch_size=4, size=(2, 2), **options):
    variables = {"params": {"scale": np.float32(1)}}
    return Inferencer(
        Model(Brightness(), variables, size, 1, lambda batch, key: batch), batch_size=batch_size, **options
    )


def write_image(path, value, shape=(5, 7, 3)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(shape, value, np.uint8)).save(path)
    return path


@pytest.mark.parametrize("count", [1, 3, 4, 5, 11])
def test_results_come_in_order_for_any_number_of_images_from_one_compilation(count):
    infer = brightness()
    images = [np.full((3, 5), 10 * i, np.uint8) for i in range(count)]
    results = infer(images)
    assert [r.json["mean"] for r in results] == [10.0 * i for i in range(count)]
    assert all(r.prediction["valid"] and r.path is None for r in results)
    infer(images[0])
    assert infer.model.task.traces == [(4, 2, 2, 1)] and infer._predict._cache_size() == 1


def test_what_is_given_decides_between_one_result_and_a_list(tmp_path):
    infer = brightness()
    file = write_image(tmp_path / "b" / "two.PNG", 20)
    write_image(tmp_path / "a.jpg", 10)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "folder.png").mkdir()

    def means(inputs):
        found = infer(inputs)
        return found.json["mean"] if isinstance(found, Result) else [r.json["mean"] for r in found]

    assert means(file) == means(str(file)) == 20.0
    assert means(np.full((4, 4, 3), 7, np.uint8)) == 7.0
    assert means(np.full((2, 4, 4, 1), 7, np.uint8)) == [7.0, 7.0]
    assert means(jnp.full((4, 4), 7, jnp.uint8)) == 7.0
    assert means([file]) == means(iter([file])) == [20.0]
    assert means(tmp_path) == [10.0, 20.0]
    assert means(str(tmp_path / "**" / "*")) == [10.0, 20.0]
    assert means([file, tmp_path, np.zeros((1, 1), np.uint8)]) == [20.0, 10.0, 20.0, 0.0]


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path):
    file = write_image(tmp_path / "picture[1].png", 3)
    assert expand(str(file)) == ([str(file)], True)


@pytest.mark.parametrize(
    "make, error, message",
    [
        (
            lambda path: path / "missing.png",
            FileNotFoundError,
            "no such image or video file, folder or pattern: .*missing.png",
        ),
        (lambda path: path, FileNotFoundError, r"folder .* has no image or video \(looked for .avif"),
        (lambda path: str(path / "*.png"), FileNotFoundError, "no image matches the pattern"),
        (lambda path: [], ValueError, "the list is empty"),
        (lambda path: np.zeros((4, 4), np.float32), ImageError, "image is float32 .*expected uint8"),
        (lambda path: np.zeros((4,), np.uint8), ImageError, "expected uint8"),
    ],
)
def test_inputs_that_are_no_image_are_refused(tmp_path, make, error, message):
    with pytest.raises(error, match=message):
        brightness()(make(tmp_path))


def test_an_unreadable_file_is_named(tmp_path):
    write_image(tmp_path / "a.png", 1)
    (tmp_path / "broken.png").write_bytes(b"this is no image")
    with pytest.raises(ImageError, match=r"broken\.png"):
        brightness()(tmp_path)


def test_unreadable_files_among_many_can_be_skipped(tmp_path):
    for i in range(5):
        write_image(tmp_path / f"{i}.png", 10 * i)
    for name in ("0a.png", "3a.png"):
        (tmp_path / name).write_bytes(b"this is no image")
    infer = brightness(batch_size=2)
    with pytest.warns(DataWarning, match=r"3 input\(s\) left out \(.*0a\.png.*3a\.png.*missing\.png"):
        found = infer([tmp_path, tmp_path / "missing.png"], on_error="skip")
    assert [result.json["mean"] for result in found] == [0, 10, 20, 30, 40]
    left = []
    found = list(infer.iterate(tmp_path, on_error=lambda name, error: left.append((name, str(error)))))
    assert len(found) == 5 and [name for name, _ in left] == [str(tmp_path / n) for n in ("0a.png", "3a.png")]
    assert "not an image that is recognised" in left[0][1]
    with pytest.raises(ValueError, match=r"nothing could be read: cannot read image .*0a\.png"):
        infer(tmp_path / "0a.png", on_error="skip")
    with pytest.raises(ValueError, match="on_error='ignore': expected 'raise', 'skip' or a function"):
        infer(tmp_path, on_error="ignore")
    results = infer.iterate([tmp_path / "1.png", tmp_path / "2.png", tmp_path / "3a.png"])
    assert next(results).json["mean"] == 10 and next(results).json["mean"] == 20
    with pytest.raises(ImageError, match=r"3a\.png"):
        next(results)
    assert len(infer.model.task.traces) == 1, "whatever is left out, the batch has its size"


def test_files_of_an_endless_iterable_are_read_as_they_are_consumed(tmp_path):
    file = write_image(tmp_path / "a.png", 10)
    asked = []

    def files():
        for i in itertools.count():
            asked.append(i)
            yield file

    results = brightness(batch_size=2).iterate(files())
    for count in range(1, 20):
        assert next(results).json["mean"] == 10 and len(asked) - count <= 4
    results.close()


def test_a_result_draws_the_original_image(tmp_path):
    file = write_image(tmp_path / "a.png", 20, shape=(9, 3, 3))
    infer = brightness()
    assert (infer(file).picture() == 9).all() and infer(file).image is None
    result = infer(np.zeros((6, 2), np.uint8))
    result.save(tmp_path / "new" / "picture.png")
    assert (read_image(tmp_path / "new" / "picture.png") == 6).all()


def test_batches_of_less_than_one_image_are_refused():
    with pytest.raises(ValueError, match="batch_size is 0"):
        brightness(batch_size=0)


def trained(config, scale=1.0):
    """A task of the config with random variables."""
    task = experiment.build_task(config, class_names=NAMES, num_classes=10)
    shape = (1, *config.data.image_size, config.data.channels)
    variables = task.init(jax.random.key(0), {"image": jnp.zeros(shape)})
    return task, jax.tree.map(lambda x: np.asarray(x) + np.float32(scale * 0.1), variables)


def save_steps(workdir, variables, steps=(2,), ema=None, metrics=None):
    with Checkpoints(workdir / "checkpoints", max_to_keep=5, best_metric="top1") as checkpoints:
        for number, step in enumerate(steps):
            state = {
                "step": np.int32(step),
                "params": jax.tree.map(lambda x, n=number: x + np.float32(n), variables["params"]),
                "collections": {name: value for name, value in variables.items() if name != "params"},
                "frozen": {},
                "ema": ema or {},
            }
            checkpoints.save(step, state, metrics=metrics[number] if metrics else None)


def write_run(workdir, name="linear_digits:smoke", **arguments):
    """A workdir as a run leaves it; returns its config, task and the variables of its first checkpoint."""
    config = configs.load(name, [("checkpoint.best_metric", "top1")])
    task, variables = trained(config)
    workdir.mkdir(parents=True)
    (workdir / "config.json").write_text(configs.to_json(config))
    (workdir / "meta.json").write_text(json.dumps({"class_names": NAMES, "num_classes": 10}))
    save_steps(workdir, variables, **arguments)
    return config, task, variables


def some_images(count=3):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (12, 9, 3), dtype=np.uint8) for _ in range(count)]


def expected_scores(config, task, variables, images):
    batch = {"image": np.stack([fit_image(i, tuple(config.data.image_size), config.data.channels) for i in images])}
    batch["position"] = np.zeros(len(images), np.uint32)
    batch = experiment.build_preprocess(config, train=False)(batch, jax.random.key(0))
    return np.asarray(task.predict(variables, batch, Context())[0]["scores"])


def scores_of(results):
    return np.stack([result.prediction["scores"] for result in results])


def test_a_workdir_predicts_as_its_task_does(tmp_path):
    config, task, variables = write_run(tmp_path / "run")
    images = some_images(5)
    infer = Inferencer(tmp_path / "run", batch_size=2)
    results = infer(images)
    np.testing.assert_allclose(scores_of(results), expected_scores(config, task, variables, images), atol=1e-6)
    assert results[0].json["class"] == NAMES[results[0].prediction["label"]]
    assert infer.model.origin.startswith("step 2 of ")
    assert Inferencer(str(tmp_path / "run" / "config.json")).model.task == infer.model.task


def change_saved(workdir, change):
    document = json.loads((workdir / "config.json").read_text())
    change(document["config"])
    (workdir / "config.json").write_text(json.dumps(document))


def test_a_workdir_from_before_a_config_field_existed_still_predicts(tmp_path):
    config, task, variables = write_run(tmp_path / "run")
    change_saved(tmp_path / "run", lambda saved: (saved["evaluation"].pop("tta"), saved["data"].pop("repeats")))
    images = some_images(2)
    expected = expected_scores(config, task, variables, images)
    np.testing.assert_allclose(scores_of(Inferencer(tmp_path / "run")(images)), expected, atol=1e-6)
    assert configs.load(tmp_path / "run") == config
    picture = write_image(tmp_path / "one.png", 9)
    told = ["--config", str(tmp_path / "run"), "--input", str(picture), "--output", str(tmp_path / "out")]
    assert command.main(told) == 0


def test_a_saved_field_that_is_unknown_is_named(tmp_path):
    write_run(tmp_path / "run")
    change_saved(tmp_path / "run", lambda saved: saved["evaluation"].update(ttta=None))
    with pytest.raises(configs.ConfigError, match=r"unknown key evaluation\.ttta.*'tta'"):
        Inferencer(tmp_path / "run")


def test_steps_are_chosen_by_number_by_path_and_as_the_best(tmp_path):
    metrics = [{"top1": 0.1}, {"top1": 0.9}, {"top1": 0.5}]
    _, _, variables = write_run(tmp_path / "run", steps=(2, 4, 6), metrics=metrics)

    def number(source, checkpoint=None):
        """Which of the three checkpoints was taken, told by its weights."""
        model = Inferencer(source, checkpoint).model
        shift = jax.tree.map(lambda a, b: float(np.mean(a - b)), model.variables["params"], variables["params"])
        return round(jax.tree.leaves(shift)[0])

    run = tmp_path / "run"
    assert [number(run), number(run, "best"), number(run, 2), number(run, "4")] == [2, 1, 0, 1]
    assert number("linear_digits:smoke", run) == 2
    assert number("linear_digits:smoke", run / "checkpoints") == 2
    assert number("linear_digits:smoke", str(run / "checkpoints" / "4")) == 1
    assert number("linear", run / "checkpoints" / "4") == 1
    with pytest.raises(CheckpointError, match="no checkpoint of step 5"):
        Inferencer(run, 5)


def test_averaged_weights_are_preferred_and_named(tmp_path):
    config = configs.load("linear_digits:smoke")
    _, variables = trained(config, scale=7.0)
    write_run(tmp_path / "run", ema={"params": variables["params"]})
    model = Inferencer(tmp_path / "run").model
    jax.tree.map(np.testing.assert_array_equal, model.variables["params"], variables["params"])
    assert model.origin.endswith("(averaged weights)")


def test_frozen_parameters_and_batch_statistics_are_restored(tmp_path):
    config = configs.load("resnet18_cifar10_subset:smoke")
    task, variables = trained(config)
    held = {"backbone": variables["params"]["backbone"]}
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(configs.to_json(config))
    state = {
        "params": {"head": variables["params"]["head"]},
        "frozen": held,
        "collections": {"batch_stats": variables["batch_stats"]},
        "ema": {},
    }
    with Checkpoints(tmp_path / "run" / "checkpoints") as checkpoints:
        checkpoints.save(1, state)
    model = Inferencer(tmp_path / "run").model
    assert jax.tree.structure(model.variables) == jax.tree.structure(variables)
    jax.tree.map(np.testing.assert_array_equal, model.variables, variables)
    assert model.task.class_names == () and model.task.num_classes == task.num_classes


def test_weights_of_a_safetensors_file_go_with_a_config_or_carry_their_own(tmp_path):
    config = configs.load("linear_digits:smoke")
    task, variables = trained(config)
    images = some_images()
    expected = expected_scores(config, task, variables, images)
    save_safetensors(tmp_path / "plain.safetensors", variables)
    meta = json.dumps({"class_names": NAMES, "num_classes": 10})
    metadata = {"config": configs.to_json(config), "meta": meta}
    save_safetensors(tmp_path / "full.safetensors", variables, metadata)
    plain = Inferencer("linear_digits:smoke", tmp_path / "plain.safetensors")(images)
    full = Inferencer("linear", tmp_path / "full.safetensors")(images)
    np.testing.assert_allclose(scores_of(plain), expected, atol=1e-6)
    np.testing.assert_allclose(scores_of(full), expected, atol=1e-6)
    assert plain[0].json["class"] == str(plain[0].json["label"])
    assert full[0].json["class"] == NAMES[full[0].json["label"]]
    with pytest.raises(ValueError, match=r"without a config.*give the config instead"):
        Inferencer("linear", tmp_path / "plain.safetensors")
    with pytest.raises(ValueError, match="belongs to the model 'linear', asked for 'lenet5'"):
        Inferencer("lenet5", tmp_path / "full.safetensors")


def test_a_checkpoint_of_another_model_is_one_error_with_every_difference(tmp_path):
    write_run(tmp_path / "run")
    with pytest.raises(ValueError, match="wrong checkpoint") as error:
        Inferencer("lenet5_digits:smoke", tmp_path / "run")
    assert "missing     params/backbone/" in str(error.value) and "shape       params/head/kernel" in str(error.value)


@pytest.mark.parametrize(
    "source, checkpoint, error, message",
    [
        ("linear_digits", None, ValueError, "no checkpoint: 'linear_digits' is no workdir.*--checkpoint"),
        ("linear_digits", "best", ValueError, "names a step of a workdir"),
        ("linear_digits", "missing", FileNotFoundError, "no such checkpoint: missing"),
        ("linear_digits", "empty", CheckpointError, "no checkpoint"),
        ("linear_digits", "weights.pth", ValueError, "weights.pth: neither a zip archive nor a pickle"),
        ("linear_digitz", "empty", configs.ConfigError, "did you mean 'linear_digits'"),
        ("empty", None, ValueError, "folder without config.json: expected the workdir of a run"),
    ],
)
def test_missing_parts_are_named(tmp_path, monkeypatch, source, checkpoint, error, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "weights.pth").write_bytes(b"0")
    with pytest.raises(error, match=message):
        Inferencer(source, checkpoint)


def test_a_workdir_without_checkpoints_is_told(tmp_path):
    (tmp_path / "config.json").write_text(configs.to_json(configs.load("linear_digits:smoke")))
    with pytest.raises(CheckpointError, match="no checkpoints at"):
        Inferencer(tmp_path)


def test_python_files_of_a_workdir_are_not_executed(tmp_path, monkeypatch):
    write_run(tmp_path / "run")
    for name in ("config.py", "sitecustomize.py", "configs/__init__.py", "jaxvision/__init__.py"):
        path = tmp_path / "run" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("raise SystemExit('executed')")
    monkeypatch.chdir(tmp_path / "run")
    assert Inferencer(".")(some_images(1)[0]).json["class"] in NAMES


def test_modules_of_a_workdir_are_refused_and_others_imported(tmp_path, monkeypatch):
    write_run(tmp_path / "runs" / "a")
    (tmp_path / "runs" / "a" / "planted.py").write_text("raise SystemExit('executed')")
    (tmp_path / "jaxvision_test_own.py").write_text("IMPORTED = True")

    def imports(*names):
        change_saved(tmp_path / "runs" / "a", lambda saved: saved.update(imports=names))
        return Inferencer(tmp_path / "runs" / "a")

    monkeypatch.chdir(tmp_path / "runs" / "a")
    with pytest.raises(configs.ConfigError, match="no module named 'planted'"):
        imports("planted")
    assert str(tmp_path / "runs" / "a") not in sys.path
    monkeypatch.syspath_prepend(tmp_path / "runs" / "a")
    with pytest.raises(configs.ConfigError, match="'planted' lies in .*a workdir, of which nothing is executed"):
        imports("planted")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(configs.ConfigError, match=r"'runs\.a\.planted' lies in"):
        imports("runs.a.planted")
    assert imports("jaxvision_test_own") and sys.modules.pop("jaxvision_test_own").IMPORTED


def test_devices_that_are_not_there_are_told():
    with pytest.raises(
        SetupError, match=r"no gpu for device='gpu': JAX has cpu:0, cpu:1.*pip install 'jaxvision\[cuda\]'"
    ):
        brightness(device="gpu")
    with pytest.raises(SetupError, match=r"no device 'cpu:9': JAX has cpu:0 to cpu:7"):
        brightness(device="cpu:9")
    with pytest.raises(SetupError, match="unknown device 'gpo': expected cpu, gpu or tpu"):
        brightness(device="gpo")
    infer = brightness(device="cpu:3")
    assert infer(np.full((3, 3), 7, np.uint8)).json["mean"] == 7
    assert {d.id for leaf in jax.tree.leaves(infer._variables) for d in leaf.devices()} == {3}


def test_three_lines_predict_and_draw(tmp_path):
    write_run(tmp_path / "run")
    image = write_image(tmp_path / "a.png", 30)
    model = jv.init_model(tmp_path / "run", device="cpu", batch_size=1)
    result = jv.inference_model(model, image)
    assert result.json["class"] in NAMES and len(jv.inference_model(model, [image, image])) == 2
    picture = jv.show_result_pyplot(model, image, result, out_file=tmp_path / "out.png")
    np.testing.assert_array_equal(picture, result.picture())
    np.testing.assert_array_equal(read_image(tmp_path / "out.png"), picture)
    other = jv.show_result_pyplot(model, np.zeros((5, 7, 3), np.uint8), result, show=False)
    assert other.shape == picture.shape and (other != picture).any()
    with pytest.warns(UserWarning, match="no display for pyplot .*out_file='result.png'"):
        jv.show_result_pyplot(model, None, result)
    with pytest.raises(SetupError, match=r"it draws one Result, such as results\[0\]"):
        jv.show_result_pyplot(model, image, [result])


def run_command(*arguments):
    return command.main([str(argument) for argument in arguments])


def test_the_command_writes_pictures_json_and_a_contact_sheet(tmp_path, capsys):
    write_run(tmp_path / "run")
    for place, image in enumerate(some_images()):
        path = tmp_path / "images" / str(place) / "same_name.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(image).save(path)
    output = tmp_path / "output"
    assert run_command("--config", tmp_path / "run", "--input", tmp_path / "images", "--output", output) == 0
    rows = json.loads((output / "predictions.json").read_text())
    assert [row["file"] for row in rows] == [str(tmp_path / f"images/{i}/same_name.png") for i in range(3)]
    pictures = [row["picture"] for row in rows]
    assert pictures == [f"same_name{n}_prediction.png" for n in ("", "_2", "_3")]
    assert all(row["class"] in NAMES and 0 <= row["score"] <= 1 and len(row["top5"]) == 5 for row in rows)
    files = ["classes.csv", "contact_sheet.png", "predictions.json", *pictures]
    assert sorted(p.name for p in output.iterdir()) == sorted(files)
    with (output / "classes.csv").open() as stream:
        table = list(csv.DictReader(stream))
    assert len(table) == 15 and [line["rank"] for line in table[:5]] == list("12345")
    assert [line["class"] for line in table[::5]] == [row["class"] for row in rows]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("weights: step 2 of")
    for row, line in zip(rows, lines[1:4], strict=True):
        assert line.split("  ")[0] == row["file"] and row["class"] in line and f"{row['score']:.4f}" in line
    assert lines[4] == f"wrote predictions.json, classes.csv, 3 pictures, contact_sheet.png of 3 to {output}"


def test_the_command_on_one_image_writes_no_contact_sheet(tmp_path):
    write_run(tmp_path / "run")
    file = write_image(tmp_path / "one.png", 30)
    assert run_command("--config", tmp_path / "run", "--input", file, "--output", tmp_path) == 0
    assert (tmp_path / "one_prediction.png").exists() and not (tmp_path / "contact_sheet.png").exists()
    assert (read_image(file) == 30).all()


def test_mistakes_end_the_command_with_one_line(tmp_path, capsys):
    write_run(tmp_path / "run")
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    for config, image, message in (
        (tmp_path / "run", tmp_path / "missing.png", "no such image or video file"),
        (tmp_path / "run", broken, "broken.png"),
        ("linear_digits", write_image(tmp_path / "one.png", 1), "no checkpoint"),
        ("linear_digitz", tmp_path / "one.png", "no checkpoint"),
    ):
        assert run_command("--config", config, "--input", image, "--output", tmp_path / "output") == 2
        errors = capsys.readouterr().err.strip()
        assert errors.startswith("error: ") and message in errors and "\n" not in errors


def test_the_command_goes_on_without_what_it_cannot_read(tmp_path, capsys):
    write_run(tmp_path / "run")
    for name in ("a", "b"):
        write_image(tmp_path / "images" / f"{name}.png", 30)
    (tmp_path / "images" / "broken.png").write_bytes(b"no image")
    given = ("--config", tmp_path / "run", "--output", tmp_path / "out", "--no-pictures", "--top-k", 2)
    given = (*given, "--skip-unreadable", "--input", tmp_path / "images", tmp_path / "missing.png")
    assert run_command(*given) == 0
    rows = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [len(row["top2"]) for row in rows] == [2, 2] and "picture" not in rows[0]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["classes.csv", "predictions.json"]
    left = capsys.readouterr().err.splitlines()
    assert ["missing.png" in left[0], "broken.png" in left[1], len(left)] == [True, True, 2]
    assert run_command(*given[:-2], tmp_path / "missing.png") == 2
    assert capsys.readouterr().err.startswith("error: none of the inputs is there: no such image or video file")
    assert run_command(*given[:-2], tmp_path / "images" / "broken.png") == 2
    assert "nothing could be read: cannot read image" in capsys.readouterr().err
    assert run_command(*given, "--device", "gpu") == 2
    assert "no gpu for device='gpu': JAX has cpu:0" in capsys.readouterr().err
