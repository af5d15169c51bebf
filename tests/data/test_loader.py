"""The order of samples: every one once per epoch, resumable at any step, equal for any number of processes."""

import hashlib
import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxvision.data.loader import Loader
from jaxvision.data.order import permutation


class Rows:
    """A source of n samples with keys that no task here knows."""

    name, class_names, num_classes, multi_label, image_shape = "rows", (), 0, False, (1, 1, 1)

    def __init__(self, n: int):
        self.n = n

    def __len__(self) -> int:
        return self.n

    def gather(self, indices):
        return {"row": indices.copy(), "boxes": np.repeat(indices[:, None, None], 4, axis=-1).astype(np.float32)}


def take(iterator, count):
    return list(itertools.islice(iterator, count))


def joined(batches, key="index"):
    return np.concatenate([batch[key] for batch in batches])


def same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_array_equal(a[key], b[key], strict=True)


sizes = st.tuples(st.integers(1, 200), st.integers(1, 40)).filter(lambda pair: pair[0] >= pair[1])


@settings(max_examples=50, deadline=None)
@given(sizes, st.integers(0, 2**64 - 1), st.integers(0, 5))
def test_every_index_appears_once_per_epoch_but_for_the_dropped_tail(size, seed, epoch):
    n, batch_size = size
    loader = Loader(Rows(n), batch_size, seed)
    steps = loader.steps_per_epoch
    batches = take(loader.train(epoch * steps), steps)
    indices = joined(batches)
    assert steps == n // batch_size and len(set(indices.tolist())) == len(indices) == steps * batch_size
    np.testing.assert_array_equal(indices, permutation(seed, epoch, n)[: steps * batch_size])
    np.testing.assert_array_equal(joined(batches, "position"), epoch * n + np.arange(steps * batch_size))
    assert joined(batches, "valid").all()


@settings(max_examples=50, deadline=None)
@given(sizes, st.integers(0, 100))
def test_a_run_resumed_at_any_step_sees_the_same_batches(size, step):
    n, batch_size = size
    loader = Loader(Rows(n), batch_size, seed=3)
    for resumed, uninterrupted in zip(take(loader.train(step), 3), take(loader.train(), step + 3)[step:], strict=True):
        same(resumed, uninterrupted)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 60), st.integers(1, 6), st.sampled_from([2, 4]))
def test_processes_together_see_the_batches_of_one(n, batches_of, processes):
    batch_size = batches_of * processes
    alone = Loader(Rows(n), batch_size)
    parts = [Loader(Rows(n), batch_size, 0, i, processes) for i in range(processes)]
    runs = [(alone.evaluate(), [part.evaluate() for part in parts])]
    if n >= batch_size:
        runs.append((alone.train(1), [part.train(1) for part in parts]))
    for whole, slices in runs:
        for batch, *own in itertools.islice(zip(whole, *slices, strict=True), 5):
            same(batch, {key: np.concatenate([part[key] for part in own]) for key in batch})


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 60), st.integers(1, 20), st.sampled_from([1, 2, 4]))
def test_evaluation_counts_every_sample_once_in_equal_steps(n, local, processes):
    parts = [Loader(Rows(n), local * processes, 0, i, processes) for i in range(processes)]
    batches = [list(part.evaluate()) for part in parts]
    assert {len(own) for own in batches} == {parts[0].evaluation_steps} == {-(-n // (local * processes))}
    flat = [batch for own in batches for batch in own]
    valid, index = joined(flat, "valid"), joined(flat)
    assert sorted(index[valid]) == list(range(n))
    assert (index[~valid] == n - 1).all()
    assert all(len(batch["index"]) == local for batch in flat)


def test_the_order_never_changes():
    """Recorded; a resumed run must not depend on the release of numpy."""
    digest = hashlib.sha256(
        b"".join(permutation(seed, epoch, 1000).astype("<i8").tobytes() for seed in (0, 7) for epoch in (0, 3))
    ).hexdigest()
    assert digest == "cf46c4e39373e9212e94f52df3218084cd39afc0d47cbfcf63e87f7bfa8674f5"
    assert permutation(0, 0, 8).tolist() == [0, 2, 1, 5, 4, 3, 6, 7]


def test_seeds_and_epochs_give_different_orders():
    orders = {tuple(permutation(seed, epoch, 30)) for seed in range(20) for epoch in range(20)}
    assert len(orders) == 400


def test_a_batch_has_the_contracts_keys_and_types():
    loader = Loader(Rows(10), 4)
    for batch in (next(loader.train()), next(loader.evaluate()), loader.example_batch()):
        assert {key: (value.dtype.name, value.shape) for key, value in batch.items()} == {
            "row": ("int64", (4,)),
            "boxes": ("float32", (4, 1, 4)),
            "valid": ("bool", (4,)),
            "index": ("int32", (4,)),
            "position": ("uint32", (4,)),
        }
        np.testing.assert_array_equal(batch["row"], batch["index"])


def test_batches_share_no_memory():
    first, second = take(Loader(Rows(10), 4).train(), 2)
    assert not any(np.shares_memory(first[key], second[key]) for key in first)


def test_an_example_batch_may_be_larger_than_the_data():
    assert Loader(Rows(3), 8, process_count=2, process_index=1).example_batch()["index"].tolist() == [0, 1, 2, 0]


def test_positions_wrap_after_two_to_the_32():
    loader = Loader(Rows(1000), 10)
    step = 2**32 // 1000 * 100
    first = take(loader.train(step), 1)[0]["position"][0]
    assert first.dtype == np.uint32 and first == 2**32 // 1000 * 1000
    assert take(loader.train(step + 100), 1)[0]["position"][0] == (2**32 // 1000 * 1000 + 1000) % 2**32


def test_seeking_far_costs_one_permutation():
    loader = Loader(Rows(1_281_167), 256)
    start = time.perf_counter()
    next(loader.train(10_000_000))
    assert time.perf_counter() - start < 3


@settings(max_examples=50, deadline=None)
@given(st.integers(24, 200), st.integers(2, 24), st.integers(2, 4), st.integers(0, 3))
def test_repeated_images_are_those_of_deits_sampler(n, batch_size, repeats, epoch):
    """Its rule: each image of the permutation `repeats` times over, and of that list as many as there are images."""
    repeats = min(repeats, batch_size)
    loader = Loader(Rows(n), batch_size, seed=5, repeats=repeats)
    steps = loader.steps_per_epoch
    assert steps == n // batch_size
    batches = take(loader.train(epoch * steps), steps)
    listed = np.repeat(permutation(5, epoch, n), repeats)
    for number, batch in enumerate(batches):
        run = listed[number * batch_size : (number + 1) * batch_size]
        np.testing.assert_array_equal(np.sort(batch["index"]), np.sort(run))
        np.testing.assert_array_equal(batch["row"], batch["index"])
    np.testing.assert_array_equal(joined(batches, "position"), epoch * n + np.arange(steps * batch_size))
    for resumed, uninterrupted in zip(take(loader.train(epoch * steps + 1), 2), batches[1:3], strict=False):
        same(resumed, uninterrupted)


@pytest.mark.parametrize("batch_size, repeats", [(12, 3), (16, 3), (8, 4), (6, 2)])
def test_copies_of_an_image_are_never_neighbours_that_are_mixed(batch_size, repeats):
    for batch in take(Loader(Rows(100), batch_size, repeats=repeats).train(), 8):
        pairs = batch["index"].reshape(-1, 2)
        assert (pairs[:, 0] != pairs[:, 1]).all()
        if batch_size % repeats == 0:
            assert (np.unique(batch["index"], return_counts=True)[1] == repeats).all()


def test_processes_share_the_copies_of_an_image():
    whole = next(Loader(Rows(100), 24, repeats=3).train(2))
    parts = [next(Loader(Rows(100), 24, 0, i, 4, 3).train(2)) for i in range(4)]
    np.testing.assert_array_equal(joined(parts), whole["index"])


def test_batch_sizes_that_cannot_work_are_refused():
    for arguments, message in (
        ({"batch_size": 4, "repeats": 5}, r"repeats is 5: expected 1\.\.4"),
        ({"batch_size": 4, "repeats": 0}, r"repeats is 0: expected 1\.\.4"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": 10, "process_count": 4}, "not divisible by 4 processes; the nearest that work: 8 and 12"),
        ({"batch_size": 3, "process_count": 4}, "the nearest that work: 4"),
        ({"batch_size": 4, "process_count": 2, "process_index": 2}, r"process_index is 2: expected 0\.\.1"),
    ):
        with pytest.raises(ValueError, match=message):
            Loader(Rows(10), **arguments)
    with pytest.raises(ValueError, match="holds no samples"):
        Loader(Rows(0), 1)
    large = Loader(Rows(10), 12)
    for ask in (lambda: large.steps_per_epoch, large.train):
        with pytest.raises(ValueError, match="batch_size 12 is larger than the 10 training samples of 'rows'"):
            ask()
    assert large.evaluation_steps == 1
    with pytest.raises(ValueError, match="start_step is -1"):
        Loader(Rows(10), 2).train(-1)
    with pytest.raises(ValueError, match="seed is -1"):
        next(Loader(Rows(10), 2, seed=-1).train())


def test_a_source_may_not_take_the_loaders_keys():
    source = Rows(4)
    source.gather = lambda indices: {"index": indices}
    with pytest.raises(ValueError, match=r"gathers \['index'\]"):
        Loader(source, 2).example_batch()
