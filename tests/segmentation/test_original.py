"""Scores, label maps and pictures in pixels of the originals, of uneven sizes, however the canvas was looked at."""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from configs.common import semantic_segmentation as common
from jaxvision import config as configs
from jaxvision import experiment
from jaxvision.data import tf_loader
from jaxvision.data.table import Table
from jaxvision.data.tf_loader import TfLoader
from jaxvision.data.transforms import Letterbox, ResizeSide
from jaxvision.engine.evaluation import Evaluator
from jaxvision.engine.parallel import make_parallel
from jaxvision.engine.task import Context
from jaxvision.engine.tta import TTA, TTATask
from jaxvision.segmentation import original
from jaxvision.segmentation.dense_crf import DenseCRF
from jaxvision.segmentation.segmentor import Segmentor
from jaxvision.segmentation.task import SemanticSegmentationTask, map_of
from tests.conftest import strict

pytestmark = pytest.mark.usefixtures("unoptimized")
CLASSES, SIDES = 3, (12, 18)
FACTORS = np.float32([1.0, 1.0137, 0.9871])
"""Of the channels, so that no two of them are ever equal."""
SIZES = [(20, 30), (30, 20), (9, 14), (20, 30), (25, 24), (12, 33), (30, 20), (20, 30), (7, 7), (12, 18), (20, 29)]
WIDE, SQUARE = (20, 33), (30, 30)


class Eyes(nn.Module):
    """The image itself."""

    strides: ClassVar = {"c5": 1}

    @nn.compact
    def __call__(self, images, *, train):
        return {"c5": images}


class Plain(Segmentor):
    """Channels are logits."""

    def decode(self, levels, *, train):
        return levels["c5"] * FACTORS[None, None, None]


@pytest.fixture(scope="module")
def task():
    return SemanticSegmentationTask(Plain(Eyes(), CLASSES))


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Smooth images of uneven sizes, whose maps are about as bright channels say; 255 ignores."""
    folder, rng = tmp_path_factory.mktemp("originals"), np.random.default_rng(0)
    files = []
    for i, (height, width) in enumerate(SIZES):
        coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), np.uint8))
        image = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
        truth = image.argmax(2).astype(np.uint8)
        truth = np.where(rng.random(truth.shape) < 0.2, rng.choice(np.uint8([0, 1, 2, 255]), truth.shape), truth)
        files.append((str(folder / f"{i}.png"), str(folder / f"map {i}.png")))
        for array, file in zip((image, truth), files[-1], strict=True):
            Image.fromarray(array).save(file)
    columns = np.array(files, object).T
    return Table("maps", tuple("abc"), {"file": columns[0], "semantic_file": columns[1]})


@pytest.fixture(scope="module")
def loader(table):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tf_loader, "import_tensorflow", lambda: None)
        transforms = (ResizeSide(*SIDES), Letterbox(fill=99, upscale=False, centered=False))
        canvases = {"eval_buckets": (SIDES, SIDES[::-1]), "original_buckets": (WIDE, SQUARE)}
        options = {"transforms": transforms, "training": False, "workers": 1, **canvases}
        yield TfLoader(table, 4, image_size=SIDES, **options)


def prepared(batch, key=None):
    return {**batch, "image": batch["image"].astype(jnp.float32) / 255}


def resized(values, size):
    """Bilinear, corners not aligned, in float64 and pixel by pixel."""
    places = []
    for new, old in zip(size, values.shape, strict=False):
        source = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
        low = np.floor(source).astype(int)
        places.append((low, np.minimum(low + 1, old - 1), source - low))
    (top, bottom, y), (left, right, x) = places
    rows = values[top] * (1 - y)[:, None, None] + values[bottom] * y[:, None, None]
    return rows[:, left] * (1 - x)[None, :, None] + rows[:, right] * x[None, :, None]


def expected(batch, row):
    """Labels of one image at its original size."""
    height, width = batch["size"][row].astype(int)
    shown = batch["image"][row, :height, :width].astype(np.float64) * FACTORS
    return resized(shown, batch["original_size"][row]).argmax(2)


def test_scores_are_counted_on_the_pixels_of_the_originals(task, loader, table, monkeypatch):
    monkeypatch.setattr(original, "ROWS", 8)  # which no canvas is a multiple of
    counted = np.zeros((CLASSES, CLASSES), np.int64)
    batches = list(loader.evaluate())
    assert len({(b["image"].shape, b["semantic_original"].shape) for b in batches}) == 3 and len(batches) > 3
    assert any(not batch["valid"].all() for batch in batches)
    for batch in batches:
        for row in np.flatnonzero(batch["valid"]):
            truth, found = table.sample(int(batch["index"][row]))["semantic"], expected(batch, row)
            np.add.at(counted, (truth[truth < 255], found[truth < 255]), 1)
    parallel = make_parallel("pmap", 4)
    evaluator = Evaluator(task, parallel, preprocess=prepared, examples=len(SIZES))
    with strict():
        results = evaluator({}, [parallel.place(batch) for batch in batches])
    np.testing.assert_array_equal(results["confusion_matrix"], counted)
    assert counted.sum() == sum((table.sample(i)["semantic"] < 255).sum() for i in range(len(SIZES)))
    hits, true, said = np.diagonal(counted), counted.sum(1), counted.sum(0)
    assert results["miou"] == pytest.approx(np.mean(hits / (true + said - hits)))
    assert {index: map_of(prediction).shape for index, prediction in evaluator.examples} == dict(enumerate(SIZES))


def test_every_way_to_look_at_the_canvas_ends_at_the_original(task, loader):
    batch = next(loader.evaluate())
    same = {
        "whole": task,
        "windows": dataclasses.replace(task, window=(8, 8)),
        "views": TTATask(task, TTA(flips=("horizontal", "vertical"), on="logits")),
        # A field of no coupling leaves the softmax of the logits.
        "field": dataclasses.replace(task, crf=DenseCRF(smoothness=0.0, appearance=0.0, iterations=1)),
    }
    ready = jax.tree.map(jnp.asarray, prepared(batch))

    @jax.jit
    def said(batch):
        return {name: task.predict({}, batch, Context())[0] for name, task in same.items()}

    with strict():
        found = said(ready)
    for name, predictions in found.items():
        assert predictions["original_labels"].shape == batch["semantic_original"].shape
        assert predictions["original_labels"].dtype == predictions["labels"].dtype == jnp.uint8
        for row in range(len(batch["valid"])):
            one = jax.tree.map(lambda x, row=row: np.asarray(x[row]), predictions)
            agreed = (map_of(one) == expected(batch, row)).mean()
            # Probabilities are interpolated between classes otherwise than logits.
            assert agreed > 0.9 if name == "field" else agreed == 1, name


def test_predictions_are_told_by_the_labels_of_the_original(task):
    labels = np.random.default_rng(0).integers(0, CLASSES, (30, 30)).astype(np.uint8)
    prediction = {"labels": np.zeros((12, 18), np.uint8), "original_labels": labels}
    prediction |= {"original_size": np.int32([20, 27]), "to_original": np.diag(np.float32([1.5, 1.5, 1]))}
    np.testing.assert_array_equal(map_of(prediction), labels[:20, :27])
    told = task.to_json({}, prediction)
    assert told["size"] == [20, 27] and sum(one["area"] for one in told["classes"]) == 20 * 27


def test_data_sets_whose_images_are_resized_are_scored_at_their_original_size():
    canvases = {}
    for name, source in common.SOURCES.items():
        config = common.get_config("", dataset=name, crop=(64, 96))
        config.model = dict(name="fcn", num_classes=len(source["class_names"]))
        config.schedule = common.schedule(100, batch_size=8)
        config = common.complete(config)
        canvases[name] = tuple(map(tuple, config.data.original_buckets))
        largest = max(map(max, canvases[name]), default=None)
        assert largest == {"ade20k": 2112, "voc12": 500, "voc12aug": 500, "coco_stuff": 640}.get(name)
        chain = [one["name"] for one in config.data.eval_host_transforms]
        assert chain[0] == "resize_side" and set(chain[1:]) <= {"letterbox"}
    assert canvases["cityscapes"] == canvases["camvid"] == ()
    tiny = configs.load("segmentation/fcn_r50_d8_voc12aug:smoke").data.original_buckets
    assert tuple(map(tuple, tiny)) == ((64, 64),)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["segformer_b0_ade20k", "fcn_r50_d8_voc12aug"])
def test_the_full_size_evaluation_step_scores_originals(name):
    source = "dict(name='digit_scenes', num_examples=64, validation_examples=8, annotations=('semantic',))"
    config = configs.load(
        f"segmentation/{name}", [("data.source", source), ("model.num_classes", "11"), ("parallel.devices", "1")]
    )
    run = experiment.build(config)
    evaluator, classes = run.evaluator(), run.task.num_classes
    for canvas in map(tuple, config.data.original_buckets):
        batch = {**run.example, "semantic_original": np.empty((len(run.example["valid"]), *canvas), np.uint8)}
        given = (run.abstract_state().variables(), run.parallel.abstract_batch(batch), None, jax.random.key(0))
        with strict():
            sums, _, _, shown = jax.eval_shape(evaluator._step, *given)
        assert sums["segmentation"].shape == (classes, classes)
        assert shown["predictions"]["original_labels"].shape[-2:] == canvas
