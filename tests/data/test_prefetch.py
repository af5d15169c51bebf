"""The input thread: order, errors, waiting time, and that none is left behind."""

import gc
import itertools
import subprocess
import sys
import threading
import time
import traceback

import jax
import numpy as np
import pytest

from jaxvision.data.loader import Loader
from jaxvision.data.prefetch import Prefetch, prefetch
from jaxvision.data.sources import Synthetic


def input_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "jaxvision-prefetch"]


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    assert not input_threads()


@pytest.mark.parametrize("size", [0, 1, 2, 5])
def test_results_come_in_order_and_end(size):
    with prefetch(iter(range(20)), lambda x: x * x, size) as batches:
        assert list(batches) == [x * x for x in range(20)]
        assert list(batches) == []


def test_work_is_done_ahead_and_only_so_far():
    made = []

    def numbers():
        for i in itertools.count():
            made.append(i)
            yield i

    with prefetch(numbers(), lambda x: x, 3) as batches:
        assert next(batches) == 0
        deadline = time.monotonic() + 5
        while len(made) < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
        assert made == [0, 1, 2, 3]


@pytest.mark.parametrize("size", [0, 2])
@pytest.mark.parametrize("where", ["iterator", "place"])
def test_errors_come_after_the_results_before_them_with_their_traceback(size, where):
    def broken_record(i):
        if i == 3:
            raise OSError("record 3 is damaged")
        return i

    if where == "iterator":
        batches = prefetch(map(broken_record, range(9)), lambda x: x, size)
    else:
        batches = prefetch(iter(range(9)), broken_record, size)
    with batches:
        assert [next(batches) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(OSError, match="record 3 is damaged") as error:
            next(batches)
        assert "broken_record" in "".join(traceback.format_tb(error.value.__traceback__))
        if size:
            with pytest.raises(OSError, match="record 3"):
                next(batches)


def test_a_stop_iteration_of_place_does_not_pass_for_the_end():
    def place(_):
        raise StopIteration

    with prefetch(iter(range(3)), place, 2) as batches, pytest.raises(RuntimeError, match="StopIteration"):
        list(batches)


def test_closing_ends_the_thread_and_the_iterator():
    ended = threading.Event()

    def endless():
        try:
            yield from itertools.count()
        finally:
            ended.set()

    for size in (0, 2):
        ended.clear()
        batches = prefetch(endless(), lambda x: x, size)
        next(batches)
        batches.close()
        batches.close()
        assert ended.is_set() and not input_threads()
        with pytest.raises(RuntimeError, match="closed"):
            next(batches)


def test_an_error_in_the_consumer_closes():
    with pytest.raises(KeyError), prefetch(itertools.count(), lambda x: x) as batches:
        next(batches)
        raise KeyError
    assert not input_threads()


def test_a_dropped_iterator_closes_itself():
    batches = prefetch(itertools.count(), lambda x: x)
    next(batches)
    assert input_threads()
    del batches
    gc.collect()
    assert not input_threads()


def test_waiting_is_accounted():
    def slow():
        for i in range(3):
            time.sleep(0.05)
            yield i

    with prefetch(slow(), lambda x: x, 2) as batches:
        list(batches)
        assert batches.wait_seconds > 0.1
    with prefetch(iter(range(3)), lambda x: x, 3) as batches:
        time.sleep(0.3)
        list(batches)
        assert batches.wait_seconds < 0.1


def test_a_negative_size_is_refused():
    with pytest.raises(ValueError, match="prefetch size is -1"):
        Prefetch(iter(()), lambda x: x, -1)


@pytest.mark.parametrize("ending", ["pass", "raise SystemExit(0)"])
def test_python_exits_with_an_open_iterator(ending):
    code = f"""
import itertools, jax, numpy as np
from jaxvision.data.prefetch import prefetch
batches = prefetch((np.full(1 << 16, i) for i in itertools.count()), jax.device_put)
next(batches)
{ending}
"""
    result = subprocess.run([sys.executable, "-c", code], timeout=60, capture_output=True, text=True)
    assert result.returncode == 0 and not result.stderr, result.stderr


def test_placed_batches_keep_their_values_while_later_ones_are_made():
    source = Synthetic(64, split="train", image_size=(32, 32), channels=3)
    loader = Loader(source, 8)
    with prefetch(loader.train(), jax.device_put, 2) as batches:
        placed = [next(batches) for _ in range(12)]
    for on_device, expected in zip(placed, loader.train(), strict=False):
        for key in expected:
            np.testing.assert_array_equal(np.asarray(on_device[key]), expected[key])
