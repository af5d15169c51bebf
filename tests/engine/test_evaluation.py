"""Evaluation counts every sample once, over uneven batches, devices and carries."""

import jax
import numpy as np
import pytest

from jaxvision.engine.evaluation import Evaluator
from jaxvision.engine.parallel import make_parallel
from tests.engine.toys import RunningSum, Softmax, batch_of


def padded_batches(rows, size):
    """Batches of `size` rows over `rows` samples, the last one padded with repeats that are not valid."""
    data = batch_of(rows)
    for start in range(0, rows, size):
        place = np.arange(start, start + size)
        batch = {name: value[np.minimum(place, rows - 1)] for name, value in data.items()}
        batch["valid"] = place < rows
        yield batch


def variables_of(task, parallel):
    return parallel.create(lambda key: task.init(key, {"image": np.zeros((1, 6), np.float32)}), jax.random.key(1))


@pytest.mark.parametrize("kind,devices", [("pmap", 1), ("pmap", 8), ("shard_map", 8), ("jit", 8)])
def test_sums_and_rows_equal_numpy_over_uneven_batches(kind, devices):
    task, parallel = Softmax(), make_parallel(kind, devices)
    variables = variables_of(task, parallel)
    evaluator = Evaluator(task, parallel)
    results = evaluator(variables, (parallel.place(batch) for batch in padded_batches(37, 8)))
    data, params = batch_of(37), jax.device_get(variables["params"])
    want = (data["image"] @ params["head"]["kernel"] + params["head"]["bias"]).argmax(-1)
    assert results["accuracy"] == pytest.approx((want == data["label"]).mean())
    np.testing.assert_array_equal(results["order"], np.arange(37))
    np.testing.assert_array_equal(results["labels"], want)


@pytest.mark.parametrize("kind,devices", [("pmap", 1), ("pmap", 8), ("shard_map", 8), ("jit", 8)])
def test_predictions_of_some_samples_are_kept_as_examples(kind, devices):
    task, parallel = Softmax(), make_parallel(kind, devices)
    variables = variables_of(task, parallel)
    evaluator = Evaluator(task, parallel, examples=19)
    evaluator(variables, (parallel.place(batch) for batch in padded_batches(37, 16)))
    data, params = batch_of(37), jax.device_get(variables["params"])
    want = (data["image"] @ params["head"]["kernel"] + params["head"]["bias"]).argmax(-1)
    assert len({index for index, _ in evaluator.examples}) == len(evaluator.examples) == 19
    for index, prediction in evaluator.examples:
        assert prediction["label"] == want[index]


def test_more_batches_than_wait_on_the_device_are_added_exactly():
    task, parallel = Softmax(), make_parallel("pmap", 2)
    variables = variables_of(task, parallel)
    results = Evaluator(task, parallel)(variables, (parallel.place(b) for b in padded_batches(141, 2)))
    assert len(results["labels"]) == 141


@pytest.mark.parametrize("kind", ["pmap", "shard_map", "jit"])
def test_a_carry_goes_from_frame_to_frame(kind):
    task, parallel = RunningSum(), make_parallel(kind, 8)
    frames = [batch_of(8, seed=seed) for seed in range(4)]
    for number, frame in enumerate(frames):
        frame["index"] = frame["index"] + 8 * number
    results = Evaluator(task, parallel)(variables_of(task, parallel), [parallel.place(f) for f in frames])
    totals = np.cumsum([frame["image"][:, 0] for frame in frames], axis=0)
    np.testing.assert_array_equal(results["labels"], totals.astype(np.int32).reshape(-1))


def test_an_empty_split_is_an_error():
    task, parallel = Softmax(), make_parallel("pmap", 1)
    with pytest.raises(ValueError, match="the evaluation split is empty"):
        Evaluator(task, parallel)(variables_of(task, parallel), [])
