"""The detection task in the engine's step and evaluation, and what it tells and draws."""

import dataclasses

import jax
import numpy as np
import optax
import pytest

from jaxvision.detection.task import DetectionTask
from jaxvision.engine.evaluation import Evaluator
from jaxvision.engine.parallel import make_parallel
from jaxvision.engine.task import Context
from jaxvision.structures import Detections
from tests.conftest import strict
from tests.detection.made import batch_of, tiny
from tests.engine.running import UNEVEN, arrays, run

pytestmark = pytest.mark.usefixtures("unoptimized")
TASK = DetectionTask(tiny(), class_names=("a", "b", "c"))
COUNTS = [0, 3, 1, 0, 4, 2, 0, 0, 1, 4, 0, 0, 2, 0, 3, 1]


def train(kind, devices, **settings):
    batch = batch_of(COUNTS, valid=UNEVEN)
    return run(TASK, kind, devices, batch=batch, steps=2, optimizer=optax.sgd(0.01), **settings)


@pytest.fixture(scope="module")
def one_device():
    return train("jit", 1)


@pytest.mark.parametrize(
    ("kind", "devices", "settings"),
    [("pmap", 2, {}), ("shard_map", 8, {"check": True}), ("jit", 1, {"accumulate": 4})],
)
def test_devices_and_micro_batches_equal_one_device_on_the_global_batch(one_device, kind, devices, settings):
    """Positives are uneven, and some devices have no valid image. With `check`, no reduction was forgotten."""
    (state, history, _), (expected, expected_history, _) = train(kind, devices, **settings), one_device
    for got, want in zip(arrays(state), arrays(expected), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)
    assert set(history[0]) >= {"loss", "classification_loss", "box_loss"}
    for got, want in zip(history, expected_history, strict=True):
        for name in want:
            np.testing.assert_allclose(got[name], want[name], rtol=1e-4, atol=1e-6, err_msg=name)


def initialised(batch):
    return jax.jit(TASK.init)(jax.random.key(0), batch)


def test_the_loss_is_the_sum_of_its_terms():
    batch = batch_of([2, 1])
    variables = initialised(batch)
    with strict():
        loss, aux = jax.jit(lambda v, b: TASK.loss(v["params"], {}, b, Context(train=True)))(variables, batch)
    terms = {name: float(total / count) for name, (total, count) in aux.metrics.items()}
    assert loss == pytest.approx(sum(terms.values()), rel=1e-6) and set(terms) == {"classification_loss", "box_loss"}


def test_detections_are_in_pixels_of_the_original_image():
    batch = batch_of([1, 1])
    variables = initialised(batch)
    model = dataclasses.replace(
        TASK.model, suppression=dataclasses.replace(TASK.model.suppression, score_threshold=0.0)
    )
    task = dataclasses.replace(TASK, model=model)
    with strict():
        found, _ = jax.jit(lambda v, b: task.predict(v, b, Context()))(variables, batch)
        own = jax.jit(lambda v, b: model.predict(model.apply(v, {"image": b["image"]}), b["size"]))(variables, batch)
    assert found.valid.any()
    np.testing.assert_allclose(found.boxes, 2 * own.boxes, rtol=1e-5, atol=1e-4)
    assert (np.asarray(found.boxes) <= [96, 64, 96, 64]).all()


@dataclasses.dataclass(frozen=True)
class Oracle(DetectionTask):
    """Says the truth."""

    def predict(self, variables, batch, ctx, carry=None):
        targets = batch["targets"]
        found = Detections(2 * targets.boxes, 0.9 * targets.valid, targets.labels, targets.valid)
        return found, carry


def test_an_evaluation_of_the_truth_reaches_one_on_devices_with_padding_and_keeps_examples():
    batch = batch_of(COUNTS, valid=np.arange(16) < 11)
    task = dataclasses.replace(Oracle(TASK.model), protocols=("coco", "voc", "voc07"))
    for kind, devices in (("jit", 1), ("pmap", 8)):
        parallel = make_parallel(kind, devices)
        evaluator = Evaluator(task, parallel, examples=3)
        results = evaluator({"params": {}}, [parallel.place(batch), parallel.place(batch)])
        assert [results[name] for name in ("ap", "voc_ap", "voc07_ap")] == pytest.approx([1.0] * 3)
        assert [index for index, _ in evaluator.examples] == [0, 1, 2]
        np.testing.assert_array_equal(evaluator.examples[1][1].boxes, 2 * batch["targets"].boxes[1])


def prediction():
    boxes = np.array([[10, 20, 40, 60], [0, 0, 5, 5], [0, 0, 0, 0]], np.float32)
    return Detections(boxes, np.array([0.75, 0.2, 0.0]), np.array([2, 1, 0]), np.array([True, True, False]))


def test_json_has_the_boxes_of_coco_above_the_score_to_show():
    (only,) = TASK.to_json({}, prediction())["detections"]
    assert only == {"class": "c", "label": 2, "score": 0.75, "bbox": [10, 20, 30, 40]}


def test_the_picture_stands_beside_the_truth_where_it_is_known():
    image = np.full((64, 96, 3), 90, np.uint8)
    alone = TASK.draw({"image": image}, prediction())
    truth = {"image": image, "boxes": np.array([[10, 20, 40, 60.0]]), "labels": np.array([2])}
    both = TASK.draw(truth, prediction())
    assert both.shape[1] > 2 * alone.shape[1] and both.dtype == np.uint8
    bare = TASK.draw({"image": image}, dataclasses.replace(prediction(), valid=np.zeros(3, bool)))
    assert bare.shape == alone.shape and (bare != alone).any()


def test_a_summary_names_the_classes():
    results = {"ap": 0.5, "ap50": 0.75, "ap_per_class": np.array([0.25, np.nan, 0.75])}
    assert TASK.summary(results) == ["AP 0.500, AP50 0.750", "AP of each class: a 0.250, c 0.750"]
    many = DetectionTask(tiny(), protocols=("voc",))
    lines = many.summary({"voc_ap": 0.5, "voc_ap_per_class": np.arange(30) / 30})
    assert lines[1].startswith("AP of the weakest classes: 0 0.000, 1 0.033") and lines[1].count(",") == 4


def test_what_does_not_fit_is_told():
    with pytest.raises(ValueError, match="did you mean 'voc07'"):
        DetectionTask(tiny(), protocols=("voc7",))
    with pytest.raises(ValueError, match="2 class_names for a model of 3 classes"):
        DetectionTask(tiny(), class_names=("a", "b"))
    with pytest.raises(TypeError, match="detection got uint8 images"):
        TASK.init(jax.random.key(0), batch_of([1]) | {"image": np.zeros((1, 32, 48, 3), np.uint8)})


def test_an_evaluation_over_wide_and_tall_canvases_compiles_a_program_for_each():
    task = dataclasses.replace(Oracle(TASK.model), protocols=("coco", "voc"))
    parallel = make_parallel("jit", 2)
    evaluator = Evaluator(task, parallel)
    wide, tall = batch_of([2, 1, 0, 3], (32, 48)), batch_of([1, 4, 2, 0], (48, 32), valid=[True, True, True, False])
    further = {**wide, "index": wide["index"] + 4}, {**tall, "index": tall["index"] + 8}
    results = evaluator({"params": {}}, [parallel.place(batch) for batch in (wide, *further)])
    assert [results[name] for name in ("ap", "voc_ap")] == pytest.approx([1.0] * 2)
    assert evaluator._step._cache_size() == 2
