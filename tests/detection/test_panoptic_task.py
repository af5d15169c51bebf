"""The panoptic task: an evaluation of the truth on one and on many devices, JSON and pictures."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.detection.panoptic_task import PanopticTask
from jaxvision.engine.evaluation import Evaluator
from jaxvision.engine.parallel import make_parallel
from jaxvision.engine.task import Context
from jaxvision.structures import Detections, PanopticSegments
from tests.conftest import strict
from tests.detection.made import tiny
from tests.detection.test_panoptic_fpn import MODEL, SEGMENTS, panoptic_batch

pytestmark = pytest.mark.usefixtures("unoptimized")
COUNTS = [2, 0, 1, 3, 0, 4, 2, 0, 1, 4, 0, 0, 2, 0, 3, 1]
TASK = PanopticTask(MODEL, class_names=("a", "b", "grass"))


@dataclasses.dataclass(frozen=True)
class Oracle(PanopticTask):
    """Says the truth: things first, as they are numbered, then the stuff."""

    def predict(self, variables, batch, ctx, carry=None):
        targets = self.truth_of(batch)["targets"]
        masks = jnp.ones((*targets.labels.shape, 8, 8), jnp.float32)
        scores = 0.9 * targets.valid.astype(jnp.float32)
        things = Detections(2 * targets.boxes, scores, targets.labels, targets.valid, masks)
        labels = jnp.concatenate([targets.labels, jnp.full_like(targets.labels[:, :1], 2)], axis=1)
        real = jnp.concatenate([targets.valid, jnp.ones_like(targets.valid[:, :1])], axis=1)
        panoptic = jnp.where(batch["panoptic"] == SEGMENTS, labels.shape[1], batch["panoptic"])
        geometry = {name: jnp.asarray(batch[name]) for name in ("to_original", "original_size")}
        return PanopticSegments(things, panoptic, labels, real, **geometry), carry


ORACLE = Oracle(MODEL, max_instances=4, class_names=TASK.class_names)


def test_an_evaluation_of_the_truth_reaches_one_on_devices_with_padding():
    batch = panoptic_batch(COUNTS, valid=np.arange(16) < 11)
    parallel = make_parallel("pmap", 8)
    evaluator = Evaluator(ORACLE, parallel, examples=1)
    results = evaluator({"params": {}}, [parallel.place(batch), parallel.place(batch)])
    assert [results[name] for name in ("pq", "pq_things", "pq_stuff", "ap")] == pytest.approx([1.0] * 4)
    assert results["mask_ap50"] > 0.5 and len(results["ap_per_class"]) == 2
    assert set(ORACLE.plots(results)) == {"precision_recall.png", "mask_precision_recall.png"}
    first, second, *_ = ORACLE.summary(results)
    assert first.startswith("PQ 1.000, SQ 1.000") and second == "PQ of each class: a 1.000, b 1.000, grass 1.000"
    ((_, example),) = evaluator.examples
    told = ORACLE.to_json({"original_size": np.array([64, 96])}, example)
    things, (stuff,) = (told["segments_info"][:-1], told["segments_info"][-1:])
    assert [thing["isthing"] for thing in things] == [1] * len(told["detections"]) == [1, 1]
    assert stuff["class"] == "grass" and stuff["isthing"] == 0 and "score" not in stuff
    assert stuff["area"] == 4 * (batch["panoptic"][0] == SEGMENTS).sum()
    box = 2 * np.asarray(ORACLE.truth_of(batch)["targets"].boxes[0, 0])
    assert things[0]["bbox"] == [*box[:2], *(box[2:] - box[:2])] and things[0]["segmentation"]["size"] == [64, 96]
    image = np.full((64, 96, 3), 90, np.uint8)
    truth = {"panoptic": np.repeat(np.repeat(batch["panoptic"][0], 2, 0), 2, 1)}
    truth["segment_labels"] = batch["segment_labels"][0]
    alone, both = ORACLE.draw({"image": image}, example), ORACLE.draw({"image": image, **truth}, example)
    assert both.shape[1] > 2 * alone.shape[1] and both.dtype == np.uint8
    middle = both.shape[1] // 2
    found, true = both[60:300, 8 : middle - 8], both[60:300, middle + 8 : -8]
    assert (np.median(found, (0, 1)) == np.median(true, (0, 1))).all()


def test_maps_are_of_the_size_of_the_canvas():
    """Also where its sides are no multiples of the stride."""
    batch = panoptic_batch([1, 1])
    batch["image"], batch["panoptic"] = batch["image"][:, :30, :45], batch["panoptic"][:, :30, :45]

    def predict(batch):
        found, _ = TASK.predict(TASK.init(jax.random.key(0), batch), batch, Context())
        return found, TASK.metrics()["pq"].update(found, batch)

    with strict():
        found, sums = jax.eval_shape(predict, batch)
    assert found.panoptic.shape == (2, 30, 45) and found.panoptic.dtype == jnp.int32
    assert sums["missed"].shape == (3,) and found.original_size.shape == (2, 2)


def test_what_does_not_fit_is_told():
    with pytest.raises(ValueError, match="needs a model of things and stuff, such as 'panoptic_fpn', not RetinaNet"):
        PanopticTask(tiny())
    with pytest.raises(ValueError, match="did you mean 'coco_masks'"):
        PanopticTask(MODEL, protocols=("coco_mask",))
