"""Scores of label maps equal a numpy oracle over uneven batches and devices, and have the conventions that they say."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvision.engine.evaluation import Evaluator
from jaxvision.engine.parallel import make_parallel
from jaxvision.engine.task import Task
from jaxvision.segmentation.metrics import SegmentationScores, confusion, scores_of
from tests.conftest import strict

CLASSES, SIZE, IMAGES = 5, (6, 7), 21


@dataclasses.dataclass(frozen=True)
class Given(Task):
    """Predicts the label map that a batch holds."""

    def predict(self, variables, batch, ctx, carry=None):
        return {"labels": batch["labels"]}, carry

    def metrics(self):
        return {"segmentation": SegmentationScores(CLASSES)}


def maps():
    """Truth and prediction; class 3 is neither, class 4 only predicted, and 77 is no class."""
    rng = np.random.default_rng(0)
    truth = rng.choice(np.array([0, 1, 2, 255, 77], np.uint8), (IMAGES, *SIZE), p=[0.5, 0.2, 0.1, 0.15, 0.05])
    found = np.where(rng.random(truth.shape) < 0.6, truth, rng.choice([0, 1, 2, 4], truth.shape)).astype(np.uint8)
    return truth, np.where(found < CLASSES, found, 0).astype(np.uint8)


def oracle(truth, found):
    """Class by class, without a matrix."""
    known = truth < CLASSES
    truth, found = truth[known], found[known]
    rows = []
    for i in range(CLASSES):
        hit, true, said = ((truth == i) & (found == i)).sum(), (truth == i).sum(), (found == i).sum()
        either = true + said - hit
        rows.append([hit / x if x else np.nan for x in (either, true, said)] + [2 * hit / (true + said or np.nan)])
    iou, acc, precision, dice = np.array(rows).T
    share = np.array([(truth == i).mean() for i in range(CLASSES)])
    return {
        "aacc": (truth == found).mean(),
        "miou": np.nanmean(iou),
        "macc": np.nanmean(acc),
        "mdice": np.nanmean(dice),
        "mfscore": np.nanmean(dice),
        "mprecision": np.nanmean(precision),
        "fwiou": np.nansum(share * iou),
        "iou_per_class": iou,
        "acc_per_class": acc,
        "dice_per_class": dice,
        "precision_per_class": precision,
    }


@pytest.mark.parametrize("kind,devices", [("pmap", 1), ("pmap", 2), ("pmap", 8), ("jit", 8)])
def test_scores_equal_numpy_over_uneven_batches_and_devices(kind, devices):
    truth, found = maps()
    parallel = make_parallel(kind, devices)

    def batches():
        for start in range(0, IMAGES, 8):
            place = np.arange(start, start + 8)
            own = np.minimum(place, IMAGES - 1)
            yield parallel.place(
                {
                    "labels": found[own],
                    "semantic": truth[own],
                    "valid": place < IMAGES,
                    "index": own.astype(np.int32),
                }
            )

    with strict():
        results = Evaluator(Given(), parallel)({}, batches())
    for name, value in oracle(truth, found).items():
        np.testing.assert_allclose(results[name], value, rtol=1e-12, err_msg=name)
    assert np.isnan(results["iou_per_class"][3]) and results["iou_per_class"][4] == 0
    assert results["confusion_matrix"].dtype == np.int64
    assert results["confusion_matrix"].sum() == (truth < CLASSES).sum()


def test_nothing_decides_where_all_pixels_are_ignored():
    nothing = jnp.full((1, 2, 2), 255, jnp.int32)
    with strict():
        matrix = np.asarray(confusion(nothing, jnp.zeros_like(nothing), 3, jnp.ones(1, bool)))
    assert matrix.sum() == 0
    assert all(np.isnan(value).all() for name, value in scores_of(matrix).items() if name != "confusion_matrix")


def test_a_class_that_is_never_predicted_has_the_score_zero():
    scores = scores_of(np.array([[4, 0], [2, 0]]), beta=2.0)
    assert scores["fscore_per_class"][1] == scores["dice_per_class"][1] == scores["iou_per_class"][1] == 0
    assert scores["fscore_per_class"][0] == pytest.approx(5 * (4 / 6) / (4 * (4 / 6) + 1))


def test_counts_beyond_the_whole_numbers_of_float32_are_exact():
    many = np.array([[2**24 + 1, 0], [1, 2**40 + 1]], np.int64)
    assert scores_of(many)["acc_per_class"][0] == 1.0 and scores_of(many)["aacc"] < 1.0


def test_batches_add_up_to_the_whole():
    truth, found = (jnp.asarray(x.astype(np.int32)) for x in maps())
    count = jax.jit(lambda t, f: confusion(t, f, CLASSES))
    with strict():
        parts = count(truth[:10], found[:10]) + count(truth[10:20], found[10:20])
        np.testing.assert_array_equal(parts, count(truth[:20], found[:20]))
