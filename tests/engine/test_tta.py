"""Test-time augmentation: the geometry of views against coordinates, merging, the wrapper, configs and the command."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import predict as command
from jaxvision import config as configs
from jaxvision import experiment
from jaxvision.augment.views import View
from jaxvision.classification.task import ClassificationTask
from jaxvision.engine.task import Context, Task
from jaxvision.engine.tta import TTA, TTATask, augmented, five_crop, ten_crop
from jaxvision.inference import Inferencer
from tests.conftest import strict
from tests.test_inference import scores_of, some_images, write_image, write_run


def coordinates(height, width):
    """An image whose two channels are x and y of each pixel's centre."""
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    return jnp.asarray(np.stack([x, y], -1)[None], jnp.float32)


def every_view(size):
    views = TTA(flips=("horizontal", "vertical"), rotations=(90, 180, 270)).views(size)
    crops = [dataclasses.replace(view, crop=(1, 2, 3, 2)) for view in views]
    return [*views, *crops]


@pytest.mark.parametrize("view", every_view((5, 7)), ids=lambda v: f"{v.horizontal}{v.vertical}{v.turns}{bool(v.crop)}")
def test_points_boxes_and_maps_come_back_to_the_pixels_that_the_view_shows(view):
    image = coordinates(*view.size)
    with strict():
        shown = view(image)
        assert shown.shape[1:3] == view.shown
        own = coordinates(*view.shown)
        np.testing.assert_allclose(view.invert_points(own), shown, atol=1e-5)
        boxes = jnp.asarray([[0.0, 0.0, 2.0, 1.0]])
        corners = view.invert_points(jnp.asarray([[0.0, 0.0], [2.0, 1.0]]))
        expected = np.concatenate([np.min(corners, 0), np.max(corners, 0)])
        np.testing.assert_allclose(view.invert_boxes(boxes)[0], expected, atol=1e-6)
        if view.crop is None:
            np.testing.assert_array_equal(view.invert_maps(shown), image)
            labels = jnp.asarray(np.arange(35).reshape(1, 5, 7), jnp.int32)
            turned = np.asarray(view(labels[..., None].astype(jnp.float32)))[..., 0].astype(np.int32)
            np.testing.assert_array_equal(view.invert_maps(jnp.asarray(turned)), labels)
        else:
            with pytest.raises(ValueError, match="a crop shows a part"):
                view.invert_maps(shown)


def test_points_of_a_scaled_and_turned_view_come_back():
    view = View((8, 12), horizontal=True, turns=1, scale=1.5)
    assert view.shown == (18, 12)
    corners = jnp.asarray([[0.0, 0.0], [12.0, 18.0]])
    np.testing.assert_allclose(view.invert_points(corners), [[0.0, 0.0], [12.0, 8.0]], atol=1e-6)


def test_maps_of_a_coarser_grid_come_back_to_the_grid_of_the_image():
    view = View((32, 64), scale=1.5, turns=1)
    maps = jnp.zeros((2, 96 // 8, 48 // 8, 3))
    assert view.invert_maps(maps).shape == (2, 4, 8, 3)


def test_views_are_the_product_of_all_choices_with_the_image_as_it_is():
    assert TTA().views((4, 4)) == (View((4, 4)),)
    assert len(TTA(flips=("horizontal",), rotations=(90, 270), scales=(2.0,), offsets=(0.1,)).views((4, 6))) == 24
    crops = [view.crop for view in five_crop((2, 3)).views((5, 6))]
    assert crops == [(0, 0, 2, 3), (3, 0, 2, 3), (3, 3, 2, 3), (0, 3, 2, 3), (1, 2, 2, 3)]
    assert len(ten_crop((2, 2)).views((5, 6))) == 10
    with pytest.raises(ValueError, match=r"crop of \(8, 8\) does not fit into \(4, 6\)"):
        five_crop((8, 8)).views((4, 6))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(flips=("left",)), "flips has 'left', expected some of horizontal, vertical"),
        (dict(rotations=(45,)), "rotations has 45"),
        (dict(merge="maen"), "did you mean 'mean'"),
        (dict(merge="gmean", on="logits"), "logits may be negative"),
        (dict(scales=(0.0,)), "expected positive numbers"),
    ],
)
def test_settings_that_mean_nothing_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        TTA(**arguments)


@pytest.mark.parametrize("merge", ["mean", "gmean", "max", "min", "tsharpen"])
def test_merging_equals_numpy(merge):
    scores = np.random.default_rng(0).random((10, 4, 3)) ** 8 + 1e-6  # products of these underflow
    expected = {
        "mean": scores.mean(0),
        "gmean": np.prod(scores, axis=0) ** 0.1,
        "max": scores.max(0),
        "min": scores.min(0),
        "tsharpen": np.sqrt(scores).mean(0),
    }[merge]
    with strict():
        found = TTA(merge=merge).merged(list(jnp.asarray(scores, jnp.float32)))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@dataclasses.dataclass(frozen=True)
class TopLeft(Task):
    """The dense task of the tests: a map that is the image itself, and the number of traces of its model."""

    traces: list = dataclasses.field(default_factory=list, hash=False)

    def predict(self, variables, batch, ctx, carry=None):
        self.traces.append((batch["image"].shape, batch["size"].shape))
        return {"map": batch["image"] * variables["scale"]}, carry

    def invert(self, predictions, view):
        return {"map": view.invert_maps(predictions["map"])}

    def merged(self, entries):
        return dict(entries)


def test_a_model_is_traced_once_for_all_views_of_one_size():
    tta = TTA(flips=("horizontal",), rotations=(90, 180, 270), factors=(2.0,))
    task = TTATask(TopLeft(), tta)
    image = coordinates(4, 6)
    variables = {"scale": jnp.ones(())}
    batch = {"image": image, "size": jnp.asarray([[4.0, 6.0]])}
    found, carry = jax.jit(lambda: task.predict(variables, batch, Context()))()
    np.testing.assert_allclose(found["map"], 1.5 * image, rtol=1e-6)
    assert carry is None and set(task.task.traces) == {((1, 4, 6, 2), (1, 2)), ((1, 6, 4, 2), (1, 2))}
    assert augmented(task, None) is task.task and augmented(task, TTA()).task is task.task


def test_a_task_without_inverse_says_so():
    @dataclasses.dataclass(frozen=True)
    class Bare(Task):
        def predict(self, variables, batch, ctx, carry=None):
            return {"x": batch["image"]}, carry

    with pytest.raises(NotImplementedError, match=r"Bare has no test-time augmentation: it defines no invert"):
        TTATask(Bare(), TTA()).predict({}, {"image": jnp.zeros((1, 4, 4, 1))}, Context())


@pytest.mark.parametrize("criterion", ["cross_entropy", "binary_cross_entropy"])
def test_classification_merges_scores_and_keeps_logits_that_give_them(criterion):
    class Model:
        num_classes = 3

    with strict():
        task = ClassificationTask(Model(), criterion=criterion)
        logits = jnp.asarray([[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]])
        predicted = task.merged({"logits": logits})
        again = task.merged({"scores": predicted["scores"]})
        np.testing.assert_allclose(again["scores"], task.merged({"logits": again["logits"]})["scores"], rtol=1e-5)
    np.testing.assert_allclose(again["scores"], predicted["scores"], rtol=1e-6)
    np.testing.assert_array_equal(again["label"], [0, 1])
    assert tuple(task.invert(predicted, View((4, 4)))) == ("scores", "logits")


def test_a_config_says_what_evaluation_and_prediction_do(tmp_path):
    config, _, _ = write_run(tmp_path / "run")
    images = some_images(3)
    plain = scores_of(Inferencer(tmp_path / "run")(images))
    mirrored = scores_of(Inferencer(tmp_path / "run", tta="hflip")(images))
    by_hand = scores_of(Inferencer(tmp_path / "run")([image[:, ::-1] for image in images]))
    np.testing.assert_allclose(mirrored, (plain + by_hand) / 2, atol=1e-5)
    text = 'dict(name="views", flips=("horizontal",), merge="max")'
    largest = scores_of(Inferencer(tmp_path / "run", tta=text)(images))
    np.testing.assert_allclose(largest, np.maximum(plain, by_hand), atol=1e-5)

    changed = configs.load("linear_digits:smoke", [("evaluation.tta", "hflip"), ("checkpoint.best_metric", "top1")])
    (tmp_path / "run" / "config.json").write_text(configs.to_json(changed))
    infer = Inferencer(tmp_path / "run")
    np.testing.assert_allclose(scores_of(infer(images)), mirrored, atol=1e-6)
    np.testing.assert_allclose(scores_of(Inferencer(tmp_path / "run", tta=None)(images)), plain, atol=1e-6)
    run = experiment.build(changed)
    assert type(run.task) is ClassificationTask and config.evaluation.tta is None
    batches = (run.parallel.place(batch) for batch in run.data.evaluation.evaluate())
    results = run.evaluator()(run.parallel.create(lambda: infer.model.variables), batches)
    assert 0 <= results["top1"] <= 1 and np.isfinite(results["loss"])


def test_a_misspelt_name_is_one_line(tmp_path, capsys):
    with pytest.raises(configs.ConfigError, match="did you mean 'hflip'"):
        configs.load("linear_digits", [("evaluation.tta", "hlfip")])
    write_run(tmp_path / "run")
    file = write_image(tmp_path / "a.png", 30)
    arguments = ["--config", str(tmp_path / "run"), "--input", str(file), "--output", str(tmp_path / "out")]
    assert command.main([*arguments, "--tta", "hlfip"]) == 2
    assert "did you mean 'hflip'" in capsys.readouterr().err
    assert command.main([*arguments, "--tta", "d4"]) == 0
    assert len(json.loads((tmp_path / "out" / "predictions.json").read_text())) == 1
